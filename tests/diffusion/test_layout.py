"""Strengths that keep as much of small latents as of large ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from starring.diffusion.layout import same_layout
from starring.diffusion.parametrization import Parametrization

LINEAR = Parametrization.from_betas("epsilon", schedule="linear")


def ratio(strength: float) -> float:
    """Signal power by noise power at a share of the linear schedule, from the betas by a loop."""
    power = 1.0
    for t in range(round(strength * 999) + 1):
        power *= 1 - (0.00085 + (0.012 - 0.00085) * t / 999)
    return power / (1 - power)


def test_the_shifted_strength_has_the_shifted_ratio() -> None:
    shifted = same_layout(0.8, LINEAR, 16 * 16, 64 * 64)
    assert shifted < 0.8
    assert math.log(ratio(shifted) / ratio(0.8)) == pytest.approx(math.log(16), abs=0.02)
    assert same_layout(shifted, LINEAR, 64 * 64, 16 * 16) == pytest.approx(0.8, abs=1e-6)


def test_means_over_patches_are_as_noisy() -> None:
    """What the shift is for: a flat half of a picture stands out from the other half by as many deviations."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for side, strength in ((64, 0.8), (16, same_layout(0.8, LINEAR, 16 * 16, 64 * 64))):
        picture = torch.ones(1500, side, side)
        picture[:, :, side // 2 :] = -1
        t = torch.tensor(round(strength * 999))
        noisy = LINEAR.noised(picture, torch.randn(picture.shape, generator=generator), t)
        difference = noisy[:, :, : side // 2].mean((1, 2)) - noisy[:, :, side // 2 :].mean((1, 2))
        seen.append(float(difference.mean() / difference.std()))
    assert seen[0] == pytest.approx(seen[1], rel=0.05)


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_ends_stay_ends_and_equal_sizes_change_nothing(kind: str) -> None:
    process = LINEAR if kind == "epsilon" else Parametrization(kind="flow")
    assert same_layout(0.8, process, 4096, 4096) == 0.8
    for strength in (0.0, 1.0):
        assert same_layout(strength, process, 256, 4096) == strength
    shares = [same_layout(strength, process, 256, 4096) for strength in np.linspace(0.05, 0.95, 10)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
