"""P9: the gradient of BridgeIV's rewards (2505.06985, section 4.2), frame by frame, against all frames at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.forms import reward_gradient
from starring.layers.attach import recomputed
from starring.reward.ascent import Objective, Sight, ascent
from tests.counters import Alive

FRAMES = {"cpu": 8, "gpu": 4}
"""All frames at once do not fit beside the network for sixteen frames of 512x512."""


def build(world: World) -> Case:
    """Memory is what exists at once, whether kept for backward, recomputed, or on its way."""
    own, frames, side = world.backbone, FRAMES[world.suite], world.backbone.sample.height
    with torch.no_grad():
        text = own.encode_text("a dog")
        photographs = world.clip.images(world.noise(3, 3, side, side, seed=1).sigmoid())
    mask = torch.zeros(frames, side, side, device=world.device)
    mask[:, side // 4 : -side // 4, side // 4 : -side // 4] = 1
    sight = Sight(film=mask, frames=tuple(range(frames)), reference=mask[0], photographs=photographs)
    target = world.noise(4, seed=2).float()
    objective = Objective(backbone=own, encoder=world.clip, sight=sight, target=target)
    z1, t = world.noise(1, *own.latent_shape(frames, side, side), seed=3), torch.tensor(41, device=world.device)

    def clean(x: Tensor) -> Tensor:
        return own.parametrization.x0(x, own.predict(x, t, text), t)

    def ours() -> Tensor:
        with recomputed(own.pieces()):
            return ascent(clean, objective, z1)[2]

    def naive() -> Tensor:
        return reward_gradient(clean, objective, z1)

    one, other = ours().float(), naive().float()
    peaks = {name: peak(world, compute) for name, compute in (("ours", ours), ("naive", naive))}
    return Case(
        id="P9", title="the gradient of the rewards", size=f"{own.name}, {frames} frames of {side}x{side}",
        variants={"frame by frame": ours, "all at once": naive},
        counters={
            "relative error of the gradient": float((one - other).norm() / other.norm()),
            "MiB": peaks["ours"] / 2**20, "MiB of the naive form": peaks["naive"] / 2**20,
            "times less memory": peaks["naive"] / peaks["ours"],
        },
        goals=(
            Goal(what="times less memory", sign=">=", bar=3 if world.full else 10),
            Goal(what="frame by frame / all at once", sign="<=", bar=1.4),
            Goal(what="relative error of the gradient", sign="<=", bar=2e-2 if world.full else 1e-5),
        ),
    )  # fmt: skip


def peak(world: World, compute: Callable[[], Any]) -> int:
    """Most bytes of tensors that a computation makes and that exist at once."""
    watch = Alive([*world.backbone.parts(), world.clip.network])
    with watch:
        compute()
    return watch.peak
