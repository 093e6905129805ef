"""P10: a training step of PersonalVideo (2411.17048, section 4.1), against gradient through the whole film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.counters import flops
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.forms import film_gradient
from starring.backbones.animatediff import AnimateDiff, linear_lcm
from starring.methods import build as method_of
from starring.methods.base import Batch
from starring.methods.personalvideo import PersonalVideo
from starring.methods.personalvideo_options import ADAPTER_STAGE
from tests.perception.tiny_identity import tiny_identity

FRAMES = {"cpu": 16, "gpu": 8}
"""Gradient through all steps of sixteen frames of 512x512, all of them decoded, fits on no GPU."""

FULL = (
    Goal(what="times more operations through the film", sign=">=", bar=2.3),
    Goal(what="times more than from a kept start", sign=">=", bar=5),
    Goal(what="whole film / last step", sign=">=", bar=2.2),
    Goal(what="whole film / kept start", sign=">=", bar=4.5),
)
"""What is to be reached at the size of Stable Diffusion 1.5; tests count its operations without a GPU."""


def build(world: World) -> Case:
    """All forms give the same gradient: the adapter is closed in the first three of four steps.

    Eyes of a few thousand weights look, so that what they cost hides nothing.
    """
    own, frames = world.backbone, FRAMES[world.suite]
    assert isinstance(own, AnimateDiff)
    student = AnimateDiff(
        denoiser=own.denoiser, vae=own.vae, text_encoder=own.text_encoder, tokenizer=own.tokenizer,
        scheduler=linear_lcm(), sample=replace(own.sample, frames=frames, steps=4, guidance=1.0),
    )  # fmt: skip
    identity = tiny_identity()
    identity.eyes.encoder.to(world.device)  # pyright: ignore[reportAttributeAccessIssue]
    empty = Batch(latents=torch.zeros(1), captions=[""], identity=identity)
    fresh, pooled = (_method(world, student, pool) for pool in (0, 1))

    def batch() -> Batch:
        return replace(empty, generator=torch.Generator().manual_seed(world.seed))

    def learned(method: PersonalVideo) -> Sequence[Tensor]:
        loss = method.loss(student, batch(), 0.0).total
        return torch.autograd.grad(loss, list(method.learns(ADAPTER_STAGE)))

    def whole() -> Sequence[Tensor]:
        return film_gradient(fresh, student, batch(), list(fresh.learns(ADAPTER_STAGE)))

    learned(pooled)  # its start is kept from here on
    one, other = (torch.cat([g.flatten().float() for g in form]) for form in (learned(fresh), whole()))
    counts = {name: flops(form) for name, form in (("one", lambda: learned(fresh)), ("kept", lambda: learned(pooled)))}
    naive = flops(whole)
    return Case(
        id="P10", title="a step of PersonalVideo", size=f"{own.name}, {frames} frames of {own.sample.height}",
        variants={"last step": lambda: learned(fresh), "kept start": lambda: learned(pooled), "whole film": whole},
        counters={
            "relative error of the gradient": float((one - other).norm() / other.norm()),
            "times more operations through the film": naive / counts["one"],
            "times more than from a kept start": naive / counts["kept"],
        },
        goals=(
            Goal(what="relative error of the gradient", sign="<=", bar=2e-2 if world.full else 1e-4),
            # A small VAE costs next to nothing, so what fifteen frames less save shows at full size only.
            *(FULL if world.full else ()),
        ),
    )  # fmt: skip


def _method(world: World, student: AnimateDiff, pool: int) -> PersonalVideo:
    """With an adapter that does something, and one prompt."""
    method = method_of("personalvideo", student, {"class_word": "dog", "simulated": 0, "rank": 4, "pool": pool})
    assert isinstance(method, PersonalVideo)
    for number, (name, parameter) in enumerate(method.adapter.named_parameters()):
        if name.endswith("up.weight"):
            parameter.data.copy_(world.noise(*parameter.shape, seed=100 + number) * 0.02)
    return method.to(world.device)
