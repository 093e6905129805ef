"""STPM written out slowly: every attention map in full, every warp a loop, in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.backbones.base import Backbone
from starring.layers.attach import swap

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def bilinear(picture: Array, height: int, width: int) -> Array:
    """``d h w`` at another size: pixel centres at halves, clamped at the border."""
    _, h, w = picture.shape
    out = np.zeros((len(picture), height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
            u = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            top, left = int(v), int(u)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = v - top, u - left
            upper = picture[:, top, left] * (1 - b) + picture[:, top, right] * b
            lower = picture[:, below, left] * (1 - b) + picture[:, below, right] * b
            out[:, y, x] = upper * (1 - a) + lower * a
    return out


def flow(source: Array, target: Array) -> list[int]:
    """Eq. 5: for every cell of the target, the source's cell of the highest cosine; features ``d h w``."""
    a, b = source.reshape(len(source), -1), target.reshape(len(target), -1)
    cost = (a.T @ b) / np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))
    return [int(np.argmax(cost[:, j])) for j in range(b.shape[1])]


class Slow:
    """The naive form, for a network whose latents are square. Options as in ``STPM``."""

    def __init__(self, backbone: Backbone, columns: list[int], frames: int, side: int, **options: Any) -> None:
        self.backbone, self.columns, self.frames, self.side, self.options = backbone, columns, frames, side, options
        self.words: dict[str, Array] = {}
        self.values: dict[str, Array] = {}
        self.masks: dict[str, list[Array]] = {}
        self.features: list[Array] = []
        self.seen: list[Array] = []

    @contextmanager
    def run(self, film: bool) -> Iterator[None]:
        """One call of the network: the image's, which is recorded, or the film's, which is changed."""
        last = self.backbone.denoiser.up_blocks[-2].motion_modules[-1]  # pyright: ignore
        now: list[Array] = []
        handle = last.register_forward_hook(
            lambda _, args, out: now.extend(out[-(self.frames if film else 1) :].double().numpy())
        )
        with ExitStack() as stack:
            stack.callback(handle.remove)
            if not film or self.features:
                for kind in ("cross", "spatial"):
                    sites = self.backbone.sites(kind)
                    names = list(sites)
                    stack.enter_context(
                        swap(sites, lambda n, *_, k=kind, o=names: Processor(self, k, o.index(n), film))
                    )
            yield
        if film:
            self.features = [*self.seen, *now]
        else:
            self.seen = now

    def links(self, cells: int) -> list[list[int]]:
        side = int(np.sqrt(cells))
        maps = [bilinear(psi, side, side) for psi in self.features]
        if self.options.get("chain") == "reference":
            return [flow(maps[0], psi) for psi in maps[1:]]
        return [flow(maps[i], maps[i + 1]) for i in range(self.frames)]

    def changes(self, index: int) -> bool:
        low, high = self.options.get("layers") or (0, 10**6)
        return low <= index <= high

    def warped(self, index: int, cells: int, mine: list[Array]) -> list[Array]:
        """Eq. 3: the column of every frame, ``h n c``; its own, ``mine``, where the match is not trusted."""
        links, trusted, found = self.links(cells), self.trusted(cells), list[Array]()
        for f in range(self.frames):
            first = f == 0 or self.options.get("chain") == "reference"
            source = self.words[str(index)] if first else found[f - 1]
            own = mine[f]
            found.append(
                np.stack([source[:, links[f][j]] if trusted[f][j] else own[:, j] for j in range(cells)], axis=1)
            )
        return found

    def trusted(self, cells: int) -> list[list[bool]]:
        """B21: whether a cell that goes to its match and back comes near to where it was."""
        limit = self.options.get("confidence")
        if limit is None:
            return [[True] * cells for _ in range(self.frames)]
        side, share = int(np.sqrt(cells)), 0.0
        for column in self.words.values():
            m = column.mean((0, 2))
            share += ((m - m.min()) / (m.max() - m.min())).mean() / len(self.words)
        maps = [bilinear(psi, side, side) for psi in self.features]
        result: list[list[bool]] = []
        for f, there in enumerate(self.links(cells)):
            source = maps[0] if self.options.get("chain") == "reference" else maps[f]
            back = flow(maps[f + 1], source)
            ends = [back[there[j]] for j in range(cells)]
            far = [np.hypot(e // side - j // side, e % side - j % side) for j, e in enumerate(ends)]
            result.append([distance <= limit * side * share for distance in far])
        return result

    def mask(self, index: int, cells: int) -> list[Array]:
        """Eq. 7, from the cross-attention before."""
        found: list[Array] = []
        for column in self.masks[str(index - 1)]:
            before, side = int(np.sqrt(len(column))), int(np.sqrt(cells))
            resized = bilinear(column.reshape(1, before, before), side, side).ravel()
            # a frame in which all cells match one has no contrast but that of rounding
            contrast = resized.max() - resized.min()
            soft = (resized - resized.min()) / contrast if contrast > 1e-4 else np.zeros_like(resized)
            found.append((soft > 0.05).astype(float) if self.options.get("mask") == "binary" else soft)
        return found


class Processor:
    """One attention layer of :class:`Slow`, for all pictures of the batch one after the other."""

    def __init__(self, slow: Slow, kind: str, index: int, film: bool) -> None:
        self.slow, self.kind, self.index, self.film = slow, kind, index, film

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2).double().numpy()
            for to, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        maps = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        change = self.words if self.kind == "cross" else self.values
        change(maps, v)
        probabilities = softmax(maps) if not hasattr(self, "final") else self.final
        out = torch.from_numpy(probabilities @ v).to(hidden_states)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def words(self, maps: Array, v: Array) -> None:
        """SPM: eq. 4 on the full maps, ``(b f) h n 77``."""
        slow, o, key = self.slow, self.slow.options, str(self.index)
        after = o.get("column") == "probabilities"
        if not self.film:
            column = (softmax(maps[-1]) if after else maps[-1])[..., slow.columns]
            if after and o.get("heads") == "mean":
                column = np.exp(np.log(column).mean(0, keepdims=True)).repeat(len(column), 0)
            elif o.get("heads") == "mean":
                column = column.mean(0, keepdims=True).repeat(len(column), 0)
            slow.words[key] = column
            return
        frames = range(len(maps) - slow.frames, len(maps))
        own = [(softmax(maps[i]) if after else maps[i])[..., slow.columns] for i in frames]
        columns = slow.warped(self.index, maps.shape[2], own)
        injected = o.get("structure", True) and slow.changes(self.index)
        shown = [np.log(c) if after else c for c in columns]
        slow.masks[key] = [c.mean((0, 2)) for c in shown]
        self.final = softmax(maps)
        for i, column in zip(frames, columns, strict=True):
            if after:
                probabilities = softmax(maps[i])
                probabilities[..., slow.columns] = column
                changed = probabilities / probabilities.sum(-1, keepdims=True)
            else:
                logits = maps[i].copy()
                logits[..., slow.columns] = column
                changed = softmax(logits)
            if o.get("mask") == "softmax":
                slow.masks[key][i - frames[0]] = changed[..., slow.columns].mean((0, 2))
            if injected:
                self.final[i] = changed

    def values(self, maps: Array, v: Array) -> None:
        """TPM: eq. 6 and the blend after it, values ``(b f) h n d`` changed in place."""
        slow, o, key = self.slow, self.slow.options, str(self.index)
        if not self.film:
            slow.values[key] = v.copy()
            return
        if self.index == 0 or not slow.changes(self.index) or not o.get("texture", True):
            return
        n = v.shape[2]
        links, masks, raw, trusted = slow.links(n), slow.mask(self.index, n), v.copy(), slow.trusted(n)
        for b in range(len(v) // slow.frames):
            if o.get("branch") == "prompt" and b == 0 and len(v) > slow.frames:
                continue
            for f in range(slow.frames):
                at = b * slow.frames + f
                before = (raw if o.get("values") == "raw" else v)[at - 1]
                if f == 0 or o.get("chain") == "reference":
                    before = slow.values[key][b]
                for j in range(n):
                    m = masks[f][j] * trusted[f][j]
                    v[at, :, j] = before[:, links[f][j]] * m + raw[at, :, j] * (1 - m)
