"""The noise prior is N(0, Sigma(gamma)) of VCD's eq. 4."""

import numpy as np
import pytest
import torch

from starring.diffusion.noise import gaussian_prior, white
from starring.errors import StarringError

SHAPE = (1, 4, 8, 160, 160)


@pytest.mark.parametrize("gamma", [0.0, 0.15, 0.4, 0.9])
def test_its_covariance_is_that_of_equation_4(gamma: float) -> None:
    noise = gaussian_prior(SHAPE, gamma, torch.Generator().manual_seed(0))
    samples = noise[0].transpose(0, 1).reshape(8, -1).double().numpy()
    sigma = gamma ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))).astype(float)
    # 102,400 samples: the standard error of an entry is at most sqrt(2 / n) = 0.0044
    assert np.abs(samples @ samples.T / samples.shape[1] - sigma).max() < 5 * np.sqrt(2 / samples.shape[1])
    assert np.abs(samples.mean(1)).max() < 5 / np.sqrt(samples.shape[1])


@pytest.mark.parametrize("gamma", [0.15, 0.8])
def test_it_is_exactly_a_root_of_sigma_times_white_noise(gamma: float) -> None:
    plain = white((2, 3, 6, 4, 4), torch.Generator().manual_seed(5)).double().numpy()
    ours = gaussian_prior((2, 3, 6, 4, 4), gamma, torch.Generator().manual_seed(5)).numpy()
    sigma = np.array([[gamma ** abs(m - n) for n in range(6)] for m in range(6)])
    np.testing.assert_allclose(ours, np.einsum("fg,bcghw->bcfhw", np.linalg.cholesky(sigma), plain), atol=1e-5)


def test_pixels_and_channels_are_independent() -> None:
    noise = gaussian_prior((1, 2, 4, 300, 300), 0.5, torch.Generator().manual_seed(1))[0]
    a, b = noise[0].flatten(), noise[1].flatten()
    assert abs(float((a * b).mean())) < 0.01
    assert abs(float((noise[..., :-1] * noise[..., 1:]).mean())) < 0.01


def test_gamma_zero_is_plain_noise_number_for_number() -> None:
    plain = torch.randn((1, 4, 3, 2, 2), generator=torch.Generator().manual_seed(2))
    assert torch.equal(gaussian_prior((1, 4, 3, 2, 2), 0.0, torch.Generator().manual_seed(2)), plain)


def test_only_the_generator_is_used() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(9)), one)
    assert not torch.equal(gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(10)), one)


def test_precision_and_device() -> None:
    half = gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(9), dtype=torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(half, gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(9)).half())
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        there = gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator().manual_seed(9), device, torch.float16)
        assert torch.equal(there.cpu(), half)
        on_device = gaussian_prior((1, 1, 4, 2, 2), 0.3, torch.Generator(device).manual_seed(9), device)
        assert on_device.device.type == device.type


@pytest.mark.parametrize("gamma", [-0.1, 1.0, 1.5, float("nan")])
def test_gamma_out_of_range(gamma: float) -> None:
    with pytest.raises(StarringError, match=r"in \[0, 1\)"):
        gaussian_prior((1, 1, 4, 2, 2), gamma)


def test_a_shape_that_is_no_video() -> None:
    with pytest.raises(StarringError, match="b c f h w"):
        gaussian_prior((1, 4, 2, 2), 0.1)
