"""Component tables of a learned motion: it is the one that is filmed, and the clips are what films are held against."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.ablate import ablate, rows_of
from starring.ablate.rows import distinct
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Data, Sample
from starring.data.motion import Motion
from starring.data.prompts import suite
from starring.data.subject import Subject
from starring.data.video import write_video
from starring.errors import StarringError
from starring.evaluate.moves import clips_of, motions_of, prompts_of
from starring.metrics.suite import Judge, load_judge
from tests.data.pictures import album
from tests.moving import clips, small
from tests.perception.tiny_eyes import tiny_eyes
from tests.tiny import tiny_cogvideox


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def square(way: str, frames: int = 9, size: int = 32, step: int = 2) -> Tensor:
    """A bright textured square over a still dark ground, ``3 f s s`` in [-1, 1], that goes right, left or down."""
    generator = torch.Generator().manual_seed(1)
    film = torch.rand(3, 1, size, size, generator=generator).repeat(1, frames, 1, 1) * 0.2 - 1
    patch = torch.rand(3, 8, 8, generator=generator) * 0.3 + 0.7
    for i in range(frames):
        done = step * i
        top, left = {"right": (12, 4 + done), "left": (12, 4 + step * frames - done), "down": (4 + done, 12)}[way]
        film[:, i, top : top + 8, left : left + 8] = patch
    return film


class Bright:
    """Finds what is brighter than the rest."""

    id = "bright"

    def segment(self, images: list[Image.Image], text: str) -> list[torch.Tensor]:
        return [torch.from_numpy(np.asarray(image.convert("L")) > 150) for image in images]


@pytest.mark.parametrize(
    ("captions", "mover", "said"),
    [
        (["a person is playing guitar"] * 3, "", ["playing guitar"]),
        (["a dog juggling", "A dog juggling"], "", ["juggling"]),
        (["a dog moving in a circle in the desert", "a cat moving in a circle in the city"], "",
         ["moving in a circle"]),
        (["a man running", "a woman jumping"], "", ["running", "jumping"]),
        (["a machine spinning fast"], "machine", ["spinning fast"]),
        (["an old man rides a horse"], "", ["rides a horse"]),
    ],
)  # fmt: skip
def test_what_the_clips_show(captions: list[str], mover: str, said: list[str]) -> None:
    assert motions_of(captions, ["dog"], mover) == said


def test_captions_that_do_not_say_who_moves() -> None:
    with pytest.raises(StarringError, match=r"'some juggling' does not say who moves and then how.*--mover.*--suite"):
        motions_of(["some juggling"], ["dog"])
    with pytest.raises(StarringError, match=r"'a dog juggling' does not say a robot"):
        motions_of(["a dog juggling"], ["dog"], "robot")
    with pytest.raises(StarringError, match="who moves and then how"):
        motions_of(["a juggling dog"], ["dog"])


def test_prompts_name_the_learned_motion_in_the_suite_s_places() -> None:
    found = prompts_of(["a person is juggling"], ["dog"], "dualreal")
    usual = suite("dualreal", "dog")
    assert len(found) == len(set(found)) == len(usual) == 50
    assert all(prompt.startswith("a <*> {class_word} juggling ") for prompt in found)
    places = [prompt.removeprefix("a <*> {class_word} juggling ") for prompt in found]
    assert all(prompt.endswith(place) for prompt, place in zip(usual, places, strict=True))
    two = prompts_of(["a man running", "a man jumping"], ["dog"], "dualreal-miniature")
    assert ["running" in prompt for prompt in two] == [True, False] * 3
    assert len(two) == len(set(two)) == 6


def test_films_are_held_against_the_clips(tmp_path: Path, judge: Judge) -> None:
    """A square that goes the clip's way, another way, or half as fast; the size of the clip does not matter."""
    home = tmp_path / "clip"
    home.mkdir()
    write_video(home / "0.mp4", square("right", size=48)[None], fps=8, crf=4)
    motion = Motion.read(home, "a square sliding")
    sample = Sample(frames=9, height=48, width=48, fps=8)
    seeing = Judge(eyes=replace(judge.eyes, segmenter=Bright()), protocol="starring")  # pyright: ignore
    photograph = [Image.new("RGB", (32, 32), "white")]
    known = seeing.references(photograph, clips_of(motion, Data(), sample), "square")
    assert known.digest not in {seeing.references(photograph).digest,
                                seeing.references(photograph, known.clips, "disc").digest}  # fmt: skip
    scores = {
        name: seeing.score(film, "a square", known, class_word="square")
        for name, film in {
            "right": square("right", size=48), "left": square("left", size=48), "down": square("down", size=48),
            "slow": square("right", size=48, step=1), "nobody": torch.full((3, 9, 48, 48), -0.9),
        }.items()
    }  # fmt: skip
    for key in ("course", "trajectory"):
        value = {name: each[key].value for name, each in scores.items()}
        assert value["right"] > 0.95
        assert value["slow"] > 0.95
        assert value["left"] < -0.9
        assert abs(value["down"]) < 0.3
        assert value["nobody"] == pytest.approx(0, abs=0.1)
    share = {name: each["motion_share"].value for name, each in scores.items()}
    assert share["right"] == pytest.approx(1, abs=0.1)
    assert share["slow"] == pytest.approx(0.5, abs=0.15)
    plain = seeing.score(square("right"), "a square", seeing.references(photograph), class_word="square")
    assert not {"course", "trajectory", "motion_share"} & plain.keys()


