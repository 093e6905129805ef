"""Other readings of how a film attends to pictures beside it (CustomVideoX, arXiv 2502.06527, eq. 6 and 8).

Each is written in terms of the attention that the usual reading takes, so it is exact in value and gradient and makes
no map either; it costs about twice as much. Shapes: ``b`` batch, ``h`` heads, ``n`` queries, ``m`` keys, ``d`` head
width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from starring.layers.joint import KeyValue, biased_attention, plain_attention


def scaled(query: Tensor, near: KeyValue, far: KeyValue, bias: Tensor, gain: Tensor, backend: Any = None) -> Tensor:
    """One softmax in which the logits towards the reference are multiplied by a gain before their bias.

    Args:
        query: ``b h n d``.
        near: keys and values ``b h m d`` of text and film.
        far: those of the reference.
        bias: added to the logits towards the reference, ``b 1 n``.
        gain: multiplies them first, ``b 1 n``.
        backend: see :func:`starring.layers.kernels.chosen`.

    Returns:
        ``b h n d``.
    """
    # Heads of twice the width: the second half has the query again, times gain - 1, and only the reference's keys.
    more = query * (gain - 1).unsqueeze(-1).to(query.dtype)
    wide = torch.cat([query, more], -1) * 2**0.5  # which the kernel divides by
    empty = [torch.zeros_like(part) for part in (*near, far[1])]
    groups = [
        (torch.cat([near[0], empty[0]], -1), torch.cat([near[1], empty[1]], -1)),
        (torch.cat([far[0], far[0]], -1), torch.cat([far[1], empty[2]], -1)),
    ]
    return biased_attention(wide, groups, bias, backend)[..., : query.shape[-1]]


def amplified(query: Tensor, near: KeyValue, far: KeyValue, bias: Tensor, gain: Tensor, backend: Any = None) -> Tensor:
    """One softmax, of whose output the part that comes from the reference is multiplied by a gain.

    Arguments and result as of :func:`scaled`.
    """
    whole = biased_attention(query, [near, far], bias, backend)
    rest = biased_attention(query, [near, (far[0], torch.zeros_like(far[1]))], bias, backend)
    return rest + gain.unsqueeze(-1).to(whole.dtype) * (whole - rest)


def apart(
    query: Tensor, near: KeyValue, far: KeyValue, bias: Tensor, gain: Tensor, way: str, film: slice, backend: Any = None
) -> Tensor:  # fmt: skip
    """Two softmaxes for some queries, over text and film and over the reference, the second times exp(bias) (C1).

    A bias within a softmax over the reference alone, as eq. 6 is printed, cancels; outside of it, it is a gate.

    Args:
        query: ``b h n d``.
        near: keys and values ``b h m d`` of text and film.
        far: those of the reference.
        bias: the gate's logarithm, ``b 1 n``.
        gain: multiplies the reference's logits (``way="scale"``) or its output (``way="output"``), ``b 1 n``.
        way: see there.
        film: queries of which this holds; the others have one softmax over all keys, without bias.
        backend: see :func:`starring.layers.kernels.chosen`.

    Returns:
        ``b h n d``.
    """
    gate, more = bias[:, :, film].exp().expand(len(query), -1, -1).unsqueeze(-1), gain[:, :, film].unsqueeze(-1)
    own = asked = query[:, :, film]
    if way == "scale":
        asked = asked * more.to(asked.dtype)
    elif way == "output":
        gate = gate * more
    seen = plain_attention(own, *near, backend) + gate.to(own.dtype) * plain_attention(asked, *far, backend)
    both = torch.cat([near[0], far[0]], 2), torch.cat([near[1], far[1]], 2)
    start, stop, _ = film.indices(query.shape[2])
    sides = (query[:, :, :start], query[:, :, stop:])
    before, after = (plain_attention(part, *both, backend) if part.shape[2] else part for part in sides)
    return torch.cat([before, seen, after], 2)
