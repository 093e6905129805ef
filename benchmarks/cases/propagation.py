"""P7: a step of BridgeIV's propagation (2505.06985, section 4.1), against a plain step and the naive form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.stpm import Naive
from starring.backbones.base import Backbone, Text
from starring.methods import build as method_of
from starring.methods.base import Request
from starring.methods.bridgeiv import BridgeIV

AT = (700, 500)
"""Timesteps: features for matching exist from the second step on."""
SIDE = 128
"""Of the miniature's frames. It was trained for 64, where calls of small operations are most of the time."""
Around = Callable[[], AbstractContextManager[None]]


def step(
    method: BridgeIV, backbone: Backbone, text: Text, noise: Tensor, t: int, image: Around | None, film: Around
) -> Tensor:
    """One guided step's calls of the network."""
    x = noise.expand(2, -1, -1, -1, -1)
    if image is not None:
        with backbone.still(), image():
            method.predict(backbone, x[:, :, :1], torch.tensor(t), text)
    with film():
        return method.predict(backbone, x, torch.tensor(t), text)


def build(world: World) -> Case:
    """The floor is the customized model without propagation, under guidance, whose film has as many frames."""
    own, s = world.backbone, world.backbone.sample
    method = method_of("bridgeiv", own, {"class_word": "dog", "dreambooth": "none"})
    if not isinstance(method, BridgeIV):
        raise TypeError("the method bridgeiv is BridgeIV")
    method = method.to(world.device)
    side = s.height if world.full else SIDE
    shape = own.latent_shape(s.frames, side, side)
    _, f, h, w = shape
    noise = world.noise(1, *shape)
    with method.attached(own), torch.no_grad():
        text = own.encode_text(["", method.prompt("a <*> dog")])
        stpm = method.propagation(own, text, (f, h, w), Request(prompt="", sample=s))
    naive = Naive(own, stpm.columns[0], (f, h, w))
    forms: dict[str, tuple[Around | None, Around]] = {
        "plain": (None, nullcontext),
        "propagated": (stpm.watched, stpm.bridged),
        "naive": (lambda: naive.run(False), lambda: naive.run(True)),
    }

    def once(name: str, t: int) -> Tensor:
        with method.attached(own), torch.no_grad():
            return step(method, own, text, noise, t, *forms[name])

    made = {name: [once(name, t) for t in AT][-1] for name in forms}
    size = made["naive"].abs().max()
    counters = {
        "difference from the naive form": float((made["propagated"] - made["naive"]).abs().max() / size),
        "change by propagation": float((made["propagated"] - made["plain"]).abs().max() / size),
    }
    return Case(
        id="P7", title="a step of propagation", size=f"{own.name}, {f} frames, latents {h}x{w}, guidance",
        variants={name: lambda name=name: once(name, AT[-1]) for name in forms}, counters=counters,
        goals=(
            Goal(what="propagated / plain", sign="<=", bar=1.12 if world.full else 1.20),
            Goal(what="naive / propagated", sign=">=", bar=1.5 if world.full else 2),
            Goal(what="difference from the naive form", sign="<=", bar=2e-2 if world.full else 1e-3),
        ),
    )  # fmt: skip
