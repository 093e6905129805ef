"""What learning tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starring.config import Sample
from starring.data.subject import Complaint


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What ``on_progress`` is told, often and early."""

    phase: str
    """``check``, ``masks``, ``moments``, ``clips``, ``pairs``, ``class``, ``learn``, ``preview``, ``save``,
    ``validate``, ``choose`` or ``done``."""
    step: int = 0
    """What is done of this phase, counted over all stages of learning."""
    total: int = 0
    """What there is to do; 0 where that means nothing."""
    stage: str = ""
    """The stage's name while learning."""
    loss: float | None = None
    """The step's loss while learning."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The named parts of the loss."""
    preview: Path | None = None
    """A picture that was just written."""
    complaint: Complaint | None = None
    """Something a person has to be told."""
    note: str = ""
    """What was found, in words: a checkpoint's scores, or why one was chosen."""
    run: Path | None = None
    """The run's folder, as soon as there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A short film every so many steps, shown as a sheet of frames. It costs time and changes nothing else."""

    prompt: str
    """With ``<*>``."""
    every: int = 100
    """Steps between two of them."""
    seed: int = 0
    """The same noise every time, so that one sees learning and not luck."""
    sample: Sample | None = None
    """How it is filmed; ``None`` films as the recipe does."""


OnProgress = Callable[[Progress], None]
"""Takes what is told."""


def nobody(_: Progress) -> None:
    """Nobody listens."""
