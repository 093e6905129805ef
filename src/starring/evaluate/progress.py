"""What is told while subjects are learned and filmed for a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the work stands."""

    part: str
    """``learn`` or ``film``."""
    done: float
    """Steps learned of the run at work, or films made (with the part of the one at work)."""
    total: float
    """There is to do in it."""
    what: str
    """The run, or the film at work."""


OnProgress = Callable[[Progress], None]
"""Takes what is told."""


def nobody(_: Progress) -> None:
    """Nobody listens."""
