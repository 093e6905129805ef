"""Timing that can be believed on a machine that is not quiet: interleaved, in another order each round, in pairs.

What else the machine does meets all variants alike, so the median of ratios within a round says more than any second.
Beside it the base is timed against itself: a case whose pair lies further from 1 than :data:`TRUSTED` is not trusted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from statistics import median, quantiles
from typing import Any, Literal

import torch

WARM = 2
"""Rounds that are not counted; no more of them than of those that are."""
TRUSTED = 0.05
"""How far the base may lie from itself."""
ADDED = "added by "
"""Begins a goal about what two variants take more than the base.

``folded / plain`` and ``one by one / folded`` do not say it: both hold where one adds two thirds of the other."""
AGAIN = "the same again"
"""Names the base's twin."""

Suite = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A number and its bar."""

    what: str
    """Key of a counter, ``a / b`` of two variants, or ``added by a / b``: of what each takes more than the base."""
    sign: Literal["<=", ">="]
    """Which side is good."""
    bar: float
    """The limit."""

    def reached(self, value: float) -> bool:
        """Whether a value keeps to it."""
        return value <= self.bar if self.sign == "<=" else value >= self.bar


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """One thing that is measured."""

    id: str
    """Such as ``P7``."""
    title: str
    """What it is."""
    size: str
    """How large, in words."""
    variants: Mapping[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    """What is timed; the first is the base, which is also timed against itself."""
    counters: Mapping[str, float] = field(default_factory=dict[str, float])
    """What was counted instead of timed: FLOPs, bytes, passes, and errors against the naive form."""
    goals: Sequence[Goal] = ()
    """Bars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Two variants of one case."""

    median: float
    """Of the ratios within rounds."""
    low: float
    """Their lower quartile."""
    high: float
    """Their upper quartile."""
    best: float
    """Of the shortest times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came out of a case."""

    id: str
    """The case's."""
    title: str
    """The case's."""
    size: str
    """The case's."""
    rounds: int
    """Counted rounds."""
    seconds: dict[str, float]
    """The shortest time of each variant."""
    ratios: dict[str, Ratio]
    """``a / b`` for every variant against the base, and every pair that a goal names."""
    counters: dict[str, float]
    """The case's."""
    goals: list[dict[str, Any]]
    """Bars, values, and whether they were reached."""
    trusted: bool
    """Whether the base lies near enough to itself."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def timed(
    variants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, seed: int = 0
) -> dict[str, list[float]]:
    """Seconds of every variant in every round, in another order each time: what ran before leaves its traces.

    CPU time of this process on the CPU, where a second may be shared with others; the clock on an accelerator, waited
    for on both sides.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names, dice = list(variants), Random(seed)
    for number in range(-min(WARM, rounds), rounds):
        for name in dice.sample(names, len(names)):
            began = _now(device)
            variants[name]()
            took = _now(device) - began
            if number >= 0:
                seconds[name].append(took)
    return seconds


def ratio(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Times of one variant over those of another in the same rounds."""
    pairs = [a / b for a, b in zip(one, other, strict=True)]
    low, _, high = quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
    return Ratio(median=median(pairs), low=low, high=high, best=min(one) / min(other))


def added(one: Sequence[float], other: Sequence[float], base: Sequence[float]) -> Ratio:
    """What one variant takes more than the base over what another takes more, in the same rounds.

    Raises:
        ValueError: if the other takes no more than the base, in the middle.
    """
    more, whole = ([a - b for a, b in zip(each, base, strict=True)] for each in (one, other))
    if median(whole) <= 0:
        raise ValueError("The form that is compared with takes no more than the base: nothing can be said of a share.")
    # Within one round a small difference may be all noise, so all are held against the middle one.
    return ratio(more, [median(whole)] * len(more))


def measured(case: Case, rounds: int, device: torch.device) -> Result:
    """Time a case and hold it against its goals."""
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, Ratio] = {}
    trusted = True
    if case.variants:
        base = next(iter(case.variants))
        seconds = timed({**case.variants, AGAIN: case.variants[base]}, rounds, device)
        wanted = [f"{name} / {base}" for name in seconds if name != base]
        wanted += [goal.what for goal in case.goals if goal.what not in case.counters and goal.what not in wanted]
        for pair in wanted:
            one, _, other = pair.removeprefix(ADDED).partition(" / ")
            more = pair.startswith(ADDED)
            own, peer = seconds[one], seconds[other]
            ratios[pair] = added(own, peer, seconds[base]) if more else ratio(own, peer)
        trusted = abs(ratios[f"{AGAIN} / {base}"].median - 1) <= TRUSTED
    goals = [_held(goal, ratios, case.counters) for goal in case.goals]
    return Result(
        id=case.id, title=case.title, size=case.size, rounds=rounds if case.variants else 0,
        seconds={name: min(each) for name, each in seconds.items()}, ratios=ratios, counters=dict(case.counters),
        goals=goals, trusted=trusted,
    )  # fmt: skip


def _held(goal: Goal, ratios: Mapping[str, Ratio], counters: Mapping[str, float]) -> dict[str, Any]:
    value = counters[goal.what] if goal.what in counters else ratios[goal.what].median
    if not math.isfinite(value):
        raise ValueError(f"{goal.what} is {value}")
    return {**asdict(goal), "value": value, "reached": goal.reached(value)}


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()
