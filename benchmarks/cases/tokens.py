"""P11: a guided step with VCD's learned words (2402.09368) on the network, against the plain step."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.counters import flops
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from starring.methods import build as method_of
from starring.methods.base import Method, Plain, PlainConfig, Request, read


def build(world: World) -> Case:
    """Reading the prompts is part of a film and not of a step; here it is part of both, once for a step."""
    own, s = world.backbone, world.backbone.sample
    vcd = method_of("vcd", own, {"class_word": "dog"}).to(world.device)
    plain = Plain(own, PlainConfig(class_word="dog"))
    noise = world.noise(1, *own.latent_shape(s.frames, s.height, s.width)).expand(2, -1, -1, -1, -1)
    request, t = Request(prompt="a <*> dog", sample=s, negative=""), torch.tensor(500)

    def step(method: Method) -> Tensor:
        with method.attached(own), torch.no_grad():
            return method.predict(own, noise, t, read(method, own, request))

    return Case(
        id="P11", title="a guided step with learned words",
        size=f"{own.name}, {s.frames} frames of {s.height}x{s.width}",
        variants={"plain": lambda: step(plain), "with words": lambda: step(vcd)},
        counters={"operations over plain": flops(lambda: step(vcd)) / flops(lambda: step(plain))},
        goals=(
            Goal(what="with words / plain", sign="<=", bar=1.02 if world.full else 1.03),
            Goal(what="operations over plain", sign="<=", bar=1.001),
        ),
    )  # fmt: skip