def test_rows_that_are_the_same_on_a_backbone_are_learned_once(dit: Backbone, tmp_path: Path) -> None:
    """Of two blocks, two groups are one for each block, and as many as there can be."""
    rows, left = distinct("dualreal", rows_of("dualreal"), dit)
    assert [row.name for row in rows] == [
        "without joint adaptation", "without controller", "without groups (n = 1)", "DualReal"
    ]  # fmt: skip
    assert left == {"n = 2": "DualReal", "n = blocks": "DualReal"}
    four = load_backbone(tiny_cogvideox(tmp_path / "four", blocks=4), device="cpu")
    rows, left = distinct("dualreal", rows_of("dualreal"), four)
    assert ([row.name for row in rows][-2:], left) == (["n = 2", "DualReal"], {"n = blocks": "DualReal"})


def test_a_row_that_cannot_be_learned_is_told_before_the_first(tmp_path: Path, judge: Judge) -> None:
    odd = load_backbone(tiny_cogvideox(tmp_path / "odd", blocks=3), device="cpu")
    recipe = small(odd, tmp_path / "nowhere")
    subject, motion = Subject.from_folder(album(tmp_path / "rex", 2), "dog"), Motion.read(clips(tmp_path / "run", 1))
    with pytest.raises(StarringError, match=r"2 groups do not divide 3 blocks\. Choose one of 1, 3"):
        ablate("dualreal", [subject], odd, recipe, motion=motion, judge=judge, folder=tmp_path / "table")
    assert not (tmp_path / "table").exists()


@pytest.mark.filterwarnings("ignore:The prompt .* has")  # the tiny encoder reads 16 tokens
@pytest.mark.slow
def test_a_motion_that_no_suite_names_is_filmed_and_scored(dit: Backbone, tmp_path: Path, judge: Judge) -> None:
    eye = tiny_eyes(tmp_path / "eyes") / "clip"
    home = clips(tmp_path / "juggling", 2)
    (home / "prompts.txt").write_text("a person is juggling\n" * 2)
    subject = Subject.from_folder(album(tmp_path / "rex", 2), "dog")
    rows = [row for row in rows_of("dualreal") if row.name in ("without controller", "DualReal")]
    found = ablate(
        "dualreal", [subject], dit, small(dit, eye, steps=1, checkpoint_every=1, warmup=0), motion=Motion.read(home),
        rows=rows, sample={"steps": 1}, judge=judge, mover="person", segmenter=Bright(), folder=tmp_path / "table",
    )  # fmt: skip
    prompts = {shot.prompt for shots in found.shots.values() for shot in shots}
    assert len(prompts) == 50
    assert all(prompt.startswith("a <*> dog juggling ") for prompt in prompts)
    for scores in json.loads(found.results.read_text())["estimates"].values():
        assert {"course", "trajectory", "motion_top", "motion_share"} <= scores.keys()
    assert "Motion of clips" in found.markdown.read_text()
