"""P12: VCD's noise prior as an autoregressive chain, against drawing it from torch's MultivariateNormal."""

from __future__ import annotations

import torch

from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.forms import multivariate, sigma
from starring.diffusion.noise import gaussian_prior, white

GAMMA = 0.15
LENGTHS = (2, 4, 8, 16, 32, 64)
"""Frames of the films."""


def build(world: World, frames: int) -> Case:
    """Random numbers are drawn on the CPU in either suite: a seed means the same film on every device."""
    shape, generator = (1, 4, frames, 64, 64), torch.Generator().manual_seed(world.seed)
    off = "covariance off by, in standard errors"
    return Case(
        id=f"P12.{frames}", title="the noise prior of a film", size=f"{frames} frames of 4x64x64",
        variants={
            "chain": lambda: gaussian_prior(shape, GAMMA, generator),
            "multivariate normal": lambda: multivariate(shape, GAMMA),
            "white noise": lambda: white(shape, generator),
        },
        counters={off: deviation(frames, world.seed), "entries": frames * (frames + 1) / 2},
        goals=(
            Goal(what="multivariate normal / chain", sign=">=", bar=4),
            # The largest of 2080 standard normal numbers stays below 5 in all but one of a thousand draws.
            Goal(what=off, sign="<=", bar=5),
        ),
    )  # fmt: skip


def deviation(frames: int, seed: int, films: int = 16) -> float:
    """The covariance's largest distance from eq. 4, in standard errors.

    The product of two standard normal numbers of correlation rho has the variance ``1 + rho ** 2``.
    """
    draws = gaussian_prior((films, 4, frames, 64, 64), GAMMA, torch.Generator().manual_seed(seed))
    samples, expected = draws.movedim(2, 0).reshape(frames, -1).double(), sigma(GAMMA, frames)
    errors = ((1 + expected.square()) / samples.shape[1]).sqrt()
    return float(((samples @ samples.T / samples.shape[1] - expected).abs() / errors).max())
