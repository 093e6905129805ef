"""Reward optimization as a whole: against the naive form, and what happens when a step goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNetMotionModel
from PIL import Image
from torch import Tensor

import starring.reward.film as ttro
from starring.backbones.base import Backbone
from starring.config import Reward
from starring.methods.base import Plain, PlainConfig
from starring.perception.encoders import CLIP, load_clip
from starring.reward import Eyes, Result, optimise
from starring.reward.film import _ascended, _Clean, small
from tests.perception.tiny_eyes import tiny_clip
from tests.reward.test_film import asked, photographs

PLAIN = Reward(iterations=2, step=0.7, normalised=False, guarded=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    return load_clip(str(tiny_clip(tmp_path_factory.mktemp("optimise") / "clip")))


class Halves:
    """The subject is on the left of a film's four frames, on the right of its reference, at the top of photographs."""

    id = "halves"

    def __init__(self) -> None:
        self.shown = 0

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        found: list[Tensor] = []
        for image in images:
            found.append(half(self.shown, image.height, image.width))
            self.shown += 1
        return found


def half(number: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width)
    if number < 4:
        mask[:, : width // 2] = 1
    elif number == 4:
        mask[:, width // 2 :] = 1
    else:
        mask[: height // 2] = 1
    return mask


def naive(tiny: Backbone, clip: CLIP, film: Tensor, reference: Tensor) -> tuple[Tensor, list[float]]:
    """Section 4.2 in one go: all frames decoded at once, autograd through everything, plain lambda."""
    request, process = asked(tiny), tiny.parametrization
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(request.sample.steps)
    t = scheduler.timesteps[-1]
    assert process.alphas_cumprod is not None
    a = process.alphas_cumprod[int(t)]
    z1, zr = (
        a.sqrt() * z + (1 - a).sqrt() * torch.randn(z.shape, generator=request.generator) for z in (film, reference)
    )
    text = tiny.encode_text("a dog on the beach")

    def clean(z: Tensor) -> Tensor:
        return (z - (1 - a).sqrt() * tiny.predict(z, t, text)) / a.sqrt()

    with torch.no_grad(), tiny.still():
        target = clean(zr)[0, :, 0, :, 4:].mean((1, 2))
    looks: list[Tensor] = []
    for picture in photographs():
        pixels = torch.tensor(list(picture.convert("RGB").tobytes())).view(picture.height, picture.width, 3)
        pixels = pixels.permute(2, 0, 1)[None] / 255
        looks.append(clip.images(pixels * half(9, picture.height, picture.width)))
    history: list[float] = []
    for _ in range(PLAIN.iterations + 1):
        leaf = z1.clone().requires_grad_()
        z0 = clean(leaf)
        reward = torch.zeros(())
        for f in range(4):
            mean = z0[0, :, f, :, :4].mean((1, 2))
            reward = reward + torch.dot(mean, target) / (mean.norm() * target.norm())
        frames = ((tiny.decode_video(z0)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2) * half(0, 32, 32)
        for frame in frames:
            for look in looks:
                reward = reward + (clip.images(frame[None]) @ look.T).sum() / (4 * len(looks))
        history.append(float(reward.detach()))
        (gradient,) = torch.autograd.grad(reward, leaf)
        z1 = z1 + PLAIN.step * gradient
    return z0.detach(), history


def test_it_is_section_4_2(tiny: Backbone, clip: CLIP) -> None:
    method = Plain(tiny, PlainConfig(class_word="dog"))
    film = method.generate(tiny, asked(tiny))
    reference = film[:, :, 2:3] * 0.5
    expected, history = naive(tiny, clip, film, reference)
    looking = Eyes(segmenter=Halves(), encoder=clip, word="dog", photographs=photographs())
    found = optimise(tiny, method, film, reference, asked(tiny), looking, PLAIN)
    assert [each.total for each in found.history] == pytest.approx(history, abs=1e-5)
    torch.testing.assert_close(found.latents, expected, atol=2e-5, rtol=1e-4)
    assert (found.latents - film).abs().max() > 1e-3


def test_one_draw_of_noise_serves_all_iterations(tiny: Backbone) -> None:
    """B13: otherwise the reward would change without a step."""
    method = Plain(tiny, PlainConfig(class_word="dog"))
    clean = _Clean(tiny, method, asked(tiny), replace(PLAIN, estimate="ddpm"))
    z1 = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(clean(z1), clean(z1))


def climbed(monkeypatch: pytest.MonkeyPatch, rewards: list[float], options: Reward) -> tuple[Result, list[float]]:
    """An ascent along ones through given rewards, and where it asked; clean latents are ten times the noisy ones."""
    places: list[float] = []

    def told(clean: object, objective: object, z1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places.append(round(float(z1.mean()), 6))
        return 10 * z1, torch.tensor([rewards[len(places) - 1], 0.0]), torch.ones_like(z1)

    monkeypatch.setattr(ttro, "ascent", told)
    monkeypatch.setattr(ttro, "looked", told)
    nothing: Any = None
    z1 = torch.zeros(1, 1, 1, 2, 2)
    return _ascended(nothing, nothing, z1 + 7, z1, options, lambda _: None), places


def test_a_step_that_lost_is_taken_back_and_steps_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(PLAIN, iterations=5, step=1.0, guarded=True)
    result, places = climbed(monkeypatch, [0.0, 1.0, 0.5, 2.0, 1.9, 3.0], options)
    assert places == [0, 1, 2, 1.5, 2.0, 1.75]
    assert [each.total for each in result.history] == [0, 1, 1, 2, 2, 3]
    assert float(result.latents.mean()) == 17.5


def test_the_last_good_film_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(PLAIN, iterations=4, step=1.0)
    with pytest.warns(UserWarning, match="no number in iteration 4"):
        result, _ = climbed(monkeypatch, [0.0, 1.0, 2.0, float("nan")], options)
    assert float(result.latents.mean()) == 20
    assert [each.total for each in result.history] == [0, 1, 2]
    with pytest.warns(UserWarning, match="no number in iteration 1"):
        result, _ = climbed(monkeypatch, [float("nan")], options)
    assert float(result.latents.mean()) == 7, "the film that was given"


def test_whatever_is_large_is_computed_twice(tiny: Backbone, clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768, use_motion_mid_block=True)
    real: Any = SimpleNamespace(denoiser=unet)
    assert not small(real, torch.empty(1, 4, 4, 32, 32, device="meta")), "Stable Diffusion, whatever the film's size"
    assert small(tiny, torch.zeros(1, 4, 4, 8, 8))
    assert not small(tiny, torch.zeros(1, 4, 16, 32, 32)), "16 frames of 256 x 256 pixels"
    entered: list[int] = []
    inside: Callable[[Any], Any] = ttro.recomputed

    @contextmanager
    def watched(pieces: Any) -> Iterator[None]:
        entered.append(len(pieces))
        with inside(pieces):
            yield

    monkeypatch.setattr(ttro, "recomputed", watched)
    method = Plain(tiny, PlainConfig(class_word="dog"))
    film = method.generate(tiny, asked(tiny))

    def better() -> Tensor:
        looking = Eyes(segmenter=Halves(), encoder=clip, word="dog", photographs=photographs())
        return optimise(tiny, method, film, film[:, :, :1], asked(tiny), looking, PLAIN).latents

    kept = better()
    assert not entered
    monkeypatch.setattr(ttro, "SMALL", 1)
    assert torch.equal(better(), kept)
    assert entered == [len(tiny.pieces())]
