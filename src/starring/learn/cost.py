"""What learning took, by the clock and in memory: over all parts of a run that was stopped and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from starring.data.files import write_json
from starring.learn.progress import OnProgress, Progress
from starring.run import Run

FILE = "cost.json"
"""In the run's folder."""
EVERY = 5.0
"""Seconds between two entries: so much may be missing of a part that was killed."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a run took."""

    seconds: float
    """By the clock, from the first photograph that was prepared to the last step, with films that checkpoints were
    chosen by, over all parts."""
    memory: int | None
    """Most bytes that were held at once: by the GPU, or on a CPU by the process; ``None`` where nobody can tell."""
    parts: int
    """How often the run was begun or gone on with."""


def cost_of(run: Run) -> Cost | None:
    """What a run took; ``None`` if nobody noted it, as of older runs and where nothing was left to learn."""
    parts = _parts(run)
    if not parts:
        return None
    peaks = [part["memory"] for part in parts if part["memory"] is not None]
    return Cost(seconds=sum(part["seconds"] for part in parts), memory=max(peaks, default=None), parts=len(parts))


@contextmanager
def noted(run: Run, device: torch.device, tell: OnProgress) -> Iterator[OnProgress]:
    """What is done inside becomes a part of the run's cost; yields ``tell``, which notes it every few seconds.

    Args:
        run: whose.
        device: where it learns.
        tell: hears of progress.
    """
    earlier, start, last = _parts(run), time.perf_counter(), time.perf_counter()
    _forget_peak(device)

    def note() -> None:
        part = {"seconds": round(time.perf_counter() - start, 3), "memory": _peak(device)}
        write_json(run.folder / FILE, {"parts": [*earlier, part]})

    def told(progress: Progress) -> None:
        nonlocal last
        if time.perf_counter() - last > EVERY:
            last = time.perf_counter()
            note()
        tell(progress)

    try:
        yield told
    finally:
        note()


def _parts(run: Run) -> list[dict[str, Any]]:
    with suppress(OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return [
            {"seconds": float(part["seconds"]), "memory": part["memory"]}
            for part in json.loads((run.folder / FILE).read_text(encoding="utf-8"))["parts"]
        ]
    return []


def _forget_peak(device: torch.device) -> None:
    """Begin to look for the most memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # another system than Linux, or one that does not allow it: the process's peak remains
        CLEAR.write_text("5")


def _peak(device: torch.device) -> int | None:
    """The most bytes that were held since."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
