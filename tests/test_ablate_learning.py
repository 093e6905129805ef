"""Component tables whose rows learn differently: each such row has a run of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starring.ablate import ablate, rows_of
from starring.backbones.presets import load_backbone
from starring.config import from_json
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig
from starring.metrics.suite import load_judge
from starring.run import Run
from tests import pairing
from tests.data.pictures import album
from tests.moving import clips, small
from tests.perception.tiny_eyes import tiny_eyes
from tests.tiny import tiny_cogvideox


def test_the_rows_are_those_of_tables_2_and_3() -> None:
    rows = {row.name: row.options for row in rows_of("dualreal")}
    assert rows == {
        "without joint adaptation": {"joint": False, "controller": False}, "without controller": {"controller": False},
        "without groups (n = 1)": {"groups": 1}, "n = 2": {"groups": 2}, "n = blocks": {"groups": 0}, "DualReal": {},
    }  # fmt: skip


@pytest.mark.slow
def test_rows_that_learn_differently_are_learned_for_themselves(tmp_path: Path) -> None:
    backbone = load_backbone(tiny_cogvideox(tmp_path / "dit"), device="cpu")
    judge = load_judge(str(tiny_eyes(tmp_path / "eyes")))
    recipe = small(backbone, tmp_path / "eyes" / "clip", steps=2, checkpoint_every=2)
    subjects = [Subject.from_folder(album(tmp_path / name, 2, size), "dog")
                for name, size in (("rex", (96, 96)), ("fido", (80, 96)))]  # fmt: skip
    motion = Motion.read(clips(tmp_path / "running", 2))
    names = ("without joint adaptation", "without groups (n = 1)", "DualReal")
    rows = [row for row in rows_of("dualreal") if row.name in names]
    found = [
        ablate(
            "dualreal", subjects, backbone, recipe, motion=motion, rows=rows, suite=["a <*> dog running"],
            sample={"steps": 1}, judge=judge, folder=tmp_path / "table",
        )
        for _ in range(2)
    ][-1]  # fmt: skip
    runs = sorted(path.name for path in (found.folder / "runs").iterdir())
    ends = ("", "-without-groups-n-1", "-without-joint-adaptation")
    assert runs == [f"{name}-dualreal{end}" for name in ("fido", "rex") for end in ends]
    options = Run.open(found.folder / "runs" / "rex-dualreal-without-joint-adaptation").record.recipe.options
    assert (options["joint"], options["controller"]) == (False, False)
    saved = json.loads(found.results.read_text())
    for films in saved["films"].values():
        assert [film["subject"] for film in films] == ["rex-dualreal", "fido-dualreal"]
    assert len({Run.open(found.folder / "runs" / name).weights.read_bytes() for name in runs}) == len(runs)
    assert "fido: a <*> dog running" in found.report.read_text().replace("&lt;", "<").replace("&gt;", ">")


def test_the_rows_of_customvideox_are_table_2_and_three_of_ours() -> None:
    off = {"tab": False, "erae": False, "product": False}
    plain_frame = {**off, "form": "joint", "decoupled": False, "adapted": False, "clean_time": False,
                   "reference_height": 0, "reference_width": 0}  # fmt: skip
    rows = {row.name: row.options for row in rows_of("customvideox")}
    assert rows == {
        "3D reference attention": off, "with TAB": {**off, "tab": True}, "with ERAE": {**off, "erae": True},
        "CustomVideoX": {"tab": True, "erae": True}, "naive injection": {**plain_frame, "place": "none"},
        "naive injection, before the film": {**plain_frame, "place": "before"}, "without reference": {"shown": False},
    }  # fmt: skip
    assert next(iter(rows)) == "3D reference attention", "what the others are compared with"
    assert not any(row.reward or row.sample for row in rows_of("customvideox"))


@pytest.mark.parametrize(
    "own",
    [
        {}, {"form": "cached"}, {"product": True}, {"form": "cached", "product": True}, {"decoupled": True},
        {"erae_way": "output"}, {"erae_over": "before", "whole": True},
        {"form": "cached", "reference_height": 16, "reference_width": 24},
        {"reference_height": 16, "reference_width": 24},
    ],
    ids=str,
)  # fmt: skip
def test_rows_of_customvideox_go_with_whatever_a_run_chose(own: dict[str, Any]) -> None:
    for row in CustomVideoX.ablation.values():
        from_json(CustomVideoXConfig, {**own, **row["options"]})


@pytest.mark.slow
def test_a_method_that_learned_once_is_taken_apart_without_learning(tmp_path: Path) -> None:
    """All rows film one run's weights beside a subject's photograph; the naive one leaves them out."""
    backbone = load_backbone(tiny_cogvideox(tmp_path / "dit"), device="cpu")
    judge = load_judge(str(tiny_eyes(tmp_path / "eyes")))
    before = pairing.learned(tmp_path, backbone)
    for name in ("1", "2"):
        pairing.cutout(tmp_path / "rex" / f"{name}.png", int(name))
    found = [
        ablate(
            "customvideox", [Subject.from_folder(tmp_path / "rex", "dog")], backbone, tokens=before.folder,
            suite=["a <*> dog running"], sample={"steps": 3}, judge=judge, folder=tmp_path / "table",
        )
        for _ in range(2)
    ][-1]  # fmt: skip
    names = [row.name for row in found.rows]
    assert names == list(CustomVideoX.ablation)
    (run,) = (found.folder / "runs").iterdir()
    films = {shot.frames.read_bytes() for shots in found.shots.values() for shot in shots}
    assert len(films) == len(names)
    assert not Run.open(run).record.recipe.stages
