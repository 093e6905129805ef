"""VCD's parts left out: rows that are learned for themselves, and rows that are only filmed otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from starring.ablate import ablate, rows_of
from starring.backbones.base import Backbone
from starring.data.subject import Subject
from starring.methods import recipe_for
from starring.metrics.suite import load_judge
from starring.run import Run
from tests.data.pictures import RedFinder, album
from tests.perception.tiny_eyes import tiny_eyes


@pytest.mark.slow
def test_every_part_is_left_out_once(tiny: Backbone, tmp_path: Path) -> None:
    subject = Subject.from_folder(album(tmp_path / "rex", 2), "dog", "rex")
    whole = recipe_for("vcd", tiny)
    stages = tuple(replace(s, train=replace(s.train, steps=1, batch=1)) for s in whole.stages)
    small = replace(whole, stages=stages, data=replace(whole.data, size=32, variants=4))
    judge = load_judge(str(tiny_eyes(tmp_path / "eyes")))
    asked = {"suite": ["a <*> dog on the beach"], "sample": {"steps": 2, "negative": ""}, "judge": judge}
    found = ablate("vcd", [subject], tiny, small, segmenter=RedFinder(), folder=tmp_path / "t", **asked)  # pyright: ignore[reportArgumentType]
    runs = {path.name: Run.open(path).record for path in (tmp_path / "t" / "runs").iterdir()}
    learned = {name: (run.recipe.data.masks, run.recipe.options["vectors"]) for name, run in runs.items()}
    assert learned == {
        "rex-vcd": (True, 4), "rex-vcd-without-masks": (False, 4), "rex-vcd-one-word": (True, 1),
        "rex-vcd-none-of-these": (False, 1),
    }  # fmt: skip
    assert list(found.shots) == [row.name for row in rows_of("vcd")]
    white = {name for name, shots in found.shots.items() if "gamma 0," in shots[0].setting}
    assert white == {"without the noise prior", "none of these"}
    assert len({shots[0].film for shots in found.shots.values()}) == 5
    assert found.shots["VCD"][0].run == found.shots["without the noise prior"][0].run == "rex-vcd"
