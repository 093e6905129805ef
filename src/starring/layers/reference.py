"""Attention of a film's tokens to those of clean pictures beside it (CustomVideoX, arXiv 2502.06527, eq. 4 to 8).

Tokens stand in the order text, video, reference. ``b`` batch, ``n`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from starring.layers import readings
from starring.layers.branches import FullRank, LowRank
from starring.layers.joint import KeyValue, biased_attention, entity_map, plain_attention, stretched
from starring.layers.kernels import chosen, kernel

FORMS = ("joint", "cached")
MAPS = ("minmax", "text", "joint")
MEMORIES = ("layer", "layers", "before")
WAYS = ("logits", "scale", "output")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """What the layers need to know about one call of the denoiser."""

    form: str = "none"
    """``none``: no reference. ``joint``: its tokens end the sequence (eq. 4). ``read``: they are all there is but text,
    and each layer keeps their keys and values. ``cached``: these are attended to (Algorithm 1)."""
    frames: int = 1
    """Latent frames of the film."""
    pictures: int = 1
    """Reference frames."""
    sizes: tuple[int, int] = (1, 1)
    """Latent places of a frame of the film and of a reference frame, whose tokens are in the same proportion."""
    everywhere: bool = False
    """Whether the low-rank changes act on all tokens, and not on the reference's alone."""
    time: Tensor | None = None
    """The bias of eq. 6 and 7, ``()`` or ``(b,)``."""
    all_queries: bool = False
    """Whether the bias holds for text and reference queries as well."""
    columns: Tensor | None = None
    """Places ``k`` in the text at which some row names its entity; ``None`` leaves eq. 8 out."""
    entity: Tensor | None = None
    """1 where a row's entity is at that place, else 0, ``b k``."""
    map: str = "minmax"
    """What is held against the threshold: the softmax over the text stretched to [0, 1] in each frame (``minmax``),
    that softmax itself (``text``), or the probability within the whole joint softmax (``joint``)."""
    threshold: float = 0.1
    """lambda of eq. 8."""
    boost: float = 0.1
    """beta_1 of eq. 8."""
    product: bool = False
    """Multiply the two biases, as Algorithm 1 writes it, instead of adding them."""
    over: str = "layer"
    """Whose map is held against the threshold: the ``layer``'s, the mean over it and the ``layers`` before it, or the
    layer's own of the call ``before`` (its present one in the first)."""
    way: str = "logits"
    """What the boost does in the region: it is added to the ``logits`` towards the reference, they are multiplied by
    one more than it (``scale``), or the reference's part of the ``output`` is."""
    decoupled: bool = False
    """Whether the film's queries attend to the reference in a softmax of its own, whose output is added times
    exp(bias); with ``all_queries``, all of them."""


