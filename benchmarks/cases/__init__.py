"""One file for each case: ``build(world)`` gives what is timed, what was counted, and the bars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.cases import (
    biased,
    blended,
    composed,
    metrics,
    noise,
    overwriting,
    package,
    propagation,
    reference,
    reward,
    rewarded,
    tokens,
    training,
)
from benchmarks.harness import Case
from benchmarks.models import World

CASES: dict[str, Callable[[World], Case]] = {
    "P1": reference.build,
    "P2": partial(reference.build, side=2),
    "P3": biased.build,
    "P3.step": reference.joint,
    "P6": blended.build,
    "P7": propagation.build,
    "P8": overwriting.build,
    "P9": reward.build,
    "P10": rewarded.build,
    "P11": tokens.build,
    **{f"P12.{frames}": partial(noise.build, frames=frames) for frames in noise.LENGTHS},
    "P13": training.build,
    "P14": composed.chosen,
    "P15": composed.compiled,
    "P16": composed.cached,
    "P17": metrics.build,
    "P18": package.build,
}
"""Every case by its goal; behind the point, its size."""
