"""BridgeIV where the paper can be read in two ways: what is matched, when, and beside which image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler, PNDMScheduler
from torch import Tensor

from starring.backbones.animatediff import AnimateDiff
from starring.backbones.base import Backbone
from starring.diffusion.inversion import inverted
from starring.layers.matching import Flow
from starring.methods.bridgeiv import BridgeIV, aside
from tests.methods.test_bridgeiv import PROMPT, made, noise, wanted


def with_schedule(tiny: Backbone, kind: type[Any]) -> AnimateDiff:
    """The same networks, sampled otherwise."""
    assert isinstance(tiny, AnimateDiff)
    options: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
    if kind is PNDMScheduler:
        options["skip_prk_steps"] = True
    return AnimateDiff(
        denoiser=tiny.denoiser, vae=tiny.vae, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer,
        scheduler=kind(**options), sample=tiny.sample,
    )  # fmt: skip


def bridge(method: BridgeIV, tiny: Backbone, size: tuple[int, int, int] = (3, 8, 8)) -> Any:
    with method.attached(tiny), torch.no_grad():
        return method.propagation(tiny, tiny.encode_text([method.prompt(PROMPT)]), size, wanted(tiny))


def test_what_is_matched(tiny: Backbone) -> None:
    """B7: the second-to-last level before it is enlarged, after that, or with the level before it."""
    blocks: Any = tiny.denoiser.up_blocks  # pyright: ignore[reportAttributeAccessIssue]
    assert bridge(made(tiny), tiny).taps == [blocks[-2].motion_modules[-1]]
    assert bridge(made(tiny, features="enlarged"), tiny).taps == [blocks[-2].upsamplers[-1]]
    two = [block.upsamplers[-1] for block in blocks[-3:-1]]
    assert bridge(made(tiny, features="two"), tiny).taps == two
    assert len(two) == min(2, len(blocks) - 1)


def test_the_soft_argmax_knows_how_wide_a_film_is(tiny: Backbone) -> None:
    """B8: of so low a temperature that it is the argmax, on a grid that is no square."""
    hard, soft = (bridge(made(tiny, softness=value), tiny, (2, 8, 16)) for value in (0.0, 1e-5))
    features = [noise(6, 3, 32, 8, 16)]
    found: list[Flow] = []
    for stpm in (hard, soft):
        stpm.features = features
        found.append(stpm.flow(128))
    assert torch.equal(found[0].links, found[1].links)
    assert len(found[0].links.unique()) > 16


def test_the_first_step_and_those_outside_the_window_are_left_alone(tiny: Backbone) -> None:
    """B9: a window of one step changes what that step predicts, and nothing before it."""
    plain = latents(made(tiny, structure=False, texture=False), tiny)
    for window, first in (((0, 0), 3), ((1, 1), 1), ((2, 2), 2), ((0, 1), 1)):
        steps = latents(made(tiny, steps=window), tiny)
        same = [torch.equal(a, b) for a, b in zip(plain, steps, strict=True)]
        assert same == [i < first for i in range(3)], window


def latents(method: BridgeIV, tiny: Backbone) -> list[Tensor]:
    """The film's latents as each of its three steps was asked about them, and those that are left in the end."""
    seen: list[Tensor] = []
    predict = tiny.predict

    def watched(x: Tensor, t: Tensor, text: Any) -> Tensor:
        out = predict(x, t, text)
        if x.shape[2] == 4:
            seen.append(out.clone())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "predict", watched)
        method.generate(tiny, wanted(tiny))
    return seen


@pytest.mark.parametrize("reference", ["own", "shared"])
def test_the_image_is_a_still_of_the_same_prompt(reference: str, tiny: Backbone) -> None:
    """B17: drawn without motion modules, from noise of its own, or from the first frame's."""
    method = made(tiny, reference=reference)
    both = method.bridged(tiny, wanted(tiny))
    request = wanted(tiny)
    start = noise_of(request.generator)[:, :, :1]
    if reference == "own":
        after = wanted(tiny).generator
        noise_of(after)
        own = aside(after)
        assert own is not None
        start = torch.randn(1, 4, 1, 8, 8, generator=own)
    alone = made(tiny, structure=False, texture=False)
    with tiny.still():
        slow = alone.generate(tiny, wanted(tiny, noise=start, sample=replace(tiny.sample, frames=1)))
    torch.testing.assert_close(both.reference, slow, atol=1e-4, rtol=1e-4)


def noise_of(generator: torch.Generator | None) -> Tensor:
    return torch.randn(1, 4, 4, 8, 8, generator=generator)


def test_the_words_of_the_class_may_be_carried_too(tiny: Backbone) -> None:
    """B6: their columns come after the subject's."""
    own, both = (bridge(made(tiny, words=words), tiny).columns for words in ("subject", "class"))
    assert set(own) < set(both)
    film, usual = (made(tiny, **options).generate(tiny, wanted(tiny)) for options in ({"words": "class"}, {}))
    assert not torch.equal(film, usual)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers' schedulers that ask twice a step
@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler])
def test_a_clip_is_joined_at_its_step(kind: type[Any], tiny: Backbone) -> None:
    """Also where a schedule asks twice a step, and with the film that there is without propagation."""
    backbone = with_schedule(tiny, kind)
    method, clip = made(backbone), noise(3, 1, 4, 4, 8, 8)
    assert torch.equal(method.generate(backbone, wanted(backbone, init=clip, strength=0.0)), clip)
    told: list[tuple[int, int]] = []
    film = method.generate(backbone, wanted(backbone, init=clip, strength=0.6, on_step=lambda *s: told.append(s)))
    assert told[-1][0] == told[-1][1]
    assert told[0][0] > 1
    if kind is DDIMScheduler:
        assert told == [(2, 3), (3, 3)]
    expected: list[tuple[int, int]] = []
    off = made(backbone, structure=False, texture=False)
    asked = wanted(backbone, init=clip, strength=0.6, on_step=lambda *s: expected.append(s))
    assert not torch.equal(film, off.generate(backbone, asked))
    assert told == expected


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers' schedulers that ask twice a step
@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler, PNDMScheduler])
def test_a_photograph_can_be_the_reference(kind: type[Any], tiny: Backbone) -> None:
    """The network is asked about its way from noise, as a still under the prompt alone inverts it."""
    backbone = with_schedule(tiny, kind)
    method, photograph = made(backbone), noise(4, 1, 4, 1, 8, 8)
    seen: list[Tensor] = []
    predict = backbone.predict

    def watched(x: Tensor, t: Tensor, text: Any) -> Tensor:
        if x.shape[2] == 1 and len(x) == 2:
            seen.append(x[1:].clone())
        return predict(x, t, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "predict", watched)
        both = method.bridged(backbone, wanted(backbone, reference=photograph))
    assert torch.equal(both.reference, photograph)
    assert not torch.equal(both.film, method.generate(backbone, wanted(backbone)))
    with method.attached(backbone), torch.no_grad(), backbone.still():
        text = backbone.encode_text([method.prompt(PROMPT)])
        way = inverted(lambda x, t: predict(x, t, text), backbone.scheduler(), photograph, backbone.sample.steps)
    assert len(seen) == len(way)
    for asked, there in zip(seen, way, strict=True):
        torch.testing.assert_close(asked, there, atol=1e-4, rtol=1e-4)
