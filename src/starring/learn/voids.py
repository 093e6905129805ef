"""Rewarded steps from which nothing could be learned: how many in a row there were, and when there are too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from starring.errors import StarringError

SEEN = "seen"
"""The part of a rewarded method's losses that says on which share of its films the subject is seen."""
VOID = 10
"""So many rewards in a row that are no numbers end the training."""
UNSEEN = 30
"""So many steps in a row without the subject on any film end it, or all steps of a stage that has fewer."""


def void_in(entries: Sequence[Mapping[str, Any]], stage: str) -> tuple[int, int]:
    """Steps at the end of a stage in a log whose reward was no number, and steps there without the subject.

    A step without the subject says nothing about rewards, so the first count passes it by.
    """
    steps = [entry["parts"] for entry in reversed(entries) if "parts" in entry and entry["stage"] == stage]
    voids = takewhile(lambda parts: parts.get("void"), (parts for parts in steps if parts.get(SEEN, 1)))
    unseen = takewhile(lambda parts: not parts.get(SEEN, 1), steps)
    return len(list(voids)), len(list(unseen))


def require_some_use(voids: int, unseen: int, steps: int, at: str) -> None:
    """Refuse to go on after too many steps in a row that changed nothing.

    Args:
        voids: whose reward was no number.
        unseen: without the subject.
        steps: of the whole stage.
        at: where, in words.

    Raises:
        StarringError: after :data:`VOID` or :data:`UNSEEN` of them.
    """
    if voids >= VOID:
        raise StarringError(
            f"The reward was no number {voids} times in a row, {at}; these steps changed nothing. Lower the learning"
            " rate, or train with precision no."
        )
    if unseen >= min(UNSEEN, steps):
        raise StarringError(
            f"The subject was on none of the films of {unseen} steps in a row, {at}; these steps changed nothing. Film"
            " the class word and look whether it shows. Then begin a new run with prompts that show it larger"
            " (--options prompts=FILE), with more frames looked at (tries=4), or with other eyes."
        )
