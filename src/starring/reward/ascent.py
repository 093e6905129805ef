"""Both rewards, and their gradient in little memory (BridgeIV, arXiv 2505.06985, section 4.2).

Legend: ``f`` frames, ``c h w`` latents, ``H W`` pixels, ``n`` photographs, ``d`` width of the encoder's vectors. ``z1``
are latents at the sampler's last timestep, ``z0`` the clean ones that one call of the network makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from starring.backbones.base import Backbone
from starring.diffusion.parametrization import Parametrization
from starring.perception.encoders import ImageEncoder

SCALE = 4096.0
"""Gradients are this much larger on their way, or half precision would round the smallest to zero. A power of two."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sight:
    """Where the subject is, and what it looks like."""

    film: Tensor
    """Masks of the frames, ``f H W`` in {0, 1}; a frame without the subject is empty and gives no reward."""
    frames: tuple[int, ...]
    """The numbers of the frames that show the subject, from 0."""
    reference: Tensor
    """Mask of the reference image, ``H W``."""
    photographs: Tensor
    """The encoder's unit vectors of the photographs outside of whose masks everything is black, ``n d``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewards:
    """What a film was worth."""

    latent: float
    """R_lat: in [-J, J] for J frames, or in [-1, 1] if it is averaged."""
    pixel: float
    """R_pixel, in [-1, 1]."""

    @property
    def total(self) -> float:
        """What is maximised."""
        return self.latent + self.pixel


def shrunk(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks ``f H W`` at the size of the latents: every cell takes the nearest pixel."""
    return interpolate(masks[:, None], size=tuple(size), mode="nearest-exact")[:, 0]


def average(latents: Tensor, masks: Tensor) -> Tensor:
    """``mean(z . M)``, over the foreground only: ``c f h w`` and ``f h w`` to ``f c``; zero where a mask is empty."""
    inside = (latents * masks).sum((2, 3)) / masks.sum((1, 2)).clamp_min(1)
    return inside.T


def latent_reward(latents: Tensor, masks: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """R_lat: how alike the subject's average colour in latent space is to the reference's.

    Args:
        latents: ``c f h w``.
        masks: ``f h w``.
        target: the reference's average, ``c``.
        reduction: over frames (B15): ``sum``, as printed, or ``mean``.

    Returns:
        A number. Frames with an empty mask add nothing, and gradient is zero there.
    """
    found = masks.flatten(1).any(1)
    each = cosine_similarity(average(latents, masks), target[None], dim=1).mul(found)
    return each.sum() if reduction == "sum" else each.mean()


def pixel_reward(pixels: Tensor, masks: Tensor, photographs: Tensor, encoder: ImageEncoder) -> Tensor:
    """``sum over f, mean over n`` of ``Clip(F_f . M_f, I_n . M_n)``; R_pixel is that divided by the film's length.

    Args:
        pixels: frames ``f 3 H W`` around [-1, 1], cut off there as they will be in the film.
        masks: ``f H W``; outside a frame becomes black.
        photographs: unit vectors ``n d``.
        encoder: CLIP's image tower.
    """
    cut = ((pixels.clamp(-1, 1) + 1) / 2) * masks[:, None]
    vectors = encoder.images(cut)  # on the encoder's device, which may be another
    return (vectors @ photographs.to(vectors).T).mean(1).sum().to(pixels.device)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """R_lat + R_pixel of clean latents, with everything in it that stays the same during the ascent."""

    backbone: Backbone
    """Decodes."""
    encoder: ImageEncoder
    """Looks."""
    sight: Sight
    """Where the subject is."""
    target: Tensor
    """:func:`average` of the reference's clean latents, ``c``."""
    reduction: str = "sum"
    """Of R_lat."""

    def latent(self, z0: Tensor) -> Tensor:
        """R_lat of ``1 c f h w``."""
        return latent_reward(z0[0], shrunk(self.sight.film, z0.shape[3:]), self.target, self.reduction)

    def pixel(self, frame: Tensor, number: int) -> Tensor:
        """What the frame of this number, ``1 c 1 h w``, adds to R_pixel."""
        pixels = self.backbone.decode_video(frame)[0].transpose(0, 1)
        masks = self.sight.film[number : number + 1]
        return pixel_reward(pixels, masks, self.sight.photographs, self.encoder) / len(self.sight.film)

    @torch.no_grad()
    def worth(self, z0: Tensor) -> Tensor:
        """R_lat and R_pixel of ``1 c f h w``, as ``(2,)``."""
        parts = [self.pixel(z0[:, :, n : n + 1], n) for n in self.sight.frames]
        return torch.stack([self.latent(z0), torch.stack(parts).sum()])

    def gradient(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """Both rewards of ``1 c f h w``, ``(2,)``, and the gradient of their sum times :data:`SCALE`, ``1 c f h w``.

        R_pixel is a mean over frames, each of which is decoded alone, so the activations of one frame exist at a time.
        """
        leaf = z0.detach().requires_grad_()
        latent = self.latent(leaf)
        (found,) = torch.autograd.grad(latent * SCALE, leaf)
        parts: list[Tensor] = []
        for n in self.sight.frames:
            frame = z0[:, :, n : n + 1].detach().requires_grad_()
            part = self.pixel(frame, n)
            found[:, :, n : n + 1] += torch.autograd.grad(part * SCALE, frame)[0]
            parts.append(part.detach())
        return torch.stack([latent.detach(), torch.stack(parts).sum()]), found


def ascent(clean: Callable[[Tensor], Tensor], objective: Objective, z1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reward of the film that ``z1`` becomes, and how ``z1`` should change.

    The network is differentiated once, after all frames were looked at: a vector-Jacobian product. What it costs in
    memory is what ``clean`` keeps for that.

    Args:
        clean: one call of the network, ``z1`` to ``z0``.
        objective: the reward.
        z1: ``1 c f h w``.

    Returns:
        ``z0``, both rewards ``(2,)``, and the gradient of their sum with respect to ``z1``.
    """
    leaf = z1.detach().requires_grad_()
    z0 = clean(leaf)
    rewards, found = objective.gradient(z0)
    (gradient,) = torch.autograd.grad(z0, leaf, found)
    return z0.detach(), rewards, gradient / SCALE


@torch.no_grad()
def looked(clean: Callable[[Tensor], Tensor], objective: Objective, z1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`ascent` for a place from which nothing follows: the gradient is told as zero, and not computed."""
    z0 = clean(z1)
    return z0, objective.worth(z0), torch.zeros_like(z1)


def ancestral(process: Parametrization, x: Tensor, prediction: Tensor, t: int, noise: Tensor) -> Tensor:
    """Eq. 2, one step of DDPM (B13), with the posterior's standard deviation for sigma (B14).

    Args:
        process: a variance-preserving one.
        x: latents at ``t``.
        prediction: what the network answers there.
        t: a timestep.
        noise: unit noise of that shape.
    """
    powers = process.alphas_cumprod
    assert powers is not None
    power, before = float(powers[t]), float(powers[t - 1]) if t > 0 else 1.0
    alpha = power / before
    epsilon = process.noise(x, prediction, torch.tensor(t))
    sigma = ((1 - before) / (1 - power) * (1 - alpha)) ** 0.5
    return (x - (1 - alpha) / (1 - power) ** 0.5 * epsilon) / alpha**0.5 + sigma * noise
