"""Films of several learned subjects, from several runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.generate import from_sidecar, generate
from starring.provenance import verify
from starring.run import Run
from tests.test_generate import make_run

PROMPT = "a <dog> dog and a <robot> robot on the beach"


@pytest.fixture
def runs(tmp_path: Path, tiny: Backbone) -> tuple[Run, Run]:
    """A dog and a robot."""
    dog, robot = (make_run(tmp_path / f"runs{seed}", tiny, seed) for seed in (1, 2))
    about = replace(robot.record.subject, name="bolt", class_word="robot")
    return dog, replace(robot, record=replace(robot.record, subject=about))


@pytest.mark.slow
def test_both_subjects_shape_the_film_and_it_comes_back_bit_for_bit(runs: tuple[Run, Run], tiny: Backbone) -> None:
    dog, robot = runs
    (film,) = generate(dog, PROMPT, backbone=tiny, others=[robot])
    (same,) = generate(dog, PROMPT.replace("<dog>", "<*>"), backbone=tiny, others=[robot], write=False)
    assert np.array_equal(film.frames, same.frames)
    (alone,) = generate(dog, "a <*> dog and a robot on the beach", backbone=tiny, write=False)
    assert not np.array_equal(film.frames, alone.frames)
    assert film.sidecar is not None
    assert film.path is not None
    members = film.facts["method"]["members"]
    assert list(members) == ["<dog>", "<robot>"]
    assert not Path(members["<robot>"]["file"]).is_absolute()
    for source in (film.sidecar, film.path):
        again = from_sidecar(source, backbone=tiny)
        assert again.notes == ()
        assert np.array_equal(again.frames, film.frames)
        assert again.facts == film.facts


def test_verify_knows_every_subjects_file(runs: tuple[Run, Run], tiny: Backbone) -> None:
    (film,) = generate(runs[0], PROMPT, backbone=tiny, others=[runs[1]])
    assert film.path is not None
    before = [str(finding) for finding in verify(film.path, tiny).findings]
    runs[1].weights.write_bytes(runs[1].weights.read_bytes() + b" ")
    after = [str(finding) for finding in verify(film.path, tiny).findings]
    assert len(set(after) - set(before)) == 1
    with pytest.raises(StarringError, match="has changed since"):
        from_sidecar(film.path, backbone=tiny)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a <dog> dog on the beach", {}, "does not say where <robot>"),
        ("a <cat> cat and a <dog> dog and a <robot> robot", {}, "<cat>"),
        (PROMPT, {"customized": False}, "several runs, customized"),
        (PROMPT, {"reward": True}, "one subject"),
    ],
)
def test_what_cannot_be_filmed_together_is_told_before_filming(
    runs: tuple[Run, Run], tiny: Backbone, prompt: str, options: dict[str, bool], message: str
) -> None:
    with pytest.raises(StarringError, match=message):
        generate(runs[0], prompt, backbone=tiny, others=[runs[1]], **options)


def test_two_of_a_class_go_by_their_names(runs: tuple[Run, Run], tiny: Backbone) -> None:
    dog, other = runs
    other = replace(other, record=replace(other.record, subject=replace(other.record.subject, class_word="dog")))
    prompt = "a <rex> dog and a <bolt> dog"
    (film,) = generate(dog, prompt, backbone=tiny, others=[other], write=False)
    assert list(film.facts["method"]["members"]) == ["<rex>", "<bolt>"]
