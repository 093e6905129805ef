"""P6: DualReal's adapters and controller (2505.02192) beside the plain blocks, and written as they stand."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Case, Goal
from benchmarks.models import World, video_backbone
from benchmarks.naive.dual import plainly
from starring.backbones.base import Text
from starring.layers.dual import DualAdapter
from starring.methods.dualreal import DualReal, DualRealConfig


def build(world: World) -> Case:
    """Blocks of the real width on a GPU; on a CPU two of width 768 over 1,576 tokens."""
    heads, blocks = (48, 42) if world.full else (12, 2)
    own = video_backbone(world, heads, blocks)
    h, w, f = (60, 90, 13) if world.full else (30, 36, 5)
    method = DualReal(own, DualRealConfig(groups=7 if world.full else 1, image_width=1024)).to(world.device)
    for number, (name, parameter) in enumerate(method.named_parameters()):
        if "up" in name:
            parameter.data.copy_(world.noise(*parameter.shape, seed=100 + number) * 0.02)
    method.get_buffer("image").copy_(world.noise(1024, seed=4))
    method = method.to(world.dtype)
    x = world.noise(1, 16, f, h, w, seed=1)
    embeddings = world.noise(1, 226, own.denoiser.config.text_embed_dim, seed=3)  # pyright: ignore
    text, t = Text(embeddings=embeddings, ids=torch.zeros(1, 0)), torch.tensor(500)
    pairs = {key: each for key, each in method.adapters.items() if isinstance(each, DualAdapter)}

    def plain() -> Tensor:
        with torch.no_grad():
            return own.predict(x, t, text)

    def folded() -> Tensor:
        method._folded = kept
        try:
            return one_by_one(False)
        finally:
            method._folded = {}

    def one_by_one(naive: bool = True) -> Tensor:
        with method.attached(own), torch.no_grad():
            if not naive:
                return method.predict(own, x, t, text)
            with plainly(method.adapters):
                return method.predict(own, x, t, text)

    kept = {key: pair.folded(method.shown, "both", own.dtype) for key, pair in pairs.items()}
    base, made, peer = plain(), folded(), one_by_one()
    return Case(
        id="P6", title="identity and motion adapters, folded",
        size=f"{blocks} blocks of {64 * heads}, {f * h * w // 4 + 226} tokens",
        variants={"plain": plain, "folded": folded, "one by one": one_by_one},
        counters={
            "difference from one by one": float((made - peer).abs().max() / peer.abs().max()),
            "change by the adapters": float((made - base).abs().max() / peer.abs().max()),
        },
        goals=(
            Goal(what="folded / plain", sign="<=", bar=1.03 if world.full else 1.07),
            Goal(what="added by folded / one by one", sign="<=", bar=1 / 3),
            Goal(what="difference from one by one", sign="<=", bar=2e-2 if world.full else 1e-5),
        ),
    )  # fmt: skip
