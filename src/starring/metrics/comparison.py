"""What a difference is worth: bootstrap intervals, and paired tests of methods that share prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from starring.errors import StarringError

DRAWS = 2000
"""Resamples of a bootstrap."""
EXACT = 20
"""Up to so many differences every sign pattern of a paired test is tried."""
FLIPS = 100_000
"""Random sign patterns beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Method minus baseline on the films that both made."""

    mean: float
    """Mean over subjects of the mean difference of a subject's films."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of the sign-flip test: how often chance alone gives a mean at least this far from 0."""
    films: int
    """Pairs of films: same subject, prompt and seed."""
    subjects: int
    """Subjects they show."""


def bootstrapped(
    samples: Tensor, statistic: Callable[[Tensor], Tensor], *, seed: int = 0, draws: int = DRAWS, share: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of independent samples (Efron and Tibshirani 1993, ch. 13).

    Args:
        samples: ``n ...``, at least one.
        statistic: ``k n ...`` to ``k``.
        seed: of the resampling.
        draws: resamples.
        share: how much of the distribution lies inside.

    Returns:
        Its two ends; a single sample gives an interval without width.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(samples), (draws, len(samples)), generator=generator)
    found = statistic(samples[rows]).double()
    tails = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = torch.quantile(found, tails).tolist()
    return low, high


def interval(groups: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over subjects: subjects are resampled, or films where there is one subject only.

    Films of one subject are not independent of each other, so they are averaged before.

    Args:
        groups: each subject's values.
        seed: of the resampling.

    Raises:
        StarringError: if there is no value.
    """
    values = _units(groups)
    return bootstrapped(values, lambda drawn: drawn.mean(-1), seed=seed)


def paired(
    method: Mapping[tuple[str, str, int], float], baseline: Mapping[tuple[str, str, int], float], seed: int = 0
) -> Difference | None:
    """Method against baseline on shared subjects, prompts and seeds.

    Differences are averaged by subject; with two subjects and more, those means are resampled and their signs flipped,
    with one, the films' own. The sign-flip test is exact for symmetric differences (Fisher 1935).

    Args:
        method: values by subject, prompt and seed.
        baseline: the same.
        seed: of resampling and flipping.

    Returns:
        ``None`` if no film has a partner.
    """
    shared = sorted(set(method) & set(baseline))
    if not shared:
        return None
    subjects = dict.fromkeys(subject for subject, _, _ in shared)
    groups = [[method[key] - baseline[key] for key in shared if key[0] == subject] for subject in subjects]
    values = _units(groups)
    low, high = bootstrapped(values, lambda drawn: drawn.mean(-1), seed=seed)
    return Difference(
        mean=float(values.mean()), low=low, high=high, p=sign_flip(values, seed), films=len(shared),
        subjects=len(groups),
    )  # fmt: skip


def sign_flip(values: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that differences ``n`` are symmetric around 0.

    All 2^n sign patterns are tried up to :data:`EXACT` differences; beyond, :data:`FLIPS` random ones, the observed one
    counted among them so that no p-value is 0.
    """
    count, values = len(values), values.double()
    observed = values.sum().abs() * (1 - 1e-12)
    if count <= EXACT:
        sums = torch.zeros(1, dtype=torch.float64)
        for value in values:
            sums = torch.cat([sums + value, sums - value])
        return float((sums.abs() >= observed).double().mean())
    generator, beyond = torch.Generator().manual_seed(seed), 0
    for some in torch.arange(FLIPS).split(1000):
        signs = torch.randint(2, (len(some), count), generator=generator).double() * 2 - 1
        beyond += int(((signs @ values).abs() >= observed).sum())
    return (beyond + 1) / (FLIPS + 1)


def least(count: int) -> float:
    """The smallest p-value that :func:`sign_flip` can give for so many differences, as when all point one way."""
    return 2 / 2**count if count <= EXACT else 1 / (FLIPS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for how many were asked for (Holm 1979), in the same order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    found, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        found[i] = highest
    return found


def _units(groups: Sequence[Sequence[float]]) -> Tensor:
    """What is independent of each other: the subjects' means, or the films of a single subject."""
    full = [group for group in groups if len(group)]
    if not full:
        raise StarringError("There is nothing to average.")
    single = full[0] if len(full) == 1 else [math.fsum(group) / len(group) for group in full]
    return torch.tensor(single, dtype=torch.float64)
