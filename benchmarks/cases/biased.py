"""P3 to P5: attention under CustomVideoX's two biases (2502.06527, eq. 7 and 8), without a mask and without a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.counters import largest
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.joint import materialised
from starring.layers.joint import biased_attention, entity_map, plain_attention, stretched


def build(world: World) -> Case:
    """The attention of one layer alone, all tokens in one softmax, with both biases and with none."""
    heads, width = (48, 64) if world.full else (8, 64)
    words, cells, frames, far = (226, 1350, 7, 1350) if world.full else (226, 336, 7, 336)
    n = words + frames * cells
    query = world.noise(1, heads, n, width, seed=1)
    key, value = (world.noise(1, heads, n + far, width, seed=s) for s in (2, 3))
    columns, weight, time = torch.tensor([4, 5]), torch.ones(1, 2), torch.tensor([[-0.6]])
    columns, weight, time = (each.to(world.device) for each in (columns, weight, time))

    def unbiased() -> Tensor:
        return plain_attention(query, key, value, None)

    def biased() -> Tensor:
        def bias(sums: Sequence[Tensor]) -> Tensor:
            film = slice(words, None)
            found = stretched(entity_map(query[:, :, film], key[:, :, columns], weight, sums[0][:, :, film]), frames)
            video = time + 0.1 * (found > 0.1).float()
            return torch.cat([torch.zeros(1, words, device=world.device), video], dim=1).unsqueeze(1)

        text, film, far = (slice(0, words), slice(words, n), slice(n, None))
        return biased_attention(query, [(key[:, :, part], value[:, :, part]) for part in (text, film, far)], bias)

    def held() -> Tensor:
        return materialised(query, key, value, words, columns, time, frames, 0.1, 0.1)

    ours, peer = biased(), held()
    return Case(
        id="P3", title="attention with both biases", size=f"{heads} heads, {n} + {far} tokens",
        variants={"unbiased": unbiased, "biased": biased, "map held": held},
        counters={
            "relative error": float((ours - peer).float().abs().max() / peer.float().abs().max()),
            "largest tensor, in queries": largest(biased) / (query.numel() * query.element_size()),
            "largest tensor of the map held, in queries": largest(held) / (query.numel() * query.element_size()),
            **exactness(),
        },
        goals=(
            Goal(what="biased / unbiased", sign="<=", bar=1.03 if world.full else 1.06),
            Goal(what="map held / biased", sign=">=", bar=3),
            Goal(what="relative error", sign="<=", bar=2e-2 if world.full else 1e-5),
            Goal(what="largest tensor, in queries", sign="<=", bar=2),
            Goal(what="gradient in float64 off by", sign="<=", bar=1e-12),
        ),
    )  # fmt: skip


def exactness() -> dict[str, float]:
    """P5: how far value and gradients of the merge lie from a dense mask's, relative, in float64."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    query, key, value = leaf(1, 2, 20, 16), leaf(1, 2, 26, 16), leaf(1, 2, 26, 16)
    bias, weight = leaf(1, 1, 20), torch.randn(1, 2, 20, 16, generator=generator, dtype=torch.float64)
    logits = query @ key.transpose(-1, -2) / 4
    logits = torch.cat([logits[..., :20], logits[..., 20:] + bias[..., None]], dim=-1)
    wanted = logits.softmax(-1) @ value
    parts = (slice(0, 20), slice(20, None))
    found = biased_attention(query, [(key[:, :, at], value[:, :, at]) for at in parts], bias)
    leaves = (query, key, value, bias)
    pairs = zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in (found, wanted)), strict=True)
    return {
        "value in float64 off by": float(((found - wanted).abs().max() / wanted.abs().max()).detach()),
        "gradient in float64 off by": max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs),
    }
