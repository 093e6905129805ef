"""Clean frames beside a film in CogVideoX's transformer: their tokens, and a timestep of their own.

CustomVideoX, arXiv 2502.06527, eq. 4 and 5. Legend: ``b`` batch, ``r`` frames, ``c`` channel, ``h w`` their latent
size, ``n`` tokens, ``d`` width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def followed(net: Any, clean: Tensor) -> Iterator[None]:
    """Frames ``b r c h w`` of any size stand as tokens behind the film's through all blocks, and are dropped there.

    Args:
        net: the transformer.
        clean: their latents, one set for each film.
    """
    count = _tokens(net, clean)

    def follow(embed: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        # A cache may leave out the negative prompts, which come first.
        return torch.cat([out, embed.forward(args[0][:, :0], clean[-len(out) :])], dim=1)

    def leave(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0][:, :-count]

    with _hooked([net.patch_embed], follow):
        handle = net.norm_final.register_forward_pre_hook(leave)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def modulated(net: Any, clean: Tensor, t: int) -> Iterator[None]:
    """The tokens of frames that follow a film's are scaled, shifted and gated as at timestep ``t`` in every block.

    Args:
        net: the transformer.
        clean: the frames' latents, ``b r c h w``.
        t: theirs, whatever the film's is.
    """
    count = _tokens(net, clean)
    if (offloaded := getattr(net, "_hf_hook", None)) is not None:
        offloaded.pre_forward(net)  # the network is brought where it computes when it is called, which is later
    time = net.time_proj(torch.full((1,), t, device=clean.device)).to(clean.dtype)
    own = net.time_embedding(time)

    def again(norm: Any, args: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, words, _ = args
        film, text, gate, text_gate = out
        still, _, still_gate, _ = norm.forward(hidden[:, -count:], words[:, :0], own.expand(len(hidden), -1))
        kept = film.shape[1] - count
        gates = [gate.expand(-1, kept, -1), still_gate.expand(-1, count, -1)]
        return torch.cat([film[:, :kept], still], 1), text, torch.cat(gates, 1), text_gate

    if not net.gradient_checkpointing:
        with _hooked([norm for block in net.transformer_blocks for norm in (block.norm1, block.norm2)], again):
            yield
        return
    # Backward runs a block again after this context has ended, so the block itself brings the hooks along.
    former = net._gradient_checkpointing_func

    def checkpointed(block: Any, *args: Any) -> Any:
        def run(*inner: Any) -> Any:
            with _hooked([block.norm1, block.norm2], again):
                return block(*inner)

        return former(run, *args)

    try:
        net._gradient_checkpointing_func = checkpointed
        yield
    finally:
        net._gradient_checkpointing_func = former


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    """A forward hook on each, until the context ends."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tokens(net: Any, clean: Tensor) -> int:
    """How many tokens ``b r c h w`` becomes."""
    p = int(net.config.patch_size)
    return clean.shape[1] * (clean.shape[-2] // p) * (clean.shape[-1] // p)
