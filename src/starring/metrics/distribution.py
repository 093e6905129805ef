"""Do the films, all together, look like films? Fréchet distances between sets, with an interval and loud about size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starring.errors import StarringError

FEW = 256
"""Films below which a distance is told to be noise: FVD's authors use thousands, papers of customization a thousand."""
DRAWS = 200
"""Resamples of the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """A Fréchet distance between two sets of films."""

    value: float
    """The distance; 0 is best."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    films: int
    """Films that were scored."""
    real: int
    """Films that they were compared with."""
    protocol: str
    """Network, weights, transform, length and rate; only distances of equal protocol may be compared."""
    warning: str = ""
    """What is wrong with the sizes of the sets; empty if nothing is."""


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians (Dowson and Landau 1982; FVD: arXiv 1812.01717, eq. 2).

    |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2). Roots are taken by eigendecomposition in float64 with what rounding
    leaves below 0 set to 0, so covariances may be singular.

    Args:
        mean: ``d``.
        covariance: ``d d``.
        other_mean: ``d``.
        other_covariance: ``d d``.
    """
    root = _root(covariance.double())
    values = torch.linalg.eigvalsh(root @ other_covariance.double() @ root).clamp_min(0)
    shift = (mean.double() - other_mean.double()).square().sum()
    trace = torch.trace(covariance.double()) + torch.trace(other_covariance.double())
    return max(0.0, float(shift + trace - 2 * values.sqrt().sum()))


def frechet_distance(features: Tensor, real: Tensor) -> float:
    """The Fréchet distance of two sets of features, each taken for a Gaussian (covariance with n - 1).

    Args:
        features: ``n d``, n at least 2.
        real: ``m d``, m at least 2.

    Raises:
        StarringError: if a set has fewer than two films, or the features differ in width.
    """
    _require_sets(features, real)
    return frechet(features.double().mean(0), _covariance(features), real.double().mean(0), _covariance(real))


def fvd(features: Tensor, real: Tensor, protocol: str, *, seed: int = 0, draws: int = DRAWS) -> Distance:
    """FVD, or its relatives by other networks: the distance, its interval, and a warning if the sets are too small.

    A Fréchet distance of few films is biased upwards: two samples of one distribution are far from each other. A
    resample is biased once more by about as much, so the basic interval [2v - high, 2v - low] is given (Davison and
    Hinkley 1997, section 5.2), cut at 0: it corrects the bias where the percentile interval would double it. It may
    therefore lie below the value.

    Args:
        features: ``n d`` of the films that are scored.
        real: ``m d`` of the films that they are compared with.
        protocol: network, weights, transform, length and rate.
        seed: of the resampling.
        draws: resamples.

    Raises:
        StarringError: if a set has fewer than two films, or the features differ in width.
    """
    value = frechet_distance(features, real)
    generator = torch.Generator().manual_seed(seed)

    def resampled(rows: Tensor) -> Tensor:
        return rows[torch.randint(len(rows), (len(rows),), generator=generator)]

    drawn = torch.tensor([frechet_distance(resampled(features), resampled(real)) for _ in range(draws)])
    tails = torch.quantile(drawn.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    low, high = max(0.0, 2 * value - tails[1]), max(0.0, 2 * value - tails[0])
    return Distance(
        value=value, low=low, high=high, films=len(features), real=len(real), protocol=protocol,
        warning=_warning(len(features), len(real), features.shape[1]),
    )  # fmt: skip


def _warning(films: int, real: int, width: int) -> str:
    fewest = min(films, real)
    if fewest >= max(FEW, width + 1):
        return ""
    singular = f" With {width} features the covariance is singular below {width + 1} films." if fewest <= width else ""
    return (
        f"TOO FEW FILMS for a Fréchet distance: {films} against {real}, where it takes {max(FEW, width + 1)} and more."
        f"{singular} The value is biased upwards and compares only with sets of the same sizes."
    )


def _require_sets(features: Tensor, real: Tensor) -> None:
    if features.ndim != 2 or real.ndim != 2 or features.shape[1] != real.shape[1]:
        raise StarringError(
            f"Features of two sets must be n d and m d; these are {tuple(features.shape)} and {tuple(real.shape)}."
        )
    if min(len(features), len(real)) < 2:
        raise StarringError(
            f"A Fréchet distance needs at least two films on each side, and hundreds to mean anything; there are "
            f"{len(features)} and {len(real)}."
        )


def _covariance(rows: Tensor) -> Tensor:
    centred = rows.double() - rows.double().mean(0)
    return centred.T @ centred / (len(rows) - 1)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
