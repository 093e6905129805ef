"""Reward optimization of finished films: after any method, with what can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Reward, from_json, to_json
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.generate.control import load_controlnet
from starring.layers.control import controlled
from starring.methods import build, recipe
from starring.methods.base import Method, Plain, PlainConfig, Request
from starring.methods.bridgeiv import BridgeIV, BridgeIVConfig
from starring.miniature import album, world
from starring.perception.encoders import CLIP, load_clip
from starring.perception.segment import load_segmenter
from starring.reward import Eyes, Result, Rewarded, optimise, options_of
from starring.reward.film import normalised, still
from tests.families import ANIMATED
from tests.perception.tiny_eyes import tiny_clip
from tests.reward.middle import Middle
from tests.tiny import tiny_controlnet

SMALL = Reward(iterations=3, step=0.002, guarded=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    return load_clip(str(tiny_clip(tmp_path_factory.mktemp("eyes") / "clip")))


def photographs() -> list[Image.Image]:
    found: list[Image.Image] = []
    for shift in range(2):
        image = Image.new("RGB", (48, 40), (60, 90, 60))
        ImageDraw.Draw(image).ellipse((10 + shift, 8, 34 + shift, 32), fill=(200, 120, 40))
        found.append(image)
    return found


def eyes(clip: CLIP, sees: Callable[[int], bool] = lambda _: True) -> Eyes:
    return Eyes(segmenter=Middle(sees), encoder=clip, word="dog", photographs=photographs())


def asked(backbone: Backbone, seed: int = 5) -> Request:
    generator = torch.Generator().manual_seed(seed)
    return Request(prompt="a <*> dog on the beach", sample=backbone.sample, generator=generator)


def rewarded(backbone: Backbone, clip: CLIP, method: Method | None = None, options: Reward = SMALL) -> Rewarded:
    return Rewarded(method or Plain(backbone, PlainConfig(class_word="dog")), eyes(clip), options)


def total(result: Result | None) -> list[float]:
    assert result is not None
    return [rewards.total for rewards in result.history]


@pytest.mark.slow
@pytest.mark.parametrize("name", ANIMATED)
def test_the_reward_rises_after_any_method(name: str, tiny: Backbone, clip: CLIP) -> None:
    method = build(name, tiny).requires_grad_(False)
    before = tiny.predict(torch.ones(1, 4, 2, 8, 8), 5, tiny.encode_text("a dog"))
    film = method.generate(tiny, asked(tiny))
    found = rewarded(tiny, clip, method)
    better = found.generate(tiny, asked(tiny))
    history = total(found.result)
    assert len(history) == SMALL.iterations + 1
    assert all(later > sooner for sooner, later in pairwise(history))
    assert better.shape == film.shape
    assert not torch.equal(better, film)
    assert not better.requires_grad
    # Nothing stays on the network.
    assert torch.equal(tiny.predict(torch.ones(1, 4, 2, 8, 8), 5, tiny.encode_text("a dog")), before)


@pytest.mark.slow
def test_one_seed_is_one_film(tiny: Backbone, clip: CLIP) -> None:
    one, two = (rewarded(tiny, clip).generate(tiny, asked(tiny)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"latent": "mean"}, {"estimate": "ddpm"}, {"normalised": False, "step": 1.0}])
def test_other_readings_climb_too(options: dict[str, object], tiny: Backbone, clip: CLIP) -> None:
    chosen = from_json(Reward, to_json(SMALL) | options)
    found = rewarded(tiny, clip, options=chosen)
    found.generate(tiny, asked(tiny))
    history = total(found.result)
    assert history[-1] > history[0]
    assert found.result is not None
    frames = tiny.sample.frames
    assert abs(found.result.history[0].latent) <= (1 if chosen.latent == "mean" else frames)


@pytest.mark.slow
def test_a_step_too_far_is_taken_back(tiny: Backbone, clip: CLIP) -> None:
    histories = []
    for guarded in (True, False):
        found = rewarded(tiny, clip, options=Reward(iterations=4, step=2.0, guarded=guarded))
        found.generate(tiny, asked(tiny))
        histories.append(total(found.result))
    kept, loose = histories
    assert any(later < sooner for sooner, later in pairwise(loose))
    assert all(later >= sooner for sooner, later in pairwise(kept))
    assert kept[-1] == max(kept)


def test_a_step_has_the_length_that_was_asked_for() -> None:
    gradient = torch.randn(1, 4, 3, 5, 5) * torch.tensor([1.0, 1e-6, 0.0])[:, None, None]
    size = normalised(gradient, (0, 1, 2)).square().mean((0, 1, 3, 4)).sqrt()
    assert torch.allclose(size, torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    size = normalised(gradient, (0,)).square().mean((0, 1, 3, 4)).sqrt()
    assert torch.allclose(size, torch.tensor([1.0, 0.0, 0.0]), atol=1e-5), "a frame without the subject stays"


# The pictures are shown in this order: the film's frames, the reference, the photographs.
@pytest.mark.parametrize(
    ("sees", "where"),
    [
        (lambda n: n >= 4, "on any frame of the film"),
        (lambda n: n != 4, "on the reference image"),
        (lambda n: n < 5, "on any photograph"),
    ],
)
def test_a_film_stays_as_it_was_if_nothing_is_found(
    sees: Callable[[int], bool], where: str, tiny: Backbone, clip: CLIP
) -> None:
    plain = Plain(tiny, PlainConfig(class_word="dog"))
    found = Rewarded(plain, eyes(clip, sees), SMALL)
    with pytest.warns(UserWarning, match=f"No 'dog' was found {where} by middle"):
        film = found.generate(tiny, asked(tiny))
    assert torch.equal(film, plain.generate(tiny, asked(tiny)))
    assert found.result is not None
    assert where in found.result.told
    assert not found.result.history


def test_what_is_asked_for_replaces_the_recipes_own_defaults() -> None:
    own = recipe("bridgeiv-miniature").reward
    assert (own, recipe("bridgeiv").reward) == (Reward(latent="mean"), None)
    assert options_of(True) == Reward()
    assert options_of(True, own) == own
    assert options_of({"iterations": 3}, own) == Reward(latent="mean", iterations=3)
    assert options_of({}, own) == own
    assert options_of(Reward(), own) == Reward()
    assert options_of(False, own) is options_of(None, own) is None
    assert Reward().latent == "sum"  # as printed


def test_photographs_are_looked_at_once(tiny: Backbone, clip: CLIP) -> None:
    looking, film = eyes(clip), torch.zeros(1, 4, 2, 8, 8)
    first, second = (looking.sight(tiny, film, film[:, :, :1]) for _ in range(2))
    assert isinstance(looking.segmenter, Middle)
    assert looking.segmenter.shown == 2 * 3 + 2
    assert torch.equal(first.photographs, second.photographs)


def test_frames_and_photographs_without_the_subject_are_left_out(tiny: Backbone, clip: CLIP) -> None:
    looking = eyes(clip, lambda n: n not in {1, 5})
    plain, request = Plain(tiny, PlainConfig(class_word="dog")), asked(tiny)
    film = plain.generate(tiny, request)
    sight = looking.sight(tiny, film, film[:, :, :1])
    assert sight.frames == (0, 2, 3)
    assert sight.photographs.shape[0] == 1
    result = optimise(tiny, plain, film, film[:, :, :1], asked(tiny), eyes(clip, lambda n: n != 1), SMALL)
    assert total(result)[-1] > total(result)[0]


def test_the_last_good_film_is_kept_when_the_reward_breaks(tiny: Backbone, clip: CLIP) -> None:
    plain = Plain(tiny, PlainConfig(class_word="dog"))
    film = plain.generate(tiny, asked(tiny))
    reckless = Reward(iterations=4, step=1e38, normalised=True, guarded=False)
    with pytest.warns(UserWarning, match="no number in iteration 2"):
        result = optimise(tiny, plain, film, film[:, :, :1], asked(tiny), eyes(clip), reckless)
    whole = optimise(
        tiny, plain, film, film[:, :, :1], asked(tiny), eyes(clip), replace(SMALL, iterations=1, step=1e-9)
    )
    torch.testing.assert_close(result.latents, whole.latents, atol=1e-5, rtol=1e-5)
    assert len(result.history) == 1
    broken = torch.full_like(film[:, :, :1], torch.nan)
    with pytest.warns(UserWarning, match="no number in iteration 1"):
        result = optimise(tiny, plain, film, broken, asked(tiny), eyes(clip), SMALL)
    assert torch.equal(result.latents, film)


def test_the_image_a_film_was_made_beside_is_its_reference(tiny: Backbone, clip: CLIP) -> None:
    seen: list[Tensor] = []
    build("bridgeiv", tiny).generate(tiny, replace(asked(tiny), on_reference=seen.append))
    assert [each.shape for each in seen] == [(1, 4, 1, 8, 8)]
    plain = Plain(tiny, PlainConfig(class_word="dog"))
    own = still(plain, tiny, asked(tiny))
    assert own.shape == (1, 4, 1, 8, 8)
    again = replace(asked(tiny), sample=replace(tiny.sample, frames=1))
    with tiny.still():
        assert torch.equal(own, plain.generate(tiny, again))


def test_iterations_are_told_as_further_steps(tiny: Backbone, clip: CLIP) -> None:
    told: list[tuple[int, int]] = []
    request = replace(asked(tiny), on_step=lambda step, total: told.append((step, total)))
    rewarded(tiny, clip).generate(tiny, request)
    steps = tiny.sample.steps + SMALL.iterations
    assert told == [*((i + 1, steps) for i in range(steps)), (steps, steps)]


def test_options_are_checked() -> None:
    with pytest.raises(StarringError, match="Did you mean 'sum'"):
        Reward(latent="sums")
    for values in ({"iterations": 0}, {"step": 0.0}):
        with pytest.raises(StarringError, match="at least 1 iteration and a positive step"):
            from_json(Reward, values)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("cat", 4020), ("car", 4060)])
def test_the_reward_rises_on_subjects_that_nothing_was_trained_on(kind: str, seed: int, tmp_path: Path) -> None:
    """In every iteration, with the default step, and without taking back a step that was too far."""
    backbone = load_backbone("miniature", device="cpu")
    album.write(tmp_path / kind, world.identity(seed, kind), count=3)
    subject = Subject.from_folder(tmp_path / kind, class_word=kind)
    looking = Eyes(segmenter=load_segmenter(), encoder=load_clip(), word=kind, photographs=subject.images)
    options = Reward(iterations=5, latent="mean", guarded=False)  # what recipes of the miniature ask for, unguarded
    found = Rewarded(Plain(backbone, PlainConfig(class_word=kind)), looking, options)
    sample = replace(backbone.sample, frames=4, steps=8)
    prompt = f"a <*> {kind} standing still on the meadow"
    found.generate(backbone, replace(asked(backbone), prompt=prompt, sample=sample))
    history = np.array(total(found.result))
    assert len(history) == 6
    assert (np.diff(history) > 0).all()
    assert history[-1] > history[0] + 0.05


@pytest.mark.slow
def test_bridgeiv_and_rewards_go_with_a_controlnet(tiny: Backbone, clip: CLIP, tmp_path: Path) -> None:
    shown = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = load_controlnet(str(tiny_controlnet(tmp_path)), tiny).network
    method = BridgeIV(tiny, BridgeIVConfig(class_word="dog")).requires_grad_(False)
    better = Rewarded(method, eyes(clip), Reward(iterations=1))
    for each in (method, better):
        free = each.generate(tiny, asked(tiny))
        with controlled(tiny.denoiser, loaded, shown):
            led = each.generate(tiny, asked(tiny))
        assert led.isfinite().all()
        assert not torch.equal(free, led)


def test_a_ddpm_step_must_end_at_clean_latents(tiny: Backbone, clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler of few steps, such as AnimateLCM's, ends far from timestep 1."""
    plain = tiny.scheduler

    def trailing() -> Any:
        return type(plain()).from_config(plain().config, timestep_spacing="trailing")

    monkeypatch.setattr(tiny, "scheduler", trailing)
    found = rewarded(tiny, clip, options=replace(SMALL, estimate="ddpm"))
    with pytest.raises(StarringError, match=r"last of 3 steps of .* is \d+\. Choose 'deterministic'"):
        found.generate(tiny, asked(tiny))


def test_offloaded_networks_are_not_rewarded(tiny: Backbone, clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "_device", torch.device("cpu"))
    assert tiny.offloaded
    with pytest.raises(StarringError, match="Leave --offload out"):
        rewarded(tiny, clip).generate(tiny, asked(tiny))