class ReferenceAttention:
    """An attention processor for CogVideoX's blocks; without a reference it is the one it replaces.

    Args:
        adapters: changes by the name of the linear layer: ``to_q``, ``to_k``, ``to_v``, ``to_out``.
        look: says what the present call is.
        previous: the processor it replaces.
        before: that of the layer before, whose maps are counted in a mean over layers.
    """

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(
        self, adapters: Mapping[str, LowRank | FullRank], look: Callable[[], View], previous: Any,
        before: ReferenceAttention | None = None,
    ) -> None:  # fmt: skip
        self.adapters, self.look, self.previous = adapters, look, previous
        self._attention_backend = getattr(previous, "_attention_backend", None)
        # Here and not in a table by the layer's name, which would be compiled anew for every layer.
        self.kept: KeyValue | None = None
        """Keys (normalised, rotated) and values ``b h r d`` of the reference that was read last."""
        self.before = before
        self.depth = torch.tensor(1.0) if before is None else before.depth + 1
        self.seen: Tensor | None = None
        """The entity's map ``b n`` of the last call, or the sum of it and those of the layers before."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video and reference tokens ``b n d`` and text tokens ``b n d``, each as they came, attended."""
        view = self.look()
        if view.form == "none":
            return self.previous(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        words, rest = encoder_hidden_states.shape[1], hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        own = {"read": rest, "cached": 0}.get(view.form, _share(rest, view))
        query, key, value = (
            self._linear(which, getattr(attn, which), tokens, own, view).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for which in ("to_q", "to_k", "to_v")
        )
        query = _rotated(attn.norm_q(query) if attn.norm_q is not None else query, words, image_rotary_emb)
        key = _rotated(attn.norm_k(key) if attn.norm_k is not None else key, words, image_rotary_emb)
        query, key = query.to(value.dtype), key.to(value.dtype)  # norms under autocast return float32
        if view.form == "read":
            out = self._read(query, key, value, words)
        else:
            out = self._beside(view, query, key, value, words, own)
        out = out.to(query.dtype).transpose(1, 2).flatten(2)
        layers: Any = attn.to_out
        out = layers[1](self._linear("to_out", layers[0], out, own, view))
        return out[:, words:], out[:, :words]

    def _linear(self, which: str, layer: Any, x: Tensor, own: int, view: View) -> Tensor:
        """The layer, and its low-rank change on the last ``own`` tokens or on all."""
        out, change = layer(x), self.adapters.get(which)
        if change is None:
            return out
        if view.everywhere:
            return out + change(x).to(out.dtype)
        if own == 0:
            return out
        return torch.cat([out[:, :-own], out[:, -own:] + change(x[:, -own:]).to(out.dtype)], dim=1)

    def _read(self, query: Tensor, key: Tensor, value: Tensor, words: int) -> Tensor:
        """The reference attends to itself alone, and so do the words, which nothing reads."""
        self.kept = far = key[:, :, words:], value[:, :, words:]
        text = plain_attention(query[:, :, :words], key[:, :, :words], value[:, :, :words], self._attention_backend)
        clean = plain_attention(query[:, :, words:], *far, self._attention_backend)
        return torch.cat([text, clean], dim=2)

    def _beside(self, view: View, query: Tensor, key: Tensor, value: Tensor, words: int, own: int) -> Tensor:
        end = key.shape[2] - own
        if view.form == "cached":
            assert self.kept is not None
            # One reference serves all prompts; of one for each, a cache may ask for the last ones only.
            far_key, far_value = (part[-len(query) :].expand(len(query), -1, -1, -1) for part in self.kept)
        else:
            far_key, far_value = key[:, :, end:], value[:, :, end:]
        if view.decoupled or (view.columns is not None and view.way != "logits"):
            near = key[:, :, :end], value[:, :, :end]
            return self._otherwise(view, query, near, (far_key, far_value), words)
        if view.time is None and view.columns is None:
            both = torch.cat([key[:, :, :end], far_key], dim=2), torch.cat([value[:, :, :end], far_value], dim=2)
            return plain_attention(query, *both, self._attention_backend)
        groups = [(key[:, :, :end], value[:, :, :end]), (far_key, far_value)]
        columns = view.columns
        if columns is None:
            bias = self._bias(view, query, words, end, None)
            return biased_attention(query, groups, bias, self._attention_backend)
        if view.map != "joint":  # the text's softmax is asked for
            text, film = slice(0, words), slice(words, end)
            groups[:1] = [(key[:, :, part], value[:, :, part]) for part in (text, film)]

        asked = key[:, :, columns]

        def measured(sums: Sequence[Tensor]) -> Tensor:
            total = torch.logsumexp(torch.stack(list(sums)), 0) if view.map == "joint" else sums[0]
            region = self._region(view, query[:, :, words:end], asked, total[:, :, words:end])
            return self._bias(view, query, words, end, region)

        return biased_attention(query, groups, measured, self._attention_backend)

    def _otherwise(self, view: View, query: Tensor, near: KeyValue, far: KeyValue, words: int) -> Tensor:
        """Readings in which the region has to be known before attention is computed."""
        end, region, backend = near[0].shape[2], None, self._attention_backend
        if view.columns is not None:
            with torch.no_grad():
                video = query[:, :, words:end]
                run = kernel(video, chosen(backend)).forward
                groups = [near, far] if view.map == "joint" else [(near[0][:, :, :words], near[1][:, :, :words])]
                sums = torch.stack([run(video, *group)[1] for group in groups])
                region = self._region(view, video, near[0][:, :, view.columns], sums.logsumexp(0))
        bias = self._bias(view, query, words, end, region if view.way == "logits" else None)
        gain = torch.ones(len(query), 1, query.shape[2], device=query.device)
        if region is not None and view.way != "logits":
            gain[:, 0, words:end] += view.boost * region
        if view.decoupled:
            film = slice(0, query.shape[2]) if view.all_queries else slice(words, end)
            return readings.apart(query, near, far, bias, gain, view.way, film, backend)
        compute = readings.scaled if view.way == "scale" else readings.amplified
        return compute(query, near, far, bias, gain, backend)

    def _bias(self, view: View, query: Tensor, words: int, end: int, region: Tensor | None) -> Tensor:
        """The bias of each query towards the reference, ``b 1 n`` (eq. 7 and 8)."""
        video, after = torch.zeros(1, end - words, device=query.device), query.shape[2] - end
        if view.time is not None:
            video = video + view.time.reshape(-1, 1)
        if region is not None:
            video = video * region if view.product else video + view.boost * region
        rest = torch.zeros_like(video[:, :1])
        if view.time is not None and view.all_queries:
            rest = rest + view.time.reshape(-1, 1)
        return torch.cat([rest.expand(-1, words), video, rest.expand(-1, after)], dim=1).unsqueeze(1)

    def _region(self, view: View, video: Tensor, asked: Tensor, total: Tensor) -> Tensor:
        """Where the entity is, ``b n`` of 0 and 1 (R_e of eq. 8)."""
        assert view.entity is not None
        rows = view.entity[-len(video) :]  # a cache may leave out the negative prompts, which come first
        found = entity_map(video, asked, rows, total)
        if view.over != "layer":
            found = self._remembered(view, found) * (rows.sum(1, keepdim=True) > 0)
        if view.map == "minmax":
            found = stretched(found, view.frames)
        return (found > view.threshold).float()

    def _remembered(self, view: View, found: Tensor) -> Tensor:
        """The map of another call, or the mean over layers. Written, not added to: a block may be computed again."""
        if view.over == "before":
            former, self.seen = self.seen, found
            return found if former is None else _last(former, len(found))
        former = self.before.seen if self.before is not None else None
        self.seen = found if former is None else found + _last(former, len(found))
        return self.seen / self.depth


def _share(tokens: int, view: View) -> int:
    """How many of a film's and a reference's tokens are the reference's."""
    film, beside = view.frames * view.sizes[0], view.pictures * view.sizes[1]
    return tokens * beside // (film + beside)


def _last(maps: Tensor, count: int) -> Tensor:
    """Maps of the last ``count`` prompts: a cache may have left out the negative ones, now or then."""
    return maps[-count:].expand(count, -1)


def _rotated(x: Tensor, words: int, rows: KeyValue | None) -> Tensor:
    """Queries or keys with all but the first ``words`` tokens turned to their positions."""
    if rows is None:
        return x
    turn: Any = apply_rotary_emb  # declared for a tuple of one
    turned: Tensor = turn(x[:, :, words:], rows)
    return torch.cat([x[:, :, :words], turned.to(x.dtype)], dim=2)
