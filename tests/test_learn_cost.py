"""What learning took: whole, by the clock, over all parts, also of a run that was stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from starring.backbones.base import Backbone
from starring.evaluate.board import ONCE, Cost
from starring.learn import cost
from starring.learn.cost import cost_of, noted
from starring.learn.progress import Progress
from tests.pairing import learned
from tests.test_evaluate import finished

CPU = torch.device("cpu")


def test_parts_add_up_and_a_killed_one_counts(tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = finished(tmp_path, tiny), list[str]()
    assert cost_of(run) is None
    with noted(run, CPU, lambda p: told.append(p.phase)) as tell:
        time.sleep(0.2)
        tell(Progress(phase="learn"))
    first = cost_of(run)
    assert first is not None
    assert (told, first.parts, 0.2 <= first.seconds < 5) == (["learn"], 1, True)
    monkeypatch.setattr(cost, "EVERY", 0.0)
    with pytest.raises(ValueError, match="stopped"), noted(run, CPU, lambda _: None) as tell:  # noqa: PT012
        time.sleep(0.1)  # shorter than the first part: a fall of the clock would not show it
        tell(Progress(phase="learn"))
        killed = json.loads((run.folder / cost.FILE).read_text())["parts"]
        assert len(killed) == 2, "noted while it goes on, for a process that is killed"
        raise ValueError("stopped")
    both = cost_of(run)
    assert both is not None
    assert (both.parts, both.seconds >= first.seconds + 0.1) == (2, True)
    assert both.memory is None or both.memory > 2**20
    (run.folder / cost.FILE).write_text("{")
    assert cost_of(run) is None


@pytest.mark.slow
def test_learning_notes_all_of_it(home: Path, dit: Backbone) -> None:
    start = time.perf_counter()
    run = learned(home, dit)
    spent, loop = cost_of(run), run.entries()[-1]["seconds"]
    assert spent is not None
    assert loop < spent.seconds < time.perf_counter() - start


def test_what_is_said_of_it() -> None:
    asked = {"run": "a", "size": 1, "filming": 3.0, "plain": 2.0, "memory": None}
    assert Cost(**asked, learning=None, once=True).learned == ONCE  # pyright: ignore[reportArgumentType]
    usual = Cost(**asked, learning=1234.5)  # pyright: ignore[reportArgumentType]
    assert (usual.learned, usual.slower) == ("1,234.5 s", 1.5)
