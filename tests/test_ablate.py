"""Component tables: learned once, filmed row by row, scored, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starring.ablate import Ablation, Progress, Row, ablate, rows_of
from starring.ablate.told import mean
from starring.backbones.base import Backbone
from starring.config import Data, Recipe, Reward
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.evaluate.shots import Shot
from starring.generate import generate
from starring.methods import METHODS, recipe
from starring.methods.bridgeiv import BridgeIVConfig
from starring.metrics.catalogue import METRICS, short
from starring.metrics.statistics import Score
from starring.metrics.suite import Judge, load_judge
from starring.run import Run
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_eyes
from tests.reward.middle import Middle

PROMPTS = ["a <*> dog on the beach", "a <*> dog running in the snow"]
SIZES = {"rex": (96, 96), "fido": (80, 96)}
"""Of the photographs, so that no subject's are another's."""
REWARD = Reward(iterations=1)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    home = tmp_path_factory.mktemp("albums")
    return [Subject.from_folder(album(home / name, 2, size), "dog") for name, size in SIZES.items()]


def quick() -> Recipe:
    """BridgeIV's recipe in one step a stage."""
    whole = recipe("bridgeiv-miniature")
    stages = tuple(replace(s, train=replace(s.train, steps=1, batch=1), class_images=1) for s in whole.stages)
    return replace(whole, options={"rank": 2}, stages=stages, data=replace(whole.data, size=32, variants=2))


def rows() -> list[Row]:
    """BridgeIV's own, with a short reward."""
    return [replace(row, reward=REWARD if row.reward else None) for row in rows_of("bridgeiv")]


def table(backbone: Backbone, subjects: list[Subject], judge: Judge, folder: Path, **more: Any) -> Ablation:
    options: dict[str, Any] = {"rows": rows(), "suite": PROMPTS, "seeds": (0,), "sample": {"steps": 2}, **more}
    return ablate(
        "bridgeiv", subjects, backbone, quick(), judge=judge, segmenter=Middle(), encoder=judge.clip, folder=folder,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, tiny: Backbone, subjects: list[Subject], judge: Judge
) -> tuple[Ablation, list[Progress]]:
    told: list[Progress] = []
    return table(tiny, subjects, judge, tmp_path_factory.mktemp("table"), on_progress=told.append), told


def test_the_rows_are_those_of_table_2() -> None:
    found = [(r.options["structure"], r.options["texture"], r.reward is not None) for r in rows_of("bridgeiv")]
    on, off = True, False
    assert found == [(off, off, off), (on, off, off), (off, on, off), (on, on, off), (on, on, on)]


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.ablation])
def test_declared_rows_change_options_that_exist(name: str, tiny: Backbone) -> None:
    for row in rows_of(name):
        assert set(row.options) <= set(METHODS[name].config_type.__dataclass_fields__)
        replace(tiny.sample, **row.sample)
        replace(Data(), **row.data)


@pytest.mark.slow
def test_every_subject_is_learned_once_and_filmed_in_every_row(done: tuple[Ablation, list[Progress]]) -> None:
    found, told = done
    assert sorted(p.name for p in (found.folder / "runs").iterdir()) == ["fido-bridgeiv", "rex-bridgeiv"]
    assert list(found.shots) == [row.name for row in rows()]
    for shots in found.shots.values():
        assert [(s.run, s.prompt) for s in shots] == [
            (f"{name}-bridgeiv", prompt) for name in ("rex", "fido") for prompt in PROMPTS
        ]
    assert len({shot.film for shots in found.shots.values() for shot in shots}) == 20
    film = [p for p in told if p.part == "film"]
    assert (film[-1].done, film[-1].total) == (20, 20)
    assert all(sooner.done <= later.done for sooner, later in pairwise(film))
    assert {p.part for p in told} == {"learn", "film"}


@pytest.mark.slow
def test_means_errors_and_gains_are_those_of_the_subjects(done: tuple[Ablation, list[Progress]]) -> None:
    """Films of one subject depend on each other, so the error is that of two subjects' means, not of four films."""
    found, _ = done
    base = np.array([s.scores["dino_i"].value for s in found.shots["TI + DreamBooth"]])
    for name, shots in found.shots.items():
        values = np.array([s.scores["dino_i"].value for s in shots])
        score, means = found.scores[name]["dino_i"], values.reshape(2, 2).mean(1)
        assert (score.mean, score.error) == pytest.approx((values.mean(), means.std(ddof=1) / np.sqrt(2)))
        if name != "TI + DreamBooth":
            gain, change = found.gains[name]["dino_i"], (values - base).reshape(2, 2).mean(1)
            assert (gain.mean, gain.error) == pytest.approx((change.mean(), change.std(ddof=1) / np.sqrt(2)))
    assert "TI + DreamBooth" not in found.gains
    assert "over subjects" in found.tables[0].notes[0]


