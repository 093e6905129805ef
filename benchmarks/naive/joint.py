"""Attention to a reference with a dense mask: what anybody would write first (CustomVideoX, 2502.06527, eq. 4 to 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starring.backbones.base import Backbone


def dense(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, alone: int) -> Tensor:
    """One softmax under a mask ``b 1 n n``.

    Args:
        query: ``b h n d``, whose last ``alone`` tokens are the reference's.
        key: the same shape.
        value: the same shape.
        bias: of every query but the reference's towards the reference, ``b n-alone``.
        alone: how many tokens the reference has, which see themselves only.
    """
    b, _, n, _ = query.shape
    mask = torch.zeros(b, 1, n, n, dtype=query.dtype, device=query.device)
    mask[:, 0, :-alone, -alone:] = bias[..., None].to(mask)
    mask[:, 0, -alone:, :-alone] = -torch.inf
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def materialised(query: Tensor, key: Tensor, value: Tensor, words: int, columns: Tensor, time: Tensor, frames: int,
                 threshold: float, boost: float) -> Tensor:  # fmt: skip
    """The film's queries ``b h n d`` over all keys ``b h m d``, from logits in float32 that are held as a whole.

    The first ``words`` tokens are text, the keys beyond ``n`` the reference's. Queries of the film are biased by
    ``time`` and, where the entity's ``columns`` of the text's softmax, stretched to [0, 1] in each of the ``frames``,
    are above ``threshold``, by ``boost``.
    """
    n = query.shape[2]
    logits = (query.float() @ key.float().transpose(-1, -2)) * query.shape[-1] ** -0.5
    text = logits[:, :, words:, :words].softmax(-1)
    found = text[..., columns].sum(-1).mean(1).unflatten(1, (frames, -1))
    low, high = found.amin(2, keepdim=True), found.amax(2, keepdim=True)
    region = (((found - low) / (high - low)) > threshold).flatten(1).float()
    logits[:, :, words:, n:] += (time + boost * region)[:, None, :, None]
    return (logits.softmax(-1) @ value.float()).to(query.dtype)


class Dense:
    """A processor with the mask, and low-rank changes on the reference's tokens."""

    def __init__(self, changes: Mapping[str, Any], alone: int, time: Callable[[], Tensor]) -> None:
        self.changes, self.alone, self.time = changes, alone, time

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``b n d`` of film and reference, and of text, each attended."""
        words = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            self._changed(which, getattr(attn, which), x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for which in ("to_q", "to_k", "to_v")
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        for each in (query, key):
            each[:, :, words:] = apply_rotary_emb(each[:, :, words:], image_rotary_emb)  # pyright: ignore
        bias = torch.zeros(len(x), x.shape[1] - self.alone, device=x.device)
        bias[:, words:] = self.time()
        out = dense(query, key, value, bias, self.alone).transpose(1, 2).flatten(2)
        out = self._changed("to_out", attn.to_out[0], out)
        return out[:, words:], out[:, :words]

    def _changed(self, which: str, layer: Any, x: Tensor) -> Tensor:
        out = layer(x)
        out[:, -self.alone :] += self.changes[which](x[:, -self.alone :])
        return out


@contextmanager
def attached(backbone: Backbone, adapters: Any, alone: int, time: Callable[[], Tensor]) -> Iterator[None]:
    """The processor in every joint attention layer."""
    former = {name: site.processor for name, site in backbone.sites("joint").items()}
    try:
        for name, site in backbone.sites("joint").items():
            site.processor = Dense(adapters[name.replace(".", "__")], alone, time)  # pyright: ignore
        yield
    finally:
        for name, site in backbone.sites("joint").items():
            site.processor = former[name]  # pyright: ignore
