"""Joint attention of text, video and reference tokens, with a bias on what is seen of the reference.

The bias ``a_i`` of a query ``i`` is added to its logits towards every reference key. Instead of a dense mask, the
attention over the video's own keys and that over the reference's are computed apart and merged by log-sum-exp::

    w = sigmoid(L_ref + a - L_own)        O = O_own + w (O_ref - O_own)

which is exact, since the sum of ``exp(s + a)`` over the reference is ``exp(a + L_ref)``; no tensor of queries times
keys is ever made. Shapes: ``b`` batch, ``h`` heads, ``n`` tokens, ``d`` head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten: Any = torch.ops.aten


def attended(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with the log-sum-exp of its logits, by the device's own fused kernel and without gradient.

    Args:
        query: ``b h n d``.
        key: ``b h m d``.
        value: ``b h m d``.

    Returns:
        The output ``b h n d`` and the log-sum-exp ``b h n`` (float32; float64 for float64 inputs).
    """
    return _kernel(query)[0](query, key, value)[:2]


def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, far_key: Tensor, far_value: Tensor, bias: Tensor
) -> Tensor:
    """One softmax over two groups of keys, with a bias on the logits of the second.

    Args:
        query: ``b h n d``.
        key: ``b h m d``.
        value: ``b h m d``.
        far_key: ``b h r d``.
        far_value: ``b h r d``.
        bias: ``a``, broadcast to ``b h n``; a 0-d tensor is the same for all. It carries gradient.

    Returns:
        ``b h n d``, differentiable in all arguments.
    """
    out: Any = _Merged.apply(query, key, value, far_key, far_value, bias)
    return out


class _Merged(torch.autograd.Function):
    """The merge, and its exact gradient: each kernel's own backward, told the merged output and log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, far_key, far_value, bias = inputs
        run = _kernel(query)[0]
        own, own_sum, *own_rest = run(query, key, value)
        far, far_sum, *far_rest = run(query, far_key, far_value)
        shift = bias.to(own_sum)
        weight = torch.sigmoid(far_sum + shift - own_sum)
        out = torch.lerp(own, far, weight.unsqueeze(-1).to(own.dtype))
        total = torch.logaddexp(own_sum, far_sum + shift)
        ctx.save_for_backward(*inputs, out, total, weight, far if bias.requires_grad else out)
        ctx.rest = own_rest, far_rest
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, far_key, far_value, bias, out, total, weight, far = ctx.saved_tensors
        (grad,), back = grads, _kernel(query)[1]
        shifted = (total - bias.to(total)).expand_as(total).contiguous()
        own = back(grad, query, key, value, out, total, ctx.rest[0])
        other = back(grad, query, far_key, far_value, out, shifted, ctx.rest[1])
        wanted = None
        if ctx.needs_input_grad[5]:
            along = (weight * (grad * (far - out)).sum(-1)).to(bias.dtype)
            wanted = along.sum_to_size(bias.shape) if bias.ndim else along.sum()
        return own[0] + other[0], own[1], own[2], other[1], other[2], wanted


_Forward = Callable[[Tensor, Tensor, Tensor], "tuple[Any, ...]"]
_Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "list[Any]"], "tuple[Tensor, Tensor, Tensor]"]


def _kernel(query: Tensor) -> tuple[_Forward, _Backward]:
    """Forward and backward of the fused kernel that gives the log-sum-exp where ``query`` is.

    FlashAttention on accelerators in half precision and on CPUs; elsewhere the formula.
    """
    if query.device.type in ("cpu", "meta"):
        return _cpu, _cpu_back
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return _cuda, _cuda_back
    return _formula, _formula_back


def _cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)


def _cpu_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, _: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, total, 0.0, False)


def _cuda(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)


def _cuda_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, rest: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    sums_q, sums_k, most_q, most_k, seed, offset, *_ = rest
    return _aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, total, sums_q, sums_k, most_q, most_k, 0.0, False, seed, offset
    )


def _formula(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    total = logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(-1)
    return (logits - total.unsqueeze(-1)).exp().to(v.dtype) @ v, total


def _formula_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, _: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q.shape[-1] ** -0.5
    share = (q @ k.transpose(-1, -2) * scale - total.unsqueeze(-1)).exp().to(v.dtype)
    along = share * (grad @ v.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) * scale
    return along @ k, along.transpose(-1, -2) @ q, share.transpose(-1, -2) @ grad


def entity_map(query: Tensor, key: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """How much each query attends to an entity's words: the probability of their tokens, mean over heads.

    Args:
        query: ``b h n d``.
        key: keys of some tokens, among them the entity's, ``b h k d``.
        weight: 1 at the entity's tokens, else 0, ``b k``.
        total: log-sum-exp ``b h n`` of the softmax that the tokens belong to.

    Returns:
        ``b n`` float32, without gradient.
    """
    with torch.no_grad():
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        share = (logits.float() - total.float().unsqueeze(-1)).exp()
        return (share * weight[:, None, None].to(share)).sum(-1).mean(1)


def stretched(maps: Tensor, frames: int) -> Tensor:
    """``b (f n)`` with each frame's smallest value at 0 and its largest at 1; a flat frame is 0."""
    split = maps.unflatten(1, (frames, -1))
    low, high = split.amin(-1, keepdim=True), split.amax(-1, keepdim=True)
    return ((split - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).flatten(1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, backend: Any = None) -> Tensor:
    """``b h n d`` by torch's own attention, or by the backend of diffusers' dispatcher that the user has chosen."""
    if backend is None:
        return F.scaled_dot_product_attention(query, key, value)
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q, k, v = (part.transpose(1, 2) for part in (query, key, value))
    return dispatch_attention_fn(q, k, v, backend=backend).transpose(1, 2)