@pytest.mark.slow
def test_everything_is_written(done: tuple[Ablation, list[Progress]]) -> None:
    found, _ = done
    assert [row[0] for row in found.tables[0].rows] == list(found.shots)
    scores = next(iter(found.shots.values()))[0].scores
    by = [f"{METRICS[key].title} {short(scores[key].protocol)}" for key in ("clip_t", "clip_i", "dino_i")]
    assert found.tables[0].columns == ("row", *by)
    lines = found.markdown.read_text().splitlines()
    assert f"| row | {' | '.join(by)} |" in lines
    assert f"- {by[2]}: {scores['dino_i'].protocol}" in lines
    assert scores["dino_i"].protocol in found.report.read_text()
    assert short(scores["clip_t"].protocol) in json.loads(found.results.read_text())["protocols"]
    assert sum(line.startswith("| SPM") for line in lines) == 6
    page = found.report.read_text()
    assert page.count("SPM + TPM + reward") >= 4
    saved = json.loads(found.results.read_text())
    assert saved["estimates"]["SPM"]["dino_i"]["mean"] == found.scores["SPM"]["dino_i"].mean
    assert saved["rows"][-1]["reward"]["iterations"] == 1


@pytest.mark.slow
def test_a_row_is_the_film_of_its_options(done: tuple[Ablation, list[Progress]], tiny: Backbone) -> None:
    found, _ = done
    run = Run.open(found.folder / "runs" / "rex-bridgeiv")
    assert run.record.recipe.options["structure"] is BridgeIVConfig().structure
    spm = replace(run.record.recipe, options={**run.record.recipe.options, "texture": False})
    changed = replace(run, record=replace(run.record, recipe=spm))
    (film,) = generate(changed, PROMPTS[0], backbone=tiny, sample={"steps": 2}, write=False)
    sidecar = json.loads(found.shots["SPM"][0].film.with_suffix(".json").read_text())
    assert sidecar["frames_sha256"] == film.facts["frames_sha256"]
    rewarded = json.loads(found.shots["SPM + TPM + reward"][0].film.with_suffix(".json").read_text())
    assert rewarded["method"]["reward"]["options"]["iterations"] == 1


@pytest.mark.slow
def test_the_same_call_goes_on_where_it_was_stopped(
    done: tuple[Ablation, list[Progress]], tiny: Backbone, subjects: list[Subject], judge: Judge, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.part == "film" and progress.done > 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="Stopped after 3 of 8 films"):
        table(tiny, subjects, judge, tmp_path, rows=rows()[:2], on_progress=stop)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/method.safetensors")}
    assert (len(made), len(weights)) == (3, 2)
    again = table(tiny, subjects, judge, tmp_path, rows=rows()[:2])
    assert again.scores == {row.name: done[0].scores[row.name] for row in rows()[:2]}
    for path, moment in (made | weights).items():
        assert path.stat().st_mtime_ns == moment


@pytest.mark.slow
def test_processes_with_different_subjects_share_a_folder(
    done: tuple[Ablation, list[Progress]], tiny: Backbone, subjects: list[Subject], judge: Judge, tmp_path: Path
) -> None:
    for one in subjects:
        alone = table(tiny, [one], judge, tmp_path, rows=rows()[:2])
        assert "over films" in alone.tables[0].notes[0]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(made) == 8
    both = table(tiny, subjects, judge, tmp_path, rows=rows()[:2])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == made
    assert both.scores == {row.name: done[0].scores[row.name] for row in rows()[:2]}
    assert both.gains == {"SPM": done[0].gains["SPM"]}
    saved = json.loads(both.results.read_text())
    assert [film["subject"] for film in saved["films"]["SPM"]] == ["rex-bridgeiv"] * 2 + ["fido-bridgeiv"] * 2


def test_a_file_of_somebody_else_is_not_written_over(
    tiny: Backbone, subjects: list[Subject], judge: Judge, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("[1, 2]")
    with pytest.raises(StarringError, match="holds no component table"):
        table(tiny, subjects, judge, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_what_cannot_be_done_is_said_first(
    tiny: Backbone, subjects: list[Subject], judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS["vcd"], "ablation", {})
    with pytest.raises(StarringError, match=r"'vcd' declares no component table\. These do: .*bridgeiv"):
        rows_of("vcd")
    with pytest.raises(StarringError, match="Did you mean 'bridgeiv'"):
        rows_of("bridgiv")
    with pytest.raises(StarringError, match="subjects of different names"):
        table(tiny, [subjects[0]] * 2, judge, tmp_path)
    with pytest.raises(StarringError, match="Seeds must be different"):
        table(tiny, subjects, judge, tmp_path, seeds=(1, 1))
    assert not list(tmp_path.iterdir())


def shot(run: str, **scores: float) -> Shot:
    return Shot(
        run=run, customized=True, prompt="a <*> dog", said="a dog", seed=0, film=Path("a.mp4"), frames=Path("a.png"),
        count=1, scores={key: Score(value=value, protocol="p") for key, value in scores.items()},
    )  # fmt: skip


def test_a_film_that_shows_nobody_is_not_left_out_of_its_rows_likeness() -> None:
    """A row that destroys its subject is not judged by the films in which it failed to."""
    films = [shot("a", identity=0.8, clip_t=0.3), shot("a", identity=0, clip_t=0.1)]
    base = [shot("a", identity=0, clip_t=0.2), shot("a", identity=0.5, clip_t=0.2)]
    assert mean(films, "identity").mean == pytest.approx(0.4)
    assert mean(films, "identity", base).mean == pytest.approx((0.8 - 0.5) / 2)
    assert mean(films, "clip_t").mean == pytest.approx(0.2)
