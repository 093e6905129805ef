"""Short naive forms: noise, attention with overwritten columns, reward gradients, training steps, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import cosine_similarity

from starring.backbones.base import Backbone
from starring.diffusion.sampling import trajectory
from starring.methods.base import Batch
from starring.methods.personalvideo import PersonalVideo
from starring.perception.encoders import CLIP
from starring.perception.jitter import jitter
from starring.reward.ascent import Objective, average, shrunk


def sigma(gamma: float, frames: int) -> Tensor:
    """VCD's eq. 4 (arXiv 2402.09368): ``gamma ** |m - n|``."""
    number = torch.arange(frames)
    return gamma ** (number[:, None] - number[None]).abs().double()


def multivariate(shape: Sequence[int], gamma: float) -> Tensor:
    """The prior as VCD's released code draws it, ``b c f h w``."""
    b, c, frames, h, w = shape
    drawn = MultivariateNormal(torch.zeros(frames), sigma(gamma, frames).float()).sample((b, c, h, w))
    return drawn.movedim(-1, 2)


def materialised(q: Tensor, k: Tensor, v: Tensor, columns: Sequence[int], logits: Tensor) -> Tensor:
    """Attention whose map ``b h n m`` is held, some of its columns overwritten by ``logits``, ``b h c n``."""
    whole = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    whole[..., list(columns)] = logits.transpose(-1, -2).to(whole)
    return whole.softmax(-1) @ v


def reward_gradient(clean: Callable[[Tensor], Tensor], objective: Objective, z1: Tensor) -> Tensor:
    """BridgeIV's reward gradient with all frames decoded and looked at at once, every activation kept."""
    leaf, sight = z1.clone().requires_grad_(), objective.sight
    z0 = clean(leaf)
    means = average(z0[0], shrunk(sight.film, z0.shape[3:]))
    latent = cosine_similarity(means, objective.target[None]).sum()
    pixels = (objective.backbone.decode_video(z0)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
    seen = objective.encoder.images(pixels * sight.film[:, None])
    (gradient,) = torch.autograd.grad(latent + (seen @ sight.photographs.T).mean(), leaf)
    return gradient


def film_gradient(
    method: PersonalVideo, backbone: Backbone, batch: Batch, parameters: Sequence[Tensor]
) -> Sequence[Tensor]:
    """PersonalVideo's gradient through all sampling steps, with every frame decoded and one of them looked at."""
    c, identity, dice = method.config, batch.identity, batch.generator
    assert identity is not None
    (prompt,) = method.simulated()
    torch.randint(1, (), generator=dice)  # which of the one prompt's starts
    side, device = backbone.sample.height, backbone.device
    shape = backbone.latent_shape(backbone.sample.frames, side, side)
    with method.attached(backbone):
        with torch.no_grad():
            text = backbone.encode_text([method.prompt(prompt)])
        x = torch.randn(1, *shape, generator=dice).to(device).requires_grad_()
        predict: Callable[[Tensor, Tensor], Tensor] = lambda x, t: method.predict(backbone, x, t, text)  # noqa: E731
        for step in trajectory(predict, backbone.scheduler(), x, c.steps, generator=dice):
            x = step.x
        frames = (backbone.decode_video(x)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
        number = int(torch.randperm(len(frames), generator=dice)[0])
        target = identity.references[torch.randint(len(identity.references), (), generator=dice)]
        crops, _ = identity.eyes.crop(frames[number : number + 1])
        worn = jitter(crops, dice, flip=c.flip, colour=c.colour, hue=c.hue)
        likeness = identity.eyes.encoder.images(worn)[0] @ target.to(device)
        return torch.autograd.grad(1 - likeness + c.penalty * method.penalty(), list(parameters))


def four_scripts(clip: CLIP, frames: Tensor, references: Tensor, prompt: str) -> list[float]:
    """CLIP-T, CLIP-I, T.Cons and VBench's background consistency as scripts that each look at every frame.

    Args:
        clip: the encoder.
        frames: ``f 3 H W`` in [0, 1].
        references: ``r 3 H W``.
        prompt: in words that CLIP knows.
    """

    def each(pictures: Tensor) -> list[Tensor]:
        return [clip.images(picture[None])[0].double() for picture in pictures]

    def mean(values: Sequence[Tensor]) -> float:
        return float(torch.stack(list(values)).mean())

    text = clip.texts([prompt])[0].double()
    said = mean([vector @ text for vector in each(frames)])
    seen, known = each(frames), each(references)
    alike = mean([one @ other for one in seen for other in known])
    steady = mean([one @ other for one, other in pairwise(each(frames))])
    seen = each(frames)
    kept = mean([((now @ before).clamp_min(0) + (now @ seen[0]).clamp_min(0)) / 2 for before, now in pairwise(seen)])
    return [said, alike, steady, kept]
