"""Fréchet distances: known Gaussians exactly, sets against NumPy, intervals, and how loud small sets are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starring.errors import StarringError
from starring.metrics.distribution import frechet, frechet_distance, fvd


def gaussian(seed: int, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(width, width))
    return torch.from_numpy(rng.normal(size=width)), torch.from_numpy(factor @ factor.T)


def test_known_gaussians() -> None:
    mean, eye = torch.zeros(3), torch.eye(3)
    assert frechet(mean, eye, mean, eye) == pytest.approx(0, abs=1e-12)
    assert frechet(mean, eye, mean + 2, eye) == pytest.approx(12)  # |m - n|^2
    assert frechet(mean, eye, mean, 4 * eye) == pytest.approx(3)  # (1 - 2)^2 in each direction
    one, other = torch.diag(torch.tensor([1.0, 9.0, 0.0])), torch.diag(torch.tensor([4.0, 1.0, 25.0]))
    assert frechet(mean, one, mean + 1, other) == pytest.approx(3 + 1 + 4 + 25)


def test_turning_both_changes_nothing_and_order_does_not_matter() -> None:
    (m, c), (n, d) = gaussian(0), gaussian(1)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    q = torch.from_numpy(turn)
    value = frechet(m, c, n, d)
    assert frechet(n, d, m, c) == pytest.approx(value)
    assert frechet(q @ m, q @ c @ q.T, q @ n, q @ d @ q.T) == pytest.approx(value)


def test_a_general_product_root() -> None:
    """tr (CD)^1/2 from the eigenvalues of the unsymmetric product, which NumPy gives."""
    (m, c), (n, d) = gaussian(3), gaussian(4)
    values = np.linalg.eigvals(c.numpy() @ d.numpy())
    slow = ((m - n) ** 2).sum() + np.trace(c + d) - 2 * np.sqrt(values.real).sum()
    assert frechet(m, c, n, d) == pytest.approx(float(slow), rel=1e-9)


def test_sets_are_taken_for_gaussians() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(40, 4)), rng.normal(size=(30, 4)) * 1.5 + 0.3
    c, d = np.cov(a.T), np.cov(b.T)
    slow = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d) - 2 * np.sqrt(np.linalg.eigvals(c @ d).real).sum()
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(float(slow), rel=1e-9)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)


def test_fewer_films_than_features_are_computed_and_told_loudly() -> None:
    generator = torch.Generator().manual_seed(0)
    few, real = torch.randn(6, 16, generator=generator), torch.randn(8, 16, generator=generator)
    found = fvd(few, real, "p", draws=20)
    assert found.value > 0
    assert (found.films, found.real, found.protocol) == (6, 8, "p")
    for word in ("TOO FEW FILMS", "6 against 8", "256 and more", "singular below 17", "biased upwards"):
        assert word in found.warning
    many = torch.randn(300, 3, generator=generator)
    assert fvd(many, many + 1, "p", draws=20).warning == ""


@pytest.mark.slow
def test_intervals_hold_the_truth_although_small_sets_are_biased() -> None:
    truth = 4 * 0.5**2  # a shift of 0.5 in four directions
    held, above = 0, 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(60, 4, generator=generator), torch.randn(60, 4, generator=generator) + 0.5
        found = fvd(a, b, "p", seed=seed, draws=100)
        held += found.low <= truth <= found.high
        above += found.value > truth
    assert above >= 24, "the plain value is biased upwards"
    assert held >= 34


def test_the_same_films_give_the_same_interval() -> None:
    a, b = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(20, 3)
    assert fvd(a, b, "p", draws=20) == fvd(a, b, "p", draws=20)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(StarringError, match="at least two films"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(StarringError, match="n d and m d"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
