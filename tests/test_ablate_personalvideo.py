"""PersonalVideo's component tables: rows that are learned for themselves, and the columns that tell who it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from starring.ablate import ablate, rows_of
from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.subject import Subject
from starring.methods import recipe
from starring.metrics.measures import Eyes
from starring.metrics.suite import Judge, load_judge
from starring.perception.identity import IdentityEncoder
from starring.run import Run
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_eyes
from tests.perception.tiny_identity import tiny_iresnet
from tests.reward.middle import Middle


def test_the_rows_are_those_of_tables_2_and_3() -> None:
    rows = {row.name: dict(row.options) for row in rows_of("personalvideo")}
    assert {name: rows[name] for name in ("T2I", "T2I + prompts", "T2V", "T2V + prompts")} == {
        "T2I": {"tuning": "still", "simulated": 0}, "T2I + prompts": {"tuning": "still"},
        "T2V": {"simulated": 0}, "T2V + prompts": {},
    }  # fmt: skip
    assert [rows[name]["share"] for name in ("all steps", "half of the steps")] == [1.0, 0.5]
    assert [rows[name]["layers"] for name in ("cross-attention", "self- and cross-attention")] == ["cross", "both"]


def quick() -> Recipe:
    whole = recipe("personalvideo-miniature")
    stages = tuple(replace(s, backbone="", train=replace(s.train, steps=1, batch=1)) for s in whole.stages)
    options = {**whole.options, "rank": 2, "steps": 2, "pool": 0, "eyes": "miniature"}
    return replace(whole, options=options, stages=stages, data=replace(whole.data, size=32, variants=2))


def judge(folder: Path) -> Judge:
    """CLIP, DINO, and an identity encoder that looks at the middle."""
    whole = load_judge(str(tiny_eyes(folder))).eyes
    encoder = IdentityEncoder(tiny_iresnet(7), 32, "other")
    return Judge(eyes=Eyes(clip=whole.clip, dino=whole.dino, segmenter=Middle(), identity=encoder))


@pytest.mark.slow
def test_a_row_that_learning_depends_on_is_learned_for_itself(tiny: Backbone, tmp_path: Path) -> None:
    subject = Subject.from_folder(album(tmp_path / "rex", 2, (96, 96)), "dog")
    kept = {"T2I", "T2V + prompts", "all steps", "self- and cross-attention"}
    rows = [row for row in rows_of("personalvideo") if row.name in kept]
    done = ablate(
        "personalvideo", [subject], tiny, quick(), rows=rows, suite=["a <*> dog on the beach"], sample={"steps": 2},
        judge=judge(tmp_path / "eyes"), segmenter=Middle(), folder=tmp_path / "table",
    )  # fmt: skip
    runs = {folder.name: Run.open(folder) for folder in (tmp_path / "table" / "runs").iterdir()}
    assert len(runs) == 4
    options = {name: run.record.recipe.options for name, run in runs.items()}
    plain = options["rex-personalvideo"]
    assert (plain["tuning"], plain["share"], plain["layers"], len(plain["prompts"])) == ("film", 0.25, "self", 50)
    changed = {
        name: {key for key in each if each[key] != plain[key]}
        for name, each in options.items()
        if name != "rex-personalvideo"
    }
    assert sorted(map(sorted, changed.values())) == [["layers"], ["prompts", "simulated", "tuning"], ["share"]]
    both = next(run for name, run in runs.items() if changed.get(name) == {"layers"})
    assert any("attn2" in key for key in both.load_weights())
    assert [column.rpartition(" ")[0] for column in done.tables[0].columns[1:]] == [
        "Identity", "DINO-I", "Motion top 5 %", "CLIP-T", "CLIP-I", "T.Cons CLIP",
    ]  # fmt: skip
    saved = json.loads(done.results.read_text())
    assert set(saved["estimates"]) == kept
    assert {"identity", "motion_top"} <= saved["estimates"]["T2I"].keys()
