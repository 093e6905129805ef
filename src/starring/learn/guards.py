"""What surrounds learning: signals that must not tear a step, and randomness that must not leak."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Self

import numpy as np
import torch

from starring.errors import Interrupted
from starring.learn.progress import OnProgress, Progress
from starring.run import Run


class Stop:
    """Turns the first Ctrl-C or termination signal into a flag, so that a step is never torn; the second interrupts."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread set handlers; elsewhere the caller decides about signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the caller's global random states as they were."""
    before = random_state(torch.Generator())
    try:
        yield
    finally:
        set_random_state(before)


def seed_all(seed: int) -> None:
    """Seed every global source of randomness."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def guarded(tell: OnProgress, stop: Stop, run: Run, doing: str = "preparing") -> OnProgress:
    """``tell``, and leave if that was asked for: for work whose finished parts are kept."""

    def told(progress: Progress) -> None:
        tell(progress)
        if stop.wanted:
            raise Interrupted(f"Stopped while {doing}. Go on with: {run.resume_command}")

    return told


def random_state(generator: torch.Generator) -> dict[str, Any]:
    """The states of every source of randomness: Python, NumPy, torch on all devices, and ``generator``."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "generator": generator.get_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """Undo everything that was drawn since :func:`random_state`; without ``generator``, only the global sources."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if generator is not None:
        generator.set_state(state["generator"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
