"""Rotary positions of CogVideoX's tokens: a quarter of each head turns with time, the rest with height and width."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

from starring.backbones.base import Reference

Rows = tuple[Tensor, Tensor]
"""Cosines and sines, ``(tokens, head width)`` each, in the order of the tokens: by frame, row and column."""


def film_rows(config: Any, frames: int, h: int, w: int, device: torch.device) -> Rows:
    """Positions of a film.

    Args:
        config: the transformer's.
        frames: latent frames.
        h: latent height.
        w: latent width.
        device: where the rows are made.
    """
    times = torch.arange(frames, device=device, dtype=torch.float32)
    return _rows(config, times, *_grid(config, h, w, device))


def reference_rows(config: Any, reference: Reference, frames: int, device: torch.device) -> Rows:
    """Positions of reference frames beside a film of ``frames`` latent frames: its grid, shifted.

    CustomVideoX, arXiv 2502.06527, eq. 5. A shift in time is where the first reference lies, and the others follow it
    outwards; a shift in space is made once more for each.
    """
    p = config.patch_size
    later, down, right = reference.shift(frames, config.sample_height // p, config.sample_width // p)
    *_, h, w = reference.latents.shape
    high, wide = _grid(config, h, w, device)
    rows: Rows | None = None
    for k in range(reference.latents.shape[2]):
        outwards = k if later > 0 else -k if later < 0 else 0
        time = torch.full((1,), later + outwards, device=device, dtype=torch.float32)
        rows = joined_rows(rows, _rows(config, time, high + (k + 1) * down, wide + (k + 1) * right))
    assert rows is not None
    return rows


def joined_rows(rows: Rows | None, more: Rows) -> Rows:
    """The positions of tokens and of those that follow them."""
    return more if rows is None else (torch.cat([rows[0], more[0]]), torch.cat([rows[1], more[1]]))


def _grid(config: Any, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of rows and of columns of tokens: those of the trained size, to which other sizes are stretched."""
    p = config.patch_size
    height, width = h // p, w // p
    (top, left), (bottom, right) = get_resize_crop_region_for_grid(
        (height, width), config.sample_width // p, config.sample_height // p
    )
    line = partial(torch.linspace, device=device, dtype=torch.float32)
    return line(top, bottom * (height - 1) / height, height), line(left, right * (width - 1) / width, width)


def _rows(config: Any, times: Tensor, high: Tensor, wide: Tensor) -> Rows:
    head = int(config.attention_head_dim)
    axes = ((times, head // 4), (high, head // 8 * 3), (wide, head // 8 * 3))
    turn: Any = get_1d_rotary_pos_embed  # declared for arrays, documented for tensors
    parts: list[Any] = [turn(dim, at, use_real=True) for at, dim in axes]
    shape = (len(times), len(high), len(wide))

    def combined(which: int) -> Tensor:
        t, y, x = (part[which] for part in parts)
        spread = [t[:, None, None].expand(*shape, -1), y[:, None].expand(*shape, -1), x.expand(*shape, -1)]
        return torch.cat(spread, dim=-1).flatten(0, 2)

    return combined(0), combined(1)
