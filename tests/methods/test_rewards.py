"""What a film is worth: which frames are looked at, what they are compared with, and what CLIP says beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.methods.rewards import Looks, worth
from starring.perception.encoders import load_clip
from starring.perception.identity import IdentityEyes, MaskedSubjects
from tests.methods.test_contract import batch
from tests.methods.test_personalvideo import fresh, moved, rewarded
from tests.perception.tiny_eyes import tiny_clip
from tests.perception.tiny_identity import tiny_identity
from tests.reward.middle import Middle


def seen(tiny: Backbone, sees: Callable[[int], bool] = lambda _: True, **options: object) -> tuple[Tensor, list[int]]:
    """The likeness under options, and the frames that were decoded for it, of four that are told apart."""
    whole, frames = tiny_identity(), list[int]()
    blind = IdentityEyes(finder=MaskedSubjects(Middle(sees), "dog"), encoder=whole.eyes.encoder)
    film = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, *tiny.latent_shape(4, 32, 32)) / 4

    def decoded(latents: Tensor) -> Tensor:
        frames.append(round(4 * float(latents.mean())))
        return torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(frames[-1])) * 2 - 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "decode_video", decoded)
        looks = Looks(**{"flip": False, "colour": 0.0, "hue": 0.0, **options})  # type: ignore[arg-type]
        identity = replace(whole, eyes=blind)
        found = worth(film, "a dog", tiny, identity, looks, torch.Generator().manual_seed(1))
    return torch.tensor(torch.nan) if found is None else found["likeness"], frames


def test_a_film_may_be_looked_at_otherwise(tiny: Backbone) -> None:
    """P5, P6 and P8, by hand."""
    identity = tiny_identity()

    def vector(frame: int, whole: bool = False) -> Tensor:
        pixels = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(frame))[:, :, 0]
        crop = pixels if whole else identity.eyes.crop(pixels)[0]
        return identity.eyes.encoder.images(crop)[0]

    draws = torch.Generator().manual_seed(1)
    order = torch.randperm(4, generator=draws).tolist()
    one = identity.references[int(torch.randint(3, (), generator=draws))]
    mean = identity.references.mean(0) / identity.references.mean(0).norm()
    close = {"abs": 1e-5}
    found, frames = seen(tiny)
    assert (frames, float(found)) == (order[:1], pytest.approx(float(vector(order[0]) @ one), **close))
    found, frames = seen(tiny, reference="mean")
    assert (frames, float(found)) == (order[:1], pytest.approx(float(vector(order[0]) @ mean), **close))
    found, frames = seen(tiny, looks=3)
    slow = sum(float(vector(frame) @ one) for frame in order[:3]) / 3
    assert (frames, float(found)) == (order[:3], pytest.approx(slow, **close))
    found, frames = seen(tiny, lambda _: False)
    assert frames == order[:2]
    assert found.isnan()
    found, frames = seen(tiny, lambda _: False, unseen="frame")
    assert (frames, float(found)) == (order[:2], pytest.approx(float(vector(order[1], whole=True) @ one), **close))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"unseen": "fram"}, "frame"),
        ({"reference": "first"}, "random"),
        ({"looks": 0}, "looks"),
        ({"tries": 0}, "tries"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, object], match: str) -> None:
    with pytest.raises(StarringError, match=match):
        Looks(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_semantic_reward_is_the_cosine_of_the_whole_frame_with_its_prompt(tiny: Backbone, tmp_path: Path) -> None:
    """The same film twice: the second time its only frame is compared with the prompt by other means."""
    clip = load_clip(str(tiny_clip(tmp_path / "clip")))
    words = {"prompts": ["a <*> dog, jumping"], "simulated": 1, "frames": 1, "flip": False, "colour": 0.0, "hue": 0.0}
    torch.manual_seed(4)
    method, identity = moved(fresh(tiny, semantic=0.3, **words)), replace(tiny_identity(), clip=clip)
    whole = method.loss(tiny, rewarded(tiny, 3, identity), 0.0)
    generator = batch(tiny, 1, 3).generator
    with torch.no_grad(), method.attached(tiny):
        film, prompt = method.film(tiny, generator)
        shown = (tiny.decode_video(film)[:, :, 0].clamp(-1, 1) + 1) / 2
        mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        ids = clip.tokenizer("a dog, jumping", return_tensors="pt").input_ids
        both = clip.network(input_ids=ids, pixel_values=(shown - mean) / std)  # as large as the network's pictures
    assert prompt == "a <*> dog, jumping"
    slow = float((both.image_embeds * both.text_embeds).sum())
    assert float(whole.parts["semantics"]) == pytest.approx(slow, abs=1e-4)
    torch.manual_seed(4)
    alone = moved(fresh(tiny, **words)).loss(tiny, rewarded(tiny, 3, tiny_identity()), 0.0)
    assert "semantics" not in alone.parts
    added = 0.3 * (1 - float(whole.parts["semantics"]))
    assert float(whole.total.detach()) == pytest.approx(float(alone.total.detach()) + added, rel=1e-5)
    with pytest.raises(StarringError, match="bring a CLIP"):
        method.loss(tiny, rewarded(tiny), 0.0)
