"""DDIM backwards, on denoisers whose answer is known."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from starring.backbones.animatediff import linear_ddim
from starring.diffusion.inversion import inverted, replayed
from starring.diffusion.parametrization import Parametrization
from starring.diffusion.sampling import trajectory


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_what_was_sampled_is_inverted_to_its_own_trajectory() -> None:
    """A denoiser that always sees the same noise moves along a straight way, which is found exactly."""
    planted, x0 = noise(0, 1, 4, 1, 5, 5), noise(1, 1, 4, 1, 5, 5)
    found = inverted(lambda x, t: planted, linear_ddim(), x0, 10)
    process, scheduler = Parametrization.of(linear_ddim()), linear_ddim()
    scheduler.set_timesteps(10)
    for x, t in zip(found, scheduler.timesteps, strict=True):
        torch.testing.assert_close(x, process.noised(x0, planted, t), atol=1e-5, rtol=1e-5)
    steps = list(trajectory(lambda x, t: planted, linear_ddim(), found[0], 10))
    torch.testing.assert_close(steps[-1].x0, x0, atol=1e-4, rtol=1e-4)


def test_it_stays_near_where_the_denoiser_bends() -> None:
    """For data N(0, 1) the best denoiser is known; forward from what was inverted comes back near the start."""
    process = Parametrization.of(linear_ddim())

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return process.coefficients(t, x)[1] * x

    x0 = noise(1, 1, 4, 1, 5, 5)
    errors: list[float] = []
    for count in (10, 100):
        scheduler = linear_ddim()
        again = list(trajectory(predict, scheduler, inverted(predict, linear_ddim(), x0, count)[0], count))[-1].x
        errors.append(float((again - x0).abs().max()))
    assert errors[1] < 0.3 * errors[0] < 0.3


def test_replaying_asks_about_every_latent_and_moves_none() -> None:
    latents = [noise(i, 1, 4, 1, 2, 2) for i in range(4)]
    asked: list[Tensor] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        asked.append(x[:1])
        return torch.zeros_like(x)

    scheduler: DDIMScheduler = linear_ddim()
    steps = list(replayed(predict, scheduler, latents, len(latents), guidance=3.0))
    assert all(torch.equal(a, b) for a, b in zip(asked, latents, strict=True))
    assert [s.index for s in steps] == [0, 1, 2, 3]
    assert torch.equal(steps[1].x, latents[2])
    torch.testing.assert_close(
        steps[-1].x, latents[-1] / Parametrization.of(scheduler).coefficients(steps[-1].t, latents[-1])[0]
    )
