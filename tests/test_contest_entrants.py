"""Who takes part in a contest: every method, once all that each of them takes is there; and nobody before."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import PRESETS, clips
from starring.config import Recipe
from starring.data.motion import Motion
from starring.data.prompts import load_suite
from starring.data.subject import Subject
from starring.data.video import read_video
from starring.errors import StarringError
from starring.evaluate import contest
from starring.evaluate.entrants import Backbones, Motions, Terms, require_ready
from starring.evaluate.moves import motions_of
from starring.evaluate.wishes import usual_eyes
from starring.methods import METHODS, recipe, recipe_for, usual_backbone
from starring.metrics.suite import Judge, load_judge
from starring.miniature.captions import SCENE_WORDS
from starring.miniature.shapes import CLASSES
from starring.miniature.showing import CLIPS, motion_of
from starring.run import Run
from tests import moving, pairing
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_clip, tiny_eyes

# A vocabulary of bytes makes long prompts of short ones.
pytestmark = pytest.mark.filterwarnings("ignore:The prompt '")
SAMPLE = {"steps": 1, "negative": ""}


class Centre:
    """Finds everything in the middle."""

    id = "centre/1"

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        found: list[Tensor] = []
        for image in images:
            mask = torch.zeros(image.height, image.width)
            mask[image.height // 4 : -image.height // 4, image.width // 4 : -image.width // 4] = 1
            found.append(mask)
        return found


@pytest.fixture(scope="module")
def judge(home: Path) -> Judge:
    return load_judge(str(tiny_eyes(home / "eyes")))


@pytest.fixture(scope="module")
def once(home: Path, dit: Backbone) -> Run:
    return pairing.learned(home, dit)


@pytest.fixture
def worlds(tiny: Backbone, dit: Backbone, once: Run, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Backbone]:
    """A backbone by each name that a method asks for in the bundled world, and what was learned on one of them."""
    mine = replace(PRESETS["miniature-dit"], learned={"customvideox": str(once.folder)})
    monkeypatch.setitem(PRESETS, dit.name, mine)
    names = {usual_backbone(m, True): dit if usual_backbone(m, True).endswith("dit") else tiny for m in METHODS}
    return {**names, **{each.origin["name_or_path"]: each for each in (tiny, dit)}}


def small(home: Path, tiny: Backbone, dit: Backbone) -> dict[str, Recipe]:
    """Everybody's recipe in few steps."""
    eye = home / "clip"
    if not eye.is_dir():
        tiny_clip(eye)
    personal = recipe("personalvideo")
    stages = [replace(s, backbone="", train=replace(s.train, steps=1, batch=1)) for s in personal.stages]
    options, data = {**personal.options, "eyes": "miniature"}, replace(personal.data, size=32, variants=4)
    rewarded = replace(personal, stages=tuple(stages), options=options, data=data)
    train: dict[str, Any] = {"steps": 1, "batch": 1}

    def short(name: str) -> Recipe:
        whole = recipe_for(name, tiny)
        return replace(whole, stages=tuple(replace(s, train=replace(s.train, **train)) for s in whole.stages))

    return {
        "vcd": short("vcd"), "bridgeiv": short("bridgeiv"), "personalvideo": rewarded,
        "dualreal": moving.small(dit, eye, steps=2, warmup=1), "customvideox": pairing.small(dit),
    }  # fmt: skip


@pytest.mark.slow
def test_every_registered_method_takes_part(
    home: Path, tmp_path: Path, tiny: Backbone, dit: Backbone, judge: Judge, worlds: Mapping[str, Backbone]
) -> None:
    found = contest(
        list(METHODS), "miniature", limit=2, load=lambda origin: worlds[origin["name_or_path"]], sample=SAMPLE,
        recipes=small(home, tiny, dit), judge=judge, segmenter=Centre(), folder=tmp_path / "board",
    )  # fmt: skip
    runs = {path.name for path in (tmp_path / "board" / "runs").iterdir()}
    assert runs == {f"{who}-{method}" for who in ("dog-160", "cat-30") for method in METHODS}
    for method in METHODS:
        own = [shot for shot in found.shots if shot.customized and shot.run.endswith(method)]
        assert len({shot.film for shot in own}) == len(own) == 2 * 4
    told = Run.open(tmp_path / "board" / "runs" / "cat-30-dualreal").record.motion
    assert told is not None
    assert len(told.captions) == CLIPS
    assert " dog jumping " in told.captions[0]
    assert any("dualreal learned a motion together" in note and "cat-30" in note for note in found.notes)
    rank = [each.method for each in found.board.standings if each.metric == "clip_t"]
    assert rank[:5] == list(METHODS)
    said = json.loads((tmp_path / "board" / "contest.json").read_text())
    assert said["methods"] == list(METHODS)


def asked(folder: Path, methods: list[str], **more: Any) -> None:
    contest(methods, **{"suite": "miniature", "limit": 1, "segmenter": Centre(), "folder": folder / "x", **more})


