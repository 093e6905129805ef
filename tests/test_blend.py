"""What each side of a run brings, and how they are weighed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starring.backbones.base import Backbone
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.evaluate.blend import ROWS, curves, drawn, leaks
from starring.metrics.motion import course, course_likeness, trail
from starring.metrics.suite import Judge, load_judge
from starring.run import Run
from tests.moving import learned
from tests.perception.tiny_eyes import tiny_eyes


@pytest.fixture(scope="module")
def run(home: Path, dit: Backbone) -> Run:
    run = learned(home, dit)
    generator = torch.Generator().manual_seed(2)
    weights = run.load_weights()
    run.save_weights({k: v + 0.3 * torch.randn(v.shape, generator=generator) for k, v in weights.items()})
    return run


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def test_the_weights_of_every_step_are_drawn(run: Run, dit: Backbone) -> None:
    found = curves(run, "a <*> dog running", backbone=dit, sample={"steps": 4})
    assert len(found.times) == 4
    assert list(found.times) == sorted(found.times, reverse=True)
    shares = np.array(found.shares)
    assert shares.shape == (4, 2)
    assert ((shares > 0) & (shares < 1)).all()
    assert len(np.unique(shares)) == 8
    assert json.loads(found.data.read_text())["identity_share"] == shares.tolist()
    with Image.open(found.picture) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(214, 39, 40), (255, 127, 14)} <= colours


def test_a_picture_shows_the_numbers() -> None:
    """Red is the deepest group: its line lies higher where its share is larger."""
    pixels = [np.asarray(drawn([[0.5, value]] * 5)) for value in (0.2, 0.8)]
    low, high = (np.argwhere((each[:, 100:600] == (214, 39, 40)).all(2))[:, 0].mean() for each in pixels)
    assert high < low - 100


def test_each_side_alone_is_scored(run: Run, home: Path, dit: Backbone, judge: Judge) -> None:
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    told: list[tuple[int, int]] = []
    found = leaks(
        run, subject, motion, ["a <*> dog running"], backbone=dit, sample={"steps": 1}, judge=judge,
        on_progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert list(found.scores) == list(ROWS)
    assert told == [(i, 4) for i in range(1, 5)]
    values = [scores["identity"] for scores in found.scores.values()]
    assert len(set(values)) == 4, "four different films"
    for name, kept in found.kept.items():
        for key, share in kept.items():
            gain = found.scores["both"][key] - found.scores["without"][key]
            mine = found.scores[name][key] - found.scores["without"][key]
            assert share == (pytest.approx(mine / gain) if gain > 0 else None)
    assert json.loads(found.data.read_text())["scores"] == found.scores


@pytest.mark.parametrize(("fresh", "other"), [("identity", "motion"), ("motion", "identity")])
def test_a_side_that_learned_nothing_adds_nothing(
    run: Run, home: Path, dit: Backbone, judge: Judge, tmp_path: Path, fresh: str, other: str
) -> None:
    """With one side as it began, the other alone makes the very film of both, and it alone makes another."""
    weights = run.load_weights()
    half = Run.create(tmp_path, f"{fresh}-fresh", run.record)
    half.save_weights({k: torch.zeros_like(v) if f".{fresh}.up." in k else v for k, v in weights.items()})
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    found = leaks(half, subject, motion, ["a <*> dog running"], backbone=dit, sample={"steps": 1}, judge=judge)
    assert found.scores[f"{other} alone"] == found.scores["both"]
    assert found.scores[f"{fresh} alone"] != found.scores["both"]
    kept = found.kept[f"{other} alone"]
    assert all(share is None or share == pytest.approx(1) for share in kept.values())


def test_runs_without_two_sides(run: Run, dit: Backbone) -> None:
    recipe = run.record.recipe
    fixed = replace(recipe, options={**recipe.options, "controller": False})
    with pytest.raises(StarringError, match="without a controller"):
        curves(replace(run, record=replace(run.record, recipe=fixed)), "a <*> dog", backbone=dit)
    other = replace(run, record=replace(run.record, recipe=replace(recipe, method="vcd")))
    with pytest.raises(StarringError, match="has no motion to weigh"):
        curves(other, "a <*> dog", backbone=dit)


def test_courses() -> None:
    """A patch that moves along a curve over a still ground, seen at two sizes and lengths."""

    def flow(count: int, size: int) -> torch.Tensor:
        found = torch.zeros(count, 2, 20, 20)
        for i in range(count):
            angle = np.pi * i / count
            found[i, 0, 5:8, 5:8], found[i, 1, 5:8, 5:8] = size * np.cos(angle), size * np.sin(angle)
        return found

    one = course(flow(16, 2), share=0.02)
    assert torch.allclose(one[1], torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert course_likeness(one, course(flow(16, 5), share=0.02)) == pytest.approx(1)
    assert course_likeness(one, course(flow(32, 2), share=0.02)) > 0.99
    assert course_likeness(one, -one) == pytest.approx(-1)
    assert course_likeness(one, torch.zeros(17, 2)) == 0
    truth = np.corrcoef((one - one.mean(0)).flatten().numpy(), (one.flip(1) - one.flip(1).mean(0)).flatten().numpy())
    assert course_likeness(one, one.flip(1)) == pytest.approx(truth[0, 1], abs=1e-9)


def test_trails() -> None:
    """A square that goes right and down; where it is hidden, it is between, and where it never is, there is none."""

    def masks(places: list[tuple[int, int] | None], size: tuple[int, int] = (40, 80)) -> list[torch.Tensor]:
        found = [torch.zeros(size) for _ in places]
        for mask, place in zip(found, places, strict=True):
            if place is not None:
                mask[place[1] : place[1] + 4, place[0] : place[0] + 4] = 1
        return found

    way = trail(masks([(0, 0), None, (40, 10), (60, 20), None]))
    assert way is not None
    middles = [[1.5, 1.5], [21.5, 6.5], [41.5, 11.5], [61.5, 21.5], [61.5, 21.5]]
    torch.testing.assert_close(way, torch.tensor(middles, dtype=torch.float64) / torch.tensor([80, 40]))
    small = trail(masks([(10 + i, 5 + i // 2) for i in range(9)], (20, 30)))
    large = trail(masks([(4 * i, 2 * i) for i in range(17)], (60, 90)))
    back = trail(masks([(60 - 4 * i, 40 - 2 * i) for i in range(17)], (60, 90)))
    assert small is not None
    assert large is not None
    assert back is not None
    assert course_likeness(small, large) > 0.98
    assert course_likeness(small, back) < -0.98
    assert trail(masks([None, (3, 3), None])) is None


class Bright:
    """Finds what is brighter than the rest, whatever it is asked for."""

    id = "bright"

    def segment(self, images: list[Image.Image], text: str) -> list[torch.Tensor]:
        return [
            torch.from_numpy(np.asarray(image.convert("L")) > (200 if text == "square" else 256)) for image in images
        ]


@pytest.mark.slow
def test_the_way_of_what_moves_is_compared(run: Run, home: Path, dit: Backbone, judge: Judge) -> None:
    subject, motion = Subject.from_folder(home / "rex", "square"), Motion.read(home / "running")
    seen = replace(run, record=replace(run.record, subject=replace(run.record.subject, class_word="square")))
    found = leaks(
        seen, subject, motion, ["a <*> dog running"], backbone=dit, sample={"steps": 1}, judge=judge, mover="square",
        segmenter=Bright(),
    )  # fmt: skip
    assert all(set(scores) == {"identity", "motion", "trajectory"} for scores in found.scores.values())
    assert all(-1 <= scores["trajectory"] <= 1 for scores in found.scores.values())
    assert "trajectory (centroid)" in found.table.columns
    with pytest.raises(StarringError, match=r"No clip in .*running shows a cat"):
        leaks(seen, subject, motion, ["a"], backbone=dit, judge=judge, mover="cat", segmenter=Bright())
