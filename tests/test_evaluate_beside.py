"""Films beside photographs, evaluated: two subjects of one class share all that was learned, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from starring.backbones.base import Backbone
from starring.data.subject import Subject
from starring.evaluate import evaluate
from starring.evaluate.shots import Order
from starring.generate import generate
from starring.learn import learn
from starring.metrics.suite import Judge, load_judge
from starring.run import Run
from tests.data.pictures import RedFinder, photo
from tests.pairing import learned, small
from tests.perception.tiny_eyes import tiny_eyes
from tests.test_evaluate import PROMPTS

pytestmark = pytest.mark.filterwarnings("ignore:No '.*' was found")


@pytest.fixture(scope="module")
def once(home: Path, dit: Backbone) -> Run:
    return learned(home, dit)


@pytest.fixture(scope="module")
def judge(home: Path) -> Judge:
    return load_judge(str(tiny_eyes(home / "eyes")))


def shown(home: Path, name: str, seeds: tuple[int, ...], dit: Backbone, once: Run) -> Run:
    """A run of a subject with these photographs, for which nothing was left to learn."""
    folder = home / f"{name}-photos"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, seed in enumerate(seeds):
        photo(seed).save(folder / f"{i}.png")
    subject = Subject.from_folder(folder, "dog", name)
    return learn("customvideox", subject, dit, small(dit), home / "films", tokens=once.folder)


def test_subjects_of_one_class_are_filmed_beside_their_own_photographs(
    tmp_path: Path, dit: Backbone, once: Run, judge: Judge
) -> None:
    runs = [shown(tmp_path, "rex", (1, 2), dit, once), shown(tmp_path, "tom", (5, 6), dit, once)]
    assert runs[0].weights.read_bytes() == runs[1].weights.read_bytes()
    asked = {"suite": PROMPTS[:1], "seeds": (0,), "sample": {"steps": 2}, "segmenter": RedFinder()}
    found = evaluate(runs, backbone=dit, judge=judge, folder=tmp_path / "e", **asked)  # pyright: ignore[reportArgumentType]
    custom = [shot for shot in found.shots if shot.customized]
    assert len({shot.film for shot in custom}) == 2
    for shot, run in zip(custom, runs, strict=True):
        (alone,) = generate(
            run, PROMPTS[0], seed=0, backbone=dit, sample={"steps": 2}, segmenter=RedFinder(), write=False
        )
        assert np.array_equal(shot.load(), alone.frames), "as filmed alone"
    floors = {shot.film for shot in found.shots if not shot.customized}
    assert len(floors) == 1, "without customization, one class word is one film"


def test_what_a_film_beside_photographs_depends_on(tmp_path: Path, dit: Backbone, once: Run) -> None:
    run = shown(tmp_path, "rex", (1, 2), dit, once)
    order = Order(
        run=run, customized=True, prompt=PROMPTS[0], said="", seed=0, sample=dit.sample, correlation=0.0, weights="w"
    )  # fmt: skip
    record = run.record
    word = replace(record, subject=replace(record.subject, class_word="puppy"))
    exchanged = replace(record, subject=replace(record.subject, digests={"0.png": "other", "1.png": "photographs"}))
    names, digests = list(record.subject.digests), reversed(record.subject.digests.values())
    turned = replace(record, subject=replace(record.subject, digests=dict(zip(names, digests, strict=True))))
    others = [replace(order, run=replace(run, record=each)) for each in (word, exchanged, turned)]
    others += [replace(order, segmenter=each) for each in ("none", "clipseg", RedFinder())]
    keys = {each.key("b") for each in (order, *others)}
    assert len(keys) == 7
    floor = replace(order, customized=False, weights=None)
    moved = replace(floor, run=replace(run, record=exchanged))
    assert floor.key("b") == moved.key("b"), "the floor is filmed beside nothing"
