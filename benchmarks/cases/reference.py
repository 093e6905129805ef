"""P1 to P3: a step of CustomVideoX (2502.06527) beside the plain step, beside a dense mask, and without its biases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import Case, Goal
from benchmarks.models import World, video_backbone
from benchmarks.naive import joint as naive
from starring.backbones.base import Backbone, Reference, Text
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig

T = 500
"""A timestep, half way: the time-aware bias is not zero there."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A film and a photograph in latents."""

    backbone: Backbone
    x: Tensor
    photograph: Tensor
    text: Text

    @property
    def tokens(self) -> tuple[int, int]:
        """Of text and film, and of the photograph."""
        own = self.x.shape[-1] * self.x.shape[-2] // 4
        return self.text.embeddings.shape[1] + self.x.shape[2] * own, own


def scene(world: World, side: int = 1) -> Scene:
    """A film of 25 frames; on a CPU of 128 x 192 pixels times ``side``: at 1, 704 tokens with the text, beside 96.

    At full size a ``side`` above 1 makes it longer, 49 frames.
    """
    backbone = video_backbone(world, heads=48 if world.full else 4, blocks=42 if world.full else 4 // side)
    h, w, words = (60, 90, 226) if world.full else (16 * side, 24 * side, 32)
    frames = 13 if world.full and side > 1 else 7
    x, photograph = world.noise(1, 16, frames, h, w, seed=1), world.noise(1, 16, 1, h, w, seed=2)
    embeddings = world.noise(1, words, backbone.denoiser.config.text_embed_dim, seed=3)  # pyright: ignore
    return Scene(backbone=backbone, x=x, photograph=photograph, text=Text(embeddings=embeddings, ids=torch.zeros(1, 0)))


def adapted(world: World, own: Backbone, form: str) -> CustomVideoX:
    """The method with changes that are not zero."""
    method = CustomVideoX(own, CustomVideoXConfig(form=form, rank=128 if world.full else 16)).to(world.device)
    for number, (name, parameter) in enumerate(method.named_parameters()):
        if name.endswith("up.weight"):
            parameter.data.copy_(world.noise(*parameter.shape, seed=100 + number) * 0.02)
    return method.to(world.dtype)


def build(world: World, side: int = 1) -> Case:
    """A whole step with the reference's keys and values kept, as Algorithm 1 has it, under the time-aware bias.

    The naive form runs the reference along and masks what it must not see. By operations it is an eighth more, whatever
    the size; its mask, tokens times tokens, weighs the more the larger the film. So the second goal has a larger one.
    """
    place = scene(world, side)
    own, x, text = place.backbone, place.x, place.text
    method = adapted(world, own, "cached")
    reference = Reference(latents=place.photograph, t=0)
    t = torch.tensor(T)

    def cached() -> Tensor:
        with method.attached(own), torch.no_grad():
            for layer, kept in zip(method._attached, read, strict=True):
                layer.kept = kept
            method._read_for = place.photograph, x.shape[2]
            return method._beside(own, x, t, text, place.photograph, None, method.bias(own, t))

    def plain() -> Tensor:
        with torch.no_grad():
            return own.predict(x, t, text)

    def dense() -> Tensor:
        with naive.attached(own, method.adapters, place.tokens[1], lambda: method.bias(own, t)), torch.no_grad():
            return own.predict(x, t, text, reference)

    with method.attached(own), torch.no_grad():
        method._beside(own, x, t, text, place.photograph, None, method.bias(own, t))
        read = [layer.kept for layer in method._attached]
    made, peer = cached(), dense()
    own_tokens, more = place.tokens
    return Case(
        id=f"P{side}", title="a step beside a reference read once", size=f"{own_tokens} + {more} tokens",
        variants={"plain": plain, "cached": cached, "dense mask": dense},
        counters={
            "difference from the dense mask": float((made - peer).abs().max() / peer.abs().max()),
            "change by the reference": float((made - plain()).abs().max() / peer.abs().max()),
        },
        goals=(
            Goal(what="cached / plain", sign="<=", bar=(1.06 if side > 1 else 1.08) if world.full else 1.12),
            Goal(what="dense mask / cached", sign=">=", bar=1.4 if world.full else 1.25 if side > 1 else 1.12),
            Goal(what="difference from the dense mask", sign="<=", bar=2e-2 if world.full else 1e-4),
        ),
    )  # fmt: skip


def joint(world: World) -> Case:
    """A whole step with the reference beside the film, under both biases and under none.

    Without a bias, text, film and reference are one call of the kernel; with both they are three, merged.
    """
    place = scene(world, 1 if world.full else 2)
    own, x, text = place.backbone, place.x, place.text
    method = adapted(world, own, "joint")
    t, entity = torch.tensor(T), (torch.tensor([4, 5]).to(world.device), torch.ones(1, 2, device=world.device))

    def unbiased() -> Tensor:
        with method.attached(own), torch.no_grad():
            return method._beside(own, x, t, text, place.photograph, None, None)

    def biased() -> Tensor:
        with method.attached(own), torch.no_grad():
            return method._beside(own, x, t, text, place.photograph, entity, method.bias(own, t))

    own_tokens, more = place.tokens
    without = unbiased()
    return Case(
        id="P3.step", title="a step with both biases", size=f"{own_tokens} + {more} tokens",
        variants={"unbiased": unbiased, "biased": biased},
        counters={"change by the biases": float((biased() - without).abs().max() / without.abs().max())},
        goals=(
            Goal(what="biased / unbiased", sign="<=", bar=1.03 if world.full else 1.05),
            Goal(what="change by the biases", sign=">=", bar=1e-5),
        ),
    )  # fmt: skip
