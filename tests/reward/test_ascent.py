"""Both rewards against NumPy, and the gradient in little memory against the naive one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.backbones.base import Backbone
from starring.diffusion.parametrization import Parametrization
from starring.layers.attach import recomputed
from starring.perception.encoders import CLIP, load_clip
from starring.reward.ascent import (
    SCALE,
    Objective,
    Sight,
    ancestral,
    ascent,
    average,
    latent_reward,
    pixel_reward,
    shrunk,
)
from tests.perception.tiny_eyes import tiny_clip

FRAMES = 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    return load_clip(str(tiny_clip(tmp_path_factory.mktemp("eyes") / "clip")))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks(frames: int, side: int, seed: int = 0) -> Tensor:
    """A rectangle on every frame."""
    rng = np.random.default_rng(seed)
    found = torch.zeros(frames, side, side)
    for mask in found:
        top, left = rng.integers(0, side // 2, 2)
        mask[top : top + side // 2, left : left + side // 3] = 1
    return found


def slow_latent(latents: NDArray[np.float64], masks: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """The summands of the printed R_lat, one cell after the other."""
    channels, frames, height, width = latents.shape
    found: list[float] = []
    for f in range(frames):
        total, count = np.zeros(channels), 0
        for y in range(height):
            for x in range(width):
                if masks[f, y, x] == 1:
                    total += latents[:, f, y, x]
                    count += 1
        if count == 0:
            found.append(0.0)
            continue
        mean = total / count
        found.append(float(mean @ target / (np.linalg.norm(mean) * np.linalg.norm(target))))
    return found


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_latent_reward_is_the_printed_one(reduction: str) -> None:
    latents, where, target = draw(4, 5, 6, 6), masks(5, 6), draw(4, seed=1)
    where[3] = 0
    expected = slow_latent(latents.double().numpy(), where.double().numpy(), target.double().numpy())
    found = latent_reward(latents, where, target, reduction)
    assert float(found) == pytest.approx(sum(expected) / (1 if reduction == "sum" else 5), rel=1e-5)


def test_a_film_like_its_reference_has_the_largest_latent_reward() -> None:
    latents, where = draw(4, 1, 6, 6).expand(4, 5, 6, 6), masks(1, 6).expand(5, 6, 6)
    target = average(latents[:, :1], where[:1])[0]
    assert float(latent_reward(latents, where, target)) == pytest.approx(5)


def test_the_pixel_reward_is_the_printed_one(clip: CLIP) -> None:
    pixels, where, photographs = draw(FRAMES, 3, 32, 32), masks(FRAMES, 32), draw(2, 3, 40, 40, seed=1).sigmoid()
    cut = [masks(1, 40, seed=2)[0], masks(1, 40, seed=3)[0]]
    total = 0.0
    for f in range(FRAMES):
        for n in range(2):
            frame = np.clip((pixels[f].numpy() + 1) / 2, 0, 1) * where[f].numpy()
            photograph = photographs[n].numpy() * cut[n].numpy()
            a, b = (clip.images(torch.from_numpy(each)[None])[0].numpy() for each in (frame, photograph))
            total += float(a @ b / np.sqrt((a @ a) * (b @ b)))
    vectors = torch.cat([clip.images(p[None] * m) for p, m in zip(photographs, cut, strict=True)])
    found = pixel_reward(pixels, where, vectors, clip) / FRAMES
    assert float(found) == pytest.approx(total / (FRAMES * 2), rel=1e-5)


def test_masks_take_the_nearest_pixel() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:6, 2:6] = 1
    assert torch.equal(shrunk(mask, (4, 4))[0], torch.nn.functional.pad(torch.ones(2, 2), (1, 1, 1, 1)))


def problem(backbone: Backbone, clip: CLIP, frames: tuple[int, ...] = (0, 1, 2)) -> Objective:
    where = masks(FRAMES, 32)
    where[[n for n in range(FRAMES) if n not in frames]] = 0
    sight = Sight(film=where, frames=frames, reference=masks(1, 32)[0], photographs=clip.images(draw(2, 3, 32, 32)))
    return Objective(backbone=backbone, encoder=clip, sight=sight, target=draw(4, seed=4))


def clean(backbone: Backbone, z1: Tensor) -> Tensor:
    t = torch.tensor(200)
    prediction = backbone.predict(z1, t, backbone.encode_text("a dog on the beach"))
    return backbone.parametrization.x0(z1, prediction, t)


def naive(backbone: Backbone, clip: CLIP, objective: Objective, z1: Tensor) -> tuple[Tensor, Tensor]:
    """All frames decoded and looked at at once, and one call of autograd through everything."""
    leaf = z1.clone().requires_grad_()
    z0 = clean(backbone, leaf)
    sight = objective.sight
    small = torch.nn.functional.interpolate(sight.film[:, None], size=(8, 8), mode="nearest-exact")[:, 0]
    means = torch.stack([(z0[0, :, f] * small[f]).sum((1, 2)) / small[f].sum() for f in sight.frames])
    latent = torch.nn.functional.cosine_similarity(means, objective.target[None]).sum()
    pixels = (backbone.decode_video(z0)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
    seen = clip.images((pixels * sight.film[:, None])[list(sight.frames)])
    total = latent + (seen @ sight.photographs.T).mean(1).sum() / FRAMES
    (gradient,) = torch.autograd.grad(total, leaf)
    return total.detach(), gradient


@pytest.mark.parametrize("frames", [(0, 1, 2), (0, 2)])
def test_the_gradient_is_the_naive_one(tiny: Backbone, clip: CLIP, frames: tuple[int, ...]) -> None:
    objective, z1 = problem(tiny, clip, frames), draw(1, 4, FRAMES, 8, 8, seed=5)
    total, expected = naive(tiny, clip, objective, z1)
    with recomputed(tiny.pieces()):
        z0, rewards, found = ascent(lambda x: clean(tiny, x), objective, z1)
    assert float(rewards.sum()) == pytest.approx(float(total), rel=1e-5)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert torch.allclose(objective.worth(z0), rewards, atol=1e-6)


def test_recomputing_changes_no_bit_and_leaves_nothing_behind(tiny: Backbone, clip: CLIP) -> None:
    objective, z1 = problem(tiny, clip), draw(1, 4, FRAMES, 8, 8, seed=5)
    kept = ascent(lambda x: clean(tiny, x), objective, z1)
    before = [dict(vars(m)) for part in tiny.parts() for m in part.modules()]
    with recomputed(tiny.pieces()):
        again = ascent(lambda x: clean(tiny, x), objective, z1)
    for a, b in zip(kept, again, strict=True):
        assert torch.equal(a, b)
    assert [dict(vars(m)) for part in tiny.parts() for m in part.modules()] == before


def test_a_ddpm_step_is_equation_2() -> None:
    process = Parametrization.from_betas()
    betas = np.linspace(0.00085, 0.012, 1000)
    powers = np.cumprod(1 - betas)
    x, prediction, noise = (draw(1, 4, 2, 3, 3, seed=s).double() for s in range(3))
    for t in (1, 500):
        alpha, sigma = 1 - betas[t], np.sqrt((1 - powers[t - 1]) / (1 - powers[t]) * betas[t])
        z, epsilon = x.numpy(), prediction.numpy()
        expected = (z - (1 - alpha) / np.sqrt(1 - powers[t]) * epsilon) / np.sqrt(alpha) + sigma * noise.numpy()
        found = ancestral(process, x, prediction, t, noise).numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_the_scale_is_exact() -> None:
    assert np.log2(SCALE) % 1 == 0
