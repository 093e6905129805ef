"""P8: overwriting a column of a cross-attention map without holding the map (BridgeIV, 2505.06985, eq. 4)."""

from __future__ import annotations

from torch.nn.functional import scaled_dot_product_attention

from benchmarks.counters import largest
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.forms import materialised
from starring.layers.attention import overwritten

COLUMNS = (5,)
WORDS = 77


def build(world: World) -> Case:
    """The largest cross-attention of Stable Diffusion 1.5, for sixteen frames under guidance, or four on a CPU."""
    batch, heads, cells, width = (32 if world.full else 4, 8, 4096, 40)
    q = world.noise(batch, heads, cells, width, seed=1)
    k, v = (world.noise(batch, heads, WORDS, width, seed=s) for s in (2, 3))
    logits = world.noise(batch, heads, len(COLUMNS), cells, seed=4)
    ours, naive = overwritten(q, k, v, COLUMNS, logits), materialised(q, k, v, COLUMNS, logits)
    error = float((ours - naive).float().abs().max() / naive.float().abs().max())
    held = largest(lambda: overwritten(q, k, v, COLUMNS, logits)) / (q.numel() * q.element_size())
    return Case(
        id="P8", title="a column of cross-attention overwritten",
        size=f"{batch} images x {heads} heads x {cells} cells x {WORDS} words, {str(q.dtype).removeprefix('torch.')}",
        variants={
            "plain attention": lambda: scaled_dot_product_attention(q, k, v),
            "overwritten": lambda: overwritten(q, k, v, COLUMNS, logits),
            "whole map": lambda: materialised(q, k, v, COLUMNS, logits),
        },
        counters={
            "relative error": error, "largest tensor, in queries": held,
            "largest tensor of the whole map, in queries": largest(lambda: materialised(q, k, v, COLUMNS, logits))
            / (q.numel() * q.element_size()),
        },
        goals=(
            Goal(what="overwritten / plain attention", sign="<=", bar=1.10 if world.full else 1.08),
            Goal(what="whole map / overwritten", sign=">=", bar=1.6),
            Goal(what="largest tensor, in queries", sign="<=", bar=2),
            Goal(what="relative error", sign="<=", bar=5e-3 if world.full else 1e-5),
        ),
    )  # fmt: skip
