"""Whoever learns from a reward in the bundled world is watched without having asked for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from starring.cli.learning import Learn
from starring.data.subject import Subject
from starring.methods import recipe
from tests.data.pictures import album


@pytest.fixture(scope="module")
def who(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject.from_folder(album(tmp_path_factory.mktemp("album") / "ball", 2, (64, 64)), "ball")


def test_rewards_are_watched(who: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    rewarded, plain = recipe("personalvideo-miniature"), recipe("vcd")
    films = Learn()._films(who, rewarded)
    assert films is not None
    assert films.every == rewarded.stages[1].train.checkpoint_every
    assert Learn()._films(who, replace(plain, backbone="miniature")) is None
    chosen = Learn(validate_every=7, judge_eyes=("faces=Y.onnx+S.onnx",))._films(who, rewarded)
    assert chosen is not None
    assert (chosen.every, dict(chosen.plan.eyes)) == (7, {"faces": "Y.onnx+S.onnx"})
    capsys.readouterr()
    assert Learn(validate_every=0)._films(who, rewarded) is None
    assert Learn()._films(who, recipe("personalvideo")) is None
    assert capsys.readouterr().err.count("hacked reward") == 2


def test_a_run_that_was_begun_without_eyes_goes_on(tmp_path: Path, who: Subject) -> None:
    import json
    from types import SimpleNamespace
    from typing import Any

    from starring.evaluate import Films, Plan

    run: Any = SimpleNamespace(folder=tmp_path)
    Films(Plan(every=5), who).begin(run)
    path = tmp_path / "validation" / "plan.json"
    values = json.loads(path.read_text())
    del values["eyes"]
    path.write_text(json.dumps(values))
    Films(Plan(every=5), who).begin(run)
    assert Plan.of(run) == Plan(every=5)
