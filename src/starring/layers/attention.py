"""Attention written out: what happens between a layer's projections, without ever holding a map of it.

Legend: ``b`` batch, ``h`` heads, ``n`` queries, ``m`` keys, ``d`` head width, ``c`` columns (keys treated apart).

Overwriting the logits of a few keys needs no map: attend to all other keys with a fused kernel, which also gives the
logarithm of the sum of its exponentials, and add the few keys by their own weight,

    softmax([others, s]) [V, v] = (e^L O + e^s v) / (e^L + e^s),

where ``O, L`` is what the kernel says about the others. That is exact, and the largest tensor is a query's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starring.errors import StarringError

Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries ``b h n d``, keys and values ``b h m d`` to outputs ``b h n d``; logits are scaled by ``d ** -0.5``."""


class WrittenOut:
    """An attention processor that leaves the projections to the layer, and what is between them to a function.

    Branches on ``to_q``, ``to_k``, ``to_v`` and ``to_out`` stay in force, since the layer's own modules are called.

    Args:
        compute: the function, see :data:`Compute`. :func:`plain` gives what the layer did before.
        frames: how many frames of one video follow each other in the batch. In attention to a text, which is the same
            for all of them, they are joined into one sequence of queries, ``b h (frames n) d``, and the text's keys
            and values are computed once instead of for every frame.
    """

    def __init__(self, compute: Compute, frames: int = 1) -> None:
        self.compute, self.frames = compute, frames

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """All arguments are named, since ``Attention.forward`` drops those that a processor does not name."""
        _require_plain(attn, attention_mask)
        x, context = hidden_states, hidden_states
        if encoder_hidden_states is not None:
            x, context = x.unflatten(0, (-1, self.frames)).flatten(1, 2), encoder_hidden_states[:: self.frames]
        q, k, v = (_heads(to(y), attn.heads) for to, y in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context)))
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)
        out = self.compute(q, k, v).to(q.dtype).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out.reshape(*hidden_states.shape[:2], -1)))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``."""
    return scaled_dot_product_attention(q, k, v)


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and the log-sum-exp of every query's logits.

    Uses the kernels that ``scaled_dot_product_attention`` is made of. Where gradient is asked for, which does not flow
    through their second output, and where there is no kernel, the formula is computed as it stands.

    Returns:
        ``b h n d`` and, in float32 (float64 for double precision), ``b h n``.
    """
    learned = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if q.device.type == "cpu" and not learned:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return out, lse
    if q.device.type == "cuda" and not learned and q.shape[-1] % 8 == 0 and q.dtype != torch.float64:
        made = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, compute_log_sumexp=True)
        return made[0], made[1][..., : q.shape[2]]  # the kernel pads its second output
    logits = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * q.shape[-1] ** -0.5
    return logits.softmax(-1).to(v.dtype) @ v, logits.logsumexp(-1)


def logit_columns(q: Tensor, k: Tensor, columns: Sequence[int]) -> Tensor:
    """The logits ``q k^T / sqrt(d)`` of a few keys only, ``b h c n``, in float32 at least."""
    kind = torch.promote_types(q.dtype, torch.float32)
    return k[:, :, list(columns)].to(kind) @ q.to(kind).transpose(-1, -2) * q.shape[-1] ** -0.5


def others(keys: Tensor, columns: Sequence[int]) -> Tensor:
    """Keys or values ``b h m d`` without those at ``columns``."""
    rest = [i for i in range(keys.shape[2]) if i not in set(columns)]
    return keys[:, :, rest]


def merged(out: Tensor, lse: Tensor, logits: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to some keys, joined by a few more whose logits are given.

    Args:
        out: attention to the some, ``b h n d``; where it asks for no gradient, its memory may be used for the result.
        lse: log-sum-exp of their logits, ``b h n``.
        logits: of the few more, ``b h c n``.
        v: their values, ``b h c d``.

    Returns:
        Attention to all of them, ``b h n d``, and the probabilities of the few more, ``b h c n``.
    """
    if logits.shape[2] == 1:  # the same in one pass over the outputs
        few = (logits - lse.unsqueeze(2)).sigmoid()
        step, weight = (torch.lerp if out.requires_grad else Tensor.lerp_), few.transpose(-1, -2).to(out)
        return step(out, v.to(out), weight), few
    weights = torch.cat([lse.unsqueeze(2), logits.to(lse)], 2).softmax(2)
    rest, few = weights[:, :, 0, :, None].to(out), weights[:, :, 1:]
    return torch.addcmul(few.transpose(-1, -2).to(v) @ v, out, rest), few


def overwritten(q: Tensor, k: Tensor, v: Tensor, columns: Sequence[int], logits: Tensor) -> Tensor:
    """``softmax(A) v`` where ``A`` is ``q k^T / sqrt(d)`` with its ``columns`` replaced by ``logits``, ``b h c n``."""
    out, lse = attend(q, others(k, columns), others(v, columns))
    return merged(out, lse, logits, v[:, :, list(columns)])[0]


def _heads(x: Tensor, heads: int) -> Tensor:
    """``b n (h d)`` to ``b h n d``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _require_plain(attn: Any, mask: Tensor | None) -> None:
    odd = [name for name in ("group_norm", "spatial_norm", "norm_cross") if getattr(attn, name, None)]
    odd += ["an attention mask"] if mask is not None else []
    if odd:
        raise StarringError(f"This attention layer has {', '.join(odd)}, which it cannot be written out with.")
