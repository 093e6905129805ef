"""What surrounds learning: signals that must not tear a step, and randomness that must not leak."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

import numpy as np
import torch

from starring.errors import Interrupted
from starring.learn.progress import OnProgress, Progress
from starring.run import Run, random_state, set_random_state


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


def guarded(tell: OnProgress, stop: Stop, run: Run) -> OnProgress:
    """``tell``, and leave if that was asked for: what has been prepared so far is cached."""

    def told(progress: Progress) -> None:
        tell(progress)
        if stop.wanted:
            raise Interrupted(f"Stopped while preparing. Go on with: {run.resume_command}")

    return told
