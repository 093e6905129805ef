"""P14 to P16: CustomVideoX's attention (2502.06527) under a chosen backend, compiled, and under diffusers' caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from benchmarks.cases.reference import Scene, adapted, scene
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from starring.backbones.base import Backbone
from starring.layers import kernels
from starring.layers.reference import ReferenceAttention
from starring.methods.customvideox import CustomVideoX

TIMES = (900, 800, 700, 500, 321, 200, 100, 40)
"""Timesteps of a short film."""
Step = Callable[[Tensor], Tensor]


def _small(world: World) -> tuple[Scene, CustomVideoX]:
    """What is counted is the same at every size, so full size is not needed."""
    place = scene(replace(world, suite="cpu"))
    return place, adapted(world, place.backbone, "joint")


def _step(place: Scene, method: CustomVideoX) -> Step:
    """A step beside the photograph under the time-aware bias, to be called while the method is attached."""

    def step(t: Tensor) -> Tensor:
        with torch.no_grad():
            bias = method.bias(place.backbone, t)
            return method._beside(place.backbone, place.x, t, place.text, place.photograph, None, bias)

    return step


def _stock(place: Scene) -> Step:
    """The plain network's."""

    def step(t: Tensor) -> Tensor:
        with torch.no_grad():
            return place.backbone.predict(place.x, t, place.text)

    return step


def chosen(world: World) -> Case:
    """P14: a user's choice of a backend reaches every kernel under the bias."""
    place, method = _small(world)
    asked: list[int] = []
    formula = kernels.FORMULA

    def watched(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
        asked.append(len(q))
        return formula.forward(q, k, v)

    layers = len(place.backbone.sites("joint"))
    step = _step(place, method)
    with patch.object(kernels, "FORMULA", kernels.Kernel(watched, formula.backward)), method.attached(place.backbone):
        usual, before = step(torch.tensor(500)), len(asked)
        with attention_backend("_native_math"):
            other = step(torch.tensor(500))
    return Case(
        id="P14", title="an attention backend of one's own choice", size=f"{layers} layers",
        counters={
            "calls unasked": float(before),
            "calls for each layer": len(asked) / layers,
            "difference": float((usual - other).float().abs().max() / usual.float().abs().max()),
        },
        goals=(
            Goal(what="calls unasked", sign="<=", bar=0),
            Goal(what="calls for each layer", sign=">=", bar=2),
            Goal(what="difference", sign="<=", bar=2e-2 if world.full else 1e-4),
        ),
    )  # fmt: skip


@contextmanager
def whole_graphs(network: Any, counter: CompileCounter) -> Iterator[None]:
    """Every block in whole graphs; a break is an error."""
    torch._dynamo.reset()
    for block in network.transformer_blocks:
        block.compile(backend=counter, fullgraph=True)
    try:
        yield
    finally:
        for block in network.transformer_blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()


def compiled(world: World) -> Case:
    """P15: blocks compile into as many graphs as the plain network's, whatever the timestep."""
    place, method = _small(world)
    step, counters, graphs = _step(place, method), [CompileCounter(), CompileCounter()], list[int]()
    with whole_graphs(place.backbone.denoiser, counters[0]):
        _stock(place)(torch.tensor(TIMES[0]))
    with method.attached(place.backbone):
        slow = step(torch.tensor(TIMES[-1]))
        with whole_graphs(place.backbone.denoiser, counters[1]):
            for t in TIMES:
                fast = step(torch.tensor(t))
                graphs.append(counters[1].frame_count)
    return Case(
        id="P15", title="blocks compiled", size=f"{len(TIMES)} timesteps",
        counters={
            "graphs more than the plain network's": float(graphs[0] - counters[0].frame_count),
            "graphs for other timesteps": float(graphs[-1] - graphs[0]),
            "difference": float((fast - slow).float().abs().max() / slow.float().abs().max()),
        },
        goals=(
            Goal(what="graphs more than the plain network's", sign="<=", bar=0),
            Goal(what="graphs for other timesteps", sign="<=", bar=0),
            Goal(what="difference", sign="<=", bar=2e-2 if world.full else 1e-4),
        ),
    )  # fmt: skip


def caches(backbone: Backbone) -> dict[str, Any]:
    """The caches of diffusers, each so that it leaves something out of a short film."""

    def at() -> Any:
        return backbone.current_timestep

    blocks = ("transformer_blocks",)
    return {
        "pyramid attention broadcast": PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 950),
            spatial_attention_block_identifiers=blocks, current_timestep_callback=at,
        ),
        "faster cache": FasterCacheConfig(
            spatial_attention_block_skip_range=3, spatial_attention_timestep_skip_range=(-1, 950),
            spatial_attention_block_identifiers=blocks, current_timestep_callback=at,
            attention_weight_callback=lambda _: 0.5, unconditional_batch_skip_range=2,
            unconditional_batch_timestep_skip_range=(-1, 950), tensor_format="BFCHW",
        ),
        # What it leaves out depends on what the blocks say; at this threshold, always all that it can.
        "first block cache": FirstBlockCacheConfig(threshold=1e9),
        "taylorseer": TaylorSeerCacheConfig(
            cache_interval=3, disable_cache_before_step=2, max_order=1, use_lite_mode=True
        ),
    }  # fmt: skip


@contextmanager
def attention_batches() -> Iterator[list[int]]:
    """The batch of every call of an attention processor, as they come, but those that read the reference."""
    seen: list[int] = []

    def watched(original: Any) -> Any:
        @wraps(original)  # its signature says which arguments it gets
        def call(self: Any, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if getattr(self, "look", None) is None or self.look().form != "read":
                seen.append(len(hidden_states))
            return original(self, attn, hidden_states, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for kind in (CogVideoXAttnProcessor2_0, ReferenceAttention):
            stack.enter_context(patch.object(kind, "__call__", watched(kind.__call__)))
        yield seen


def _called(step: Step, backbone: Backbone) -> list[int]:
    """Those of a short film."""
    backbone.forget()
    with attention_batches() as seen:
        for t in TIMES:
            step(torch.tensor(t))
    return seen


def cached(world: World) -> Case:
    """P16: each of diffusers' caches leaves out what it leaves out of the plain network."""
    place, method = _small(world)
    place = replace(place, x=place.x.expand(2, -1, -1, -1, -1), text=place.text.expand(2))
    network: Any = place.backbone.denoiser
    whole = _called(_stock(place), place.backbone)
    counters: dict[str, float] = {}
    for name, config in caches(place.backbone).items():
        network.enable_cache(config)
        try:
            stock = _called(_stock(place), place.backbone)
            with method.attached(place.backbone):
                ours = _called(_step(place, method), place.backbone)
        finally:
            network.disable_cache()
        counters[f"{name}: calls otherwise"] = float(sum(a != b for a, b in zip(ours, stock, strict=False))) + abs(
            len(ours) - len(stock)
        )
        counters[f"{name}: rows left out"] = float(sum(whole) - sum(stock))
    return Case(
        id="P16", title="diffusers' caches", size=f"{len(TIMES)} steps of {len(place.backbone.sites('joint'))} layers",
        counters=counters,
        goals=tuple(
            Goal(what=what, sign=">=" if what.endswith("out") else "<=", bar=1 if what.endswith("out") else 0)
            for what in counters
        ),
    )  # fmt: skip
