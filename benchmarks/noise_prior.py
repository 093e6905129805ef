"""VCD's noise prior as an autoregressive chain, against drawing it from torch's MultivariateNormal.

    OMP_NUM_THREADS=1 python benchmarks/noise_prior.py

The released code of VCD (arXiv 2402.09368, eq. 4) builds ``MultivariateNormal(0, Sigma)`` for each film and draws every
pixel of every channel from it. Both are timed in turn, round by round, in CPU time on one thread, so that whatever else
the machine does meets both alike. Independent noise is the floor, since either has to draw as many numbers. The chain
is also timed against itself, which says how far the ratios can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import MultivariateNormal

from starring.diffusion.noise import gaussian_prior, white

GOAL = 4.0
"""How many times faster the chain should be, whatever the number of frames."""

console = Console()


def sigma(gamma: float, frames: int) -> Tensor:
    """Eq. 4: ``gamma ** |m - n|``."""
    number = torch.arange(frames)
    return gamma ** (number[:, None] - number[None]).abs().double()


def multivariate(shape: Sequence[int], gamma: float) -> Tensor:
    """The prior as the released code draws it, ``b c f h w``."""
    b, c, frames, h, w = shape
    drawn = MultivariateNormal(torch.zeros(frames), sigma(gamma, frames).float()).sample((b, c, h, w))
    return drawn.movedim(-1, 2)


def timed(variants: Mapping[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round, in another order each time: what ran before leaves its traces."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names, dice = list(variants), Random(0)
    for round_ in range(-2, rounds):
        for name in dice.sample(names, len(names)):
            began = time.process_time()
            variants[name]()
            if round_ >= 0:
                seconds[name].append(time.process_time() - began)
    return seconds


def deviation(gamma: float, frames: int, films: int = 16) -> tuple[float, int]:
    """The covariance's largest distance from eq. 4 in standard errors, and over how many entries that is the largest.

    The product of two standard normal numbers of correlation rho has the variance ``1 + rho ** 2``.
    """
    draws = gaussian_prior((films, 4, frames, 64, 64), gamma, torch.Generator().manual_seed(0))
    samples = draws.movedim(2, 0).reshape(frames, -1).double()
    expected = sigma(gamma, frames)
    errors = ((1 + expected.square()) / samples.shape[1]).sqrt()
    upper = torch.ones(frames, frames).triu().bool()
    distances = ((samples @ samples.T / samples.shape[1] - expected).abs() / errors)[upper]
    return float(distances.max()), len(distances)


def main(frames: tuple[int, ...] = (2, 4, 8, 16, 32, 64), gamma: float = 0.15, rounds: int = 40) -> None:
    """Time all lengths and check the covariance.

    Args:
        frames: lengths of the films, in latents of 4 x 64 x 64.
        gamma: correlation of neighbouring frames.
        rounds: how often each variant is timed.
    """
    torch.set_num_threads(1)
    title = f"CPU milliseconds, best of {rounds}; ratios are medians of pairs"
    table = Table("frames", "chain", "multivariate", "white", "ratio", "chain to itself", "largest z", title=title)
    reached = True
    for count in frames:
        shape, generator = (1, 4, count, 64, 64), torch.Generator().manual_seed(0)

        def chain(shape: Sequence[int] = shape, generator: torch.Generator = generator) -> Tensor:
            return gaussian_prior(shape, gamma, generator)

        variants: dict[str, Callable[[], Tensor]] = {
            "chain": chain,
            "again": lambda chain=chain: chain(),
            "multivariate": lambda shape=shape: multivariate(shape, gamma),
            "white": lambda shape=shape, generator=generator: white(shape, generator),
        }
        seconds = timed(variants, rounds)
        ratio, itself = (
            median(a / b for a, b in zip(seconds[name], seconds["chain"], strict=True))
            for name in ("multivariate", "again")
        )
        furthest, entries = deviation(gamma, count)
        best = [f"{1e3 * min(seconds[name]):.2f}" for name in ("chain", "multivariate", "white")]
        table.add_row(str(count), *best, f"{ratio:.1f}", f"{itself:.2f}", f"{furthest:.1f} of {entries}")
        reached &= ratio >= GOAL
    console.print(table)
    console.print(f"At least {GOAL:g} times faster at every length: {'yes' if reached else 'NO'}.")
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    tyro.cli(main)