def test_nobody_learns_before_everybody_can(
    tmp_path: Path, tiny: Backbone, worlds: Mapping[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(origin: Mapping[str, str]) -> Backbone:
        if origin["name_or_path"] == "miniature-dit":
            raise StarringError("The bundled weights are not in dit. Build them.")
        return worlds[origin["name_or_path"]]

    with pytest.raises(StarringError, match=r"^Nothing was learned.* vcd could\. dualreal: The bundled weights"):
        asked(tmp_path, ["vcd", "dualreal"], load=lacking)
    assert not (tmp_path / "x" / "runs").exists()
    with pytest.raises(StarringError, match=r"vcd could\. dualreal: .*customvideox: ") as both:
        asked(tmp_path, ["vcd", "dualreal", "customvideox"], backbone=tiny)
    assert "bridgeiv" not in str(both.value)
    assert not (tmp_path / "x" / "runs").exists()
    monkeypatch.setitem(PRESETS, worlds["miniature-dit"].name, PRESETS["miniature"])
    with pytest.raises(StarringError, match=r"customvideox: Nothing that customvideox learned ships"):
        asked(tmp_path, ["vcd", "customvideox"], load=lambda origin: worlds[origin["name_or_path"]])
    assert not (tmp_path / "x" / "runs").exists()


def test_a_motion_is_asked_for_before_anybody_learns(
    home: Path, tmp_path: Path, tiny: Backbone, dit: Backbone, worlds: Mapping[str, Backbone]
) -> None:
    subjects = [Subject.from_folder(album(tmp_path / name, 2), "dog", name) for name in ("rex", "tom")]
    own = {"recipes": small(home, tiny, dit), "backbone": dit, "suite": "vcd", "subjects": subjects, "limit": 2}
    with pytest.raises(StarringError, match=r"dualreal: it learns a motion .* suite vcd shows none.*--motion"):
        asked(tmp_path, ["dualreal"], **own)
    moving.clips(tmp_path / "each" / "rex")
    with pytest.raises(StarringError, match="has clips for rex, and none for tom"):
        asked(tmp_path, ["dualreal"], motion=tmp_path / "each", **own)
    moving.clip(tmp_path / "short" / "0.mp4", frames=3)
    (tmp_path / "short" / "prompts.txt").write_text("a man running\n")
    with pytest.raises(StarringError, match="has 3 frames"):
        asked(tmp_path, ["dualreal"], motion=tmp_path / "short", **own)
    assert not (tmp_path / "x" / "runs").exists()


def test_clips_for_each_subject_or_for_all(tmp_path: Path, dit: Backbone) -> None:
    subjects = [Subject.from_folder(album(tmp_path / name, 2), "dog", name) for name in ("rex", "tom")]
    shared = Motions(load_suite("vcd"), subjects, moving.clips(tmp_path / "running"), tmp_path / "none")
    assert [shared.of(subject, dit.sample).name for subject in subjects] == ["running", "running"]
    for name in ("rex", "tom"):
        moving.clips(tmp_path / "each" / name, count=2)
    each = Motions(load_suite("vcd"), subjects, tmp_path / "each", tmp_path / "none")
    assert [each.of(subject, dit.sample).name for subject in subjects] == ["rex", "tom"]


def test_the_bundled_worlds_clips(tmp_path: Path) -> None:
    place = clips(tmp_path / "c", "cat", 30, "jumping", 9, 8)
    shown = Motion.read(place)
    others = [kind for kind in CLASSES if kind != "cat"]
    assert len(shown.captions) == CLIPS
    for caption, kind in zip(shown.captions, itertools.cycle(others), strict=False):
        said, where = caption.split(" jumping ")
        assert said.split()[-1] == kind, "none is of the subject's class"
        assert where.startswith(tuple(wordings[0] for wordings in SCENE_WORDS.values()))
    assert motions_of(shown.captions, ["cat", *others]) == ["jumping"]
    films = [read_video(path).pixels for path in shown.paths]
    assert {film.shape for film in films} == {(1, 3, 9, 64, 64)}
    assert all((film - film[:, :, :1]).abs().amax() > 0.5 for film in films), "somebody moves"
    before = [path.read_bytes() for path in shown.paths]
    assert clips(tmp_path / "c", "cat", 30, "jumping", 9, 8) == place
    other = Motion.read(clips(tmp_path / "d", "cat", 30, "jumping", 9, 8))
    assert [path.read_bytes() for path in other.paths] == before
    assert {motion_of(role.motion) for role in load_suite("miniature").roles} == {"right", "jumping", "turning", "left"}
    with pytest.raises(StarringError, match="Did you mean 'jumping'"):
        clips(tmp_path / "e", "cat", 30, "jumpin", 9, 8)
    assert not (tmp_path / "e").exists()


def test_runs_that_are_finished_need_nothing(tmp_path: Path, tiny: Backbone) -> None:
    def nobody(_: Mapping[str, str]) -> Backbone:
        raise AssertionError("nothing is loaded")

    terms = Terms(
        runs=tmp_path, own=Backbones(None, nobody, True),
        motions=Motions(load_suite("miniature"), [], None, tmp_path / "clips"),
    )  # fmt: skip
    from tests.test_evaluate import finished

    subject = Subject.of([Image.fromarray(np.zeros((8, 8, 3), np.uint8))], class_word="dog", name="rex")
    finished(tmp_path, tiny)
    require_ready(terms, ["vcd"], [subject])
    with pytest.raises(AssertionError, match="nothing is loaded"):
        require_ready(terms, ["bridgeiv"], [subject])


def test_who_judges_where_nobody_was_brought() -> None:
    """In the bundled world an encoder that gave no reward; elsewhere faces, where a run was rewarded by them."""
    world = {"identity": "miniature-score", "segmenter": "miniature"}
    assert usual_eyes([recipe("vcd")], "miniature") == world
    assert usual_eyes([recipe("vcd")], "paper") == {}
    personal = recipe("personalvideo")
    faces = replace(personal, options={**personal.options, "eyes": "yunet+r100.pth"})
    assert usual_eyes([recipe("vcd"), faces], "paper") == {"faces": "yunet+sface"}
