"""P13: a training step of words on cached moments of the VAE, against encoding the photographs in each step."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.counters import flops
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from starring.methods import build as method_of
from starring.methods.base import Batch

BATCH = 2


def build(world: World) -> Case:
    """The same loss and gradient; only where its latents come from differs."""
    own, side = world.backbone, world.backbone.sample.height
    method = method_of("vcd", own, {"class_word": "dog"}).to(world.device)
    method.train()
    photographs = world.noise(BATCH, 3, 1, side, side, seed=1).tanh()
    with torch.no_grad():
        moments = own.encode_moments(photographs)
    parameters = list(method.learns("tokens"))
    # VCD draws its noise from the batch's generator, which both forms begin alike.
    empty = Batch(latents=moments.mean, captions=["photo of a <*> dog"] * BATCH)

    def step(encode: bool) -> None:
        generator = torch.Generator().manual_seed(world.seed)
        with torch.no_grad():
            found = own.encode_moments(photographs) if encode else moments
            latents = found.mean + found.std * world.noise(*found.mean.shape, seed=2)
        batch = replace(empty, latents=latents, generator=generator)
        with method.attached(own):
            loss = method.loss(own, batch, 0.0).total
            torch.autograd.grad(loss, parameters)

    return Case(
        id="P13", title="a training step of words", size=f"{own.name}, {BATCH} photographs of {side}x{side}",
        variants={"cached": lambda: step(False), "encoding": lambda: step(True)},
        counters={"times more operations when encoding": flops(lambda: step(True)) / flops(lambda: step(False))},
        goals=(
            Goal(what="times more operations when encoding", sign=">=", bar=1.5),
            Goal(what="encoding / cached", sign=">=", bar=1.5),
        ),
    )  # fmt: skip
