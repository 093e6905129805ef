"""Means, standard errors, and the share of the way from floor to ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starring.errors import StarringError

SMALLEST_GAP = 1e-3
"""Ceilings closer to the floor than this leave nothing to recover: the ratio would be noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over independent measurements."""

    mean: float
    """The mean."""
    error: float | None
    """Standard error of the mean; ``None`` for a single measurement."""
    count: int
    """Number of measurements."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number and how it was measured."""

    value: float
    """The number."""
    protocol: str
    """Networks, weights, transforms and formula; only numbers of equal protocol may be compared."""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error (sample standard deviation over the root of the count).

    Raises:
        StarringError: if there is no value.
    """
    count = len(values)
    if not count:
        raise StarringError("There is nothing to average.")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean=mean, error=None, count=1)
    spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean=mean, error=math.sqrt(spread / count), count=count)


def one_protocol(scores: Sequence[Score]) -> str:
    """The protocol that all scores share.

    Raises:
        StarringError: if they do not share one: such numbers do not belong into one table.
    """
    protocols = sorted({score.protocol for score in scores})
    if len(protocols) != 1:
        raise StarringError(
            "These numbers were measured by different protocols and do not belong into one table: "
            + "; ".join(protocols or ["none"])
            + ". Score them all again with the same encoders and sizes."
        )
    return protocols[0]


def recovered(scores: Sequence[float], floors: Sequence[float], ceiling: float) -> Estimate | None:
    """(score - floor) / (ceiling - floor), of paired films, with its standard error by the jackknife.

    The i-th score and the i-th floor come from the same prompt and seed; leaving out one pair at a time keeps what
    they share.

    Args:
        scores: with customization.
        floors: without, same prompts and seeds in the same order.
        ceiling: what the subject itself reaches, taken as known.

    Returns:
        The ratio, not clipped; ``None`` if the ceiling is not above the floor by :data:`SMALLEST_GAP`.

    Raises:
        StarringError: if the pairs do not match or there are none.
    """
    if len(scores) != len(floors) or not scores:
        raise StarringError(f"Scores and floors must pair up; there are {len(scores)} and {len(floors)}.")

    def ratio(top: Sequence[float], bottom: Sequence[float]) -> float | None:
        floor = math.fsum(bottom) / len(bottom)
        gap = ceiling - floor
        return (math.fsum(top) / len(top) - floor) / gap if gap >= SMALLEST_GAP else None

    value = ratio(scores, floors)
    if value is None:
        return None
    return Estimate(mean=value, error=_jackknife(scores, floors, ratio), count=len(scores))


def _jackknife(
    scores: Sequence[float],
    floors: Sequence[float],
    ratio: Callable[[Sequence[float], Sequence[float]], float | None],
) -> float | None:
    """Standard error of a ratio of means; ``None`` where leaving one pair out closes the gap, or for one pair."""
    count = len(scores)
    if count < 2:
        return None
    parts: list[float] = []
    for i in range(count):
        part = ratio([*scores[:i], *scores[i + 1 :]], [*floors[:i], *floors[i + 1 :]])
        if part is None:
            return None
        parts.append(part)
    mean = math.fsum(parts) / count
    return math.sqrt((count - 1) / count * math.fsum((part - mean) ** 2 for part in parts))
