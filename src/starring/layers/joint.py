"""Joint attention of text, video and reference tokens, with a bias on what is seen of the reference.

The bias ``a_i`` of a query ``i`` is added to its logits towards every reference key. Instead of a dense mask, the
attention over the video's own keys and that over the reference's are computed apart and merged by log-sum-exp::

    w = sigmoid(L_ref + a - L_own)        O = O_own + w (O_ref - O_own)

which is exact, since the sum of ``exp(s + a)`` over the reference is ``exp(a + L_ref)``; no tensor of queries times
keys is ever made. Where the bias asks how much a query looks at the text, the text is a group of its own, and merged in
the same way: its log-sum-exp is at hand then. ``layers/kernels.py`` has the kernels. Shapes:
``b`` batch, ``h`` heads, ``n`` tokens, ``d`` head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from starring.layers.kernels import NATIVE, chosen, kernel

KeyValue = tuple[Tensor, Tensor]
Measure = Callable[[Sequence[Tensor]], Tensor]


def biased_attention(query: Tensor, groups: Sequence[KeyValue], bias: Tensor | Measure, backend: Any = None) -> Tensor:
    """One softmax over several groups of keys, with a bias on the logits of the last.

    Args:
        query: ``b h n d``.
        groups: keys and values ``b h m d`` of each group, two groups at least.
        bias: ``a``, broadcast to ``b h n``; a 0-d tensor is the same for all. It carries gradient. Where the bias
            follows from the attention itself, a function that is told every group's log-sum-exp ``b h n``, a
            by-product, and gives ``a`` without gradient.
        backend: see :func:`starring.layers.kernels.chosen`.

    Returns:
        ``b h n d``, differentiable in all tensors.

    Raises:
        StarringError: if the chosen backend does not tell the log-sum-exp on this device.
    """
    out: Any = _Merged.apply(chosen(backend), bias, query, *(part for group in groups for part in group))
    return out


class _Merged(torch.autograd.Function):
    """The merge, and its exact gradient: each kernel's own backward, told the merged output and log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, backend: str, bias: Tensor | Measure, query: Tensor, *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        used, groups = kernel(query, backend), list(zip(parts[::2], parts[1::2], strict=True))
        out, total, *rest = used.forward(query, *groups[0])
        sums, rests = [total], [rest]
        for group in groups[1:-1]:
            far, own, *rest = used.forward(query, *group)
            sums, rests = [*sums, own], [*rests, rest]
            total, _ = _taken_in(out, total, far, own)
            del far  # its memory is the next one's
        far, own, *rest = used.forward(query, *groups[-1])
        sums, rests = [*sums, own], [*rests, rest]
        shift = (bias if isinstance(bias, Tensor) else bias(sums)).to(own)  # only now, when all sums are known
        total, weight = _taken_in(out, total, far, own + shift)
        learned = isinstance(bias, Tensor) and bias.requires_grad
        ctx.save_for_backward(query, *parts, out, total, shift, *((weight, far) if learned else ()))
        ctx.rest, ctx.kind = rests, bias.dtype if isinstance(bias, Tensor) else None
        ctx.used = used  # what is enabled when backward runs may be another kernel
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count = 2 * len(ctx.rest)
        query, *saved = ctx.saved_tensors
        parts, (out, total, shift, *more) = saved[:count], saved[count:]
        (grad,), back = grads, ctx.used.backward
        totals = [total] * (len(ctx.rest) - 1) + [(total - shift).contiguous()]
        each = [
            back(grad, query, key, value, out, seen, rest)
            for key, value, seen, rest in zip(parts[::2], parts[1::2], totals, ctx.rest, strict=True)
        ]
        wanted = None
        if ctx.needs_input_grad[1]:
            weight, far = more
            wanted = (weight * (grad * (far - out)).sum(-1)).sum_to_size(shift.shape).to(ctx.kind)
        return None, wanted, reduce(torch.add, (q for q, _, _ in each)), *(part for _, *own in each for part in own)


def _taken_in(out: Tensor, total: Tensor, far: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The log-sum-exp of a softmax with another part in it, and that part's share of each query, ``b h n``.

    ``out`` is merged in place: nobody else has it.
    """
    weight = torch.sigmoid(own - total)
    out.lerp_(far, weight.unsqueeze(-1).to(out.dtype))
    return torch.logaddexp(total, own), weight


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
        logits = key @ query.transpose(-1, -2) * query.shape[-1] ** -0.5  # rows of queries, which are many
        share = (logits.float() - total.float().unsqueeze(-2)).exp()
        return (share * weight[:, None, :, None].to(share)).sum(-2).mean(1)


def stretched(maps: Tensor, frames: int) -> Tensor:
    """``b (f n)`` with each frame's smallest value at 0 and its largest at 1; a flat frame is 0."""
    split = maps.unflatten(1, (frames, -1))
    low, high = split.amin(-1, keepdim=True), split.amax(-1, keepdim=True)
    return ((split - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).flatten(1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, backend: Any = None) -> Tensor:
    """``b h n d`` by torch's own attention, or by the backend of diffusers' dispatcher that is chosen."""
    if chosen(backend) == NATIVE:
        return F.scaled_dot_product_attention(query, key, value)
    q, k, v = (part.transpose(1, 2) for part in (query, key, value))
    return dispatch_attention_fn(q, k, v, backend=backend).transpose(1, 2)
