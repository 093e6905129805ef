"""BridgeIV's propagation (arXiv 2505.06985, section 4.1) as editors of attention usually do it.

Every map is materialised, every frame's text projected anew, the cost volume is whole and computed again in every
layer, every warp is a ``grid_sample``, the frames one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, normalize

from starring.backbones.base import Backbone
from starring.layers.attach import branch, swap


class Naive:
    """STPM as one would write it first; state is kept by layer."""

    def __init__(self, backbone: Backbone, column: int, size: tuple[int, int, int]) -> None:
        self.backbone, self.column, (self.frames, self.height, self.width) = backbone, column, size
        self.columns: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.features: Tensor | None = None
        self.seen = torch.empty(0)
        self.mask = torch.empty(0)

    @contextmanager
    def run(self, film: bool) -> Iterator[None]:
        """The image's call, which is recorded, or the film's, which is changed."""
        now: list[Tensor] = []
        with ExitStack() as stack:
            level = list(self.backbone.sites("decoder").values())[-2]
            last = self.frames if film else 1
            stack.enter_context(branch(level, lambda out, *_, **__: now.append(out[-last:]) or out))
            if not film or self.features is not None:
                for kind in ("cross", "spatial"):
                    sites = self.backbone.sites(kind)
                    order = list(sites)
                    stack.enter_context(
                        swap(sites, lambda n, *_, k=kind, o=order: NaiveAttention(self, k, o.index(n), film))
                    )
            yield
        if film:
            self.features = torch.cat([self.seen, now[0]])
        else:
            self.seen = now[0]

    def grid(self, cells: int) -> tuple[int, int]:
        """Height and width of a layer of so many cells."""
        h, w = self.height, self.width
        while h * w > cells:
            h, w = h // 2, w // 2
        return h, w

    def flow(self, frame: int, cells: int) -> Tensor:
        """Sampling positions ``1 h w 2`` in [-1, 1] of a frame in the picture before it, from a whole cost volume."""
        assert self.features is not None
        h, w = self.grid(cells)
        maps = interpolate(self.features[frame : frame + 2], size=(h, w), mode="bilinear", align_corners=False)
        source, target = normalize(maps.flatten(2), dim=1)
        best = (source.T @ target).argmax(0)
        y, x = best // w, best % w
        at = torch.stack([x / max(w - 1, 1), y / max(h - 1, 1)], dim=-1) * 2 - 1
        return at.view(1, h, w, 2).float()

    def warp(self, values: Tensor, at: Tensor) -> Tensor:
        """``k n`` through sampling positions."""
        maps = values.view(1, len(values), *at.shape[1:3])
        return grid_sample(maps, at, mode="nearest", align_corners=True)[0].flatten(1)


class NaiveAttention:
    """One layer of :class:`Naive`."""

    def __init__(self, naive: Naive, kind: str, index: int, film: bool) -> None:
        self.naive, self.kind, self.index, self.film = naive, kind, index, film

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """All maps at once."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for to, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if self.kind == "cross":
            self.structure(logits)
        else:
            v = self.texture(v)
        out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)

    def structure(self, logits: Tensor) -> None:
        """Eq. 3 and 4, frame by frame, in place."""
        n, i = self.naive, self.naive.column
        if not self.film:
            n.columns[self.index] = logits[-1, :, :, i]
            return
        column, masks = n.columns[self.index], list[Tensor]()
        for f in range(n.frames):
            column = n.warp(column, n.flow(f, logits.shape[2]))
            logits[f - n.frames, :, :, i] = column
            masks.append(column.mean(0))
        n.mask = torch.stack(masks)

    def texture(self, v: Tensor) -> Tensor:
        """Eq. 6 and 7, frame by frame."""
        n, cells = self.naive, v.shape[2]
        if not self.film:
            n.values[self.index] = v
            return v
        if self.index == 0:
            return v
        h, w = n.grid(cells)
        maps = n.mask.view(n.frames, 1, *n.grid(n.mask.shape[1]))
        masks = interpolate(maps, size=(h, w), mode="bilinear", align_corners=False).flatten(1)
        low, high = masks.amin(1, keepdim=True), masks.amax(1, keepdim=True)
        masks = (masks - low) / (high - low).clamp_min(1e-4)
        made = v.clone()
        for b in range(len(v) // n.frames):
            former = n.values[self.index][b]
            for f in range(n.frames):
                at = b * n.frames + f
                flat = former.transpose(1, 2).flatten(0, 1)
                warped = n.warp(flat, n.flow(f, cells)).view(v.shape[1], -1, cells).transpose(1, 2)
                former = made[at] = warped * masks[f].unsqueeze(-1) + v[at] * (1 - masks[f].unsqueeze(-1))
        return made
