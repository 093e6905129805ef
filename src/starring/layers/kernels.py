"""Fused attention kernels that also tell the log-sum-exp of every query's logits, and their backward.

``scaled_dot_product_attention`` keeps that second output to itself, so the operations that it is made of are called by
name: FlashAttention on CPUs and, in half precision, on CUDA; the memory-efficient kernel on CUDA in single precision;
cuDNN's where it is asked for. Elsewhere the formula is computed some queries at a time. None makes a tensor of queries
times keys. Shapes: ``b`` batch, ``h`` heads, ``n`` queries, ``m`` keys, ``d`` head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.attention
import torch.nn.functional as F
from diffusers.models.attention_dispatch import _AttentionBackendRegistry  # pyright: ignore[reportPrivateUsage]
from torch import Tensor

from starring.errors import StarringError

NATIVE, MATH, EFFICIENT, CUDNN = "native", "_native_math", "_native_efficient", "_native_cudnn"
FLASH = ("_native_flash", "flash")
KNOWN = (NATIVE, *FLASH, EFFICIENT, CUDNN, MATH)
"""Backends of diffusers that stand for a kernel here."""
_aten: Any = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_ALIGNED = 32
"""The memory-efficient kernel's log-sum-exps are padded to a multiple of this."""

Forward = Callable[[Tensor, Tensor, Tensor], "tuple[Any, ...]"]
"""Query ``b h n d``, key and value ``b h m d`` to the output ``b h n d``, the log-sum-exp ``b h n``, and what backward
needs beyond these."""
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "list[Any]"], "tuple[Tensor, Tensor, Tensor]"]
"""Gradient of the output, query, key, value, the output and log-sum-exp of the softmax that the keys are a part of, and
the rest of forward's outputs, to the gradients of query, key and value."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute attention."""

    forward: Forward
    backward: Backward


def chosen(backend: Any = None) -> str:
    """The name of the attention backend of diffusers that the user has chosen.

    Args:
        backend: for these layers (``set_attention_backend``); ``None`` is the one for all, by the context
            ``attention_backend`` or the variable ``DIFFUSERS_ATTN_BACKEND``.
    """
    name = backend if backend is not None else _AttentionBackendRegistry.get_active_backend()[0]
    return str(getattr(name, "value", name))


def kernel(query: Tensor, backend: str) -> Kernel:
    """The kernel that a backend stands for where ``query`` is, in its precision.

    ``native`` follows torch: FlashAttention on CPUs; on CUDA the first that is enabled and takes the precision, in the
    order that ``torch.nn.attention.sdpa_kernel`` sets. Where torch has no kernel that tells the log-sum-exp (other
    devices, double precision on CUDA), it is the formula.

    Raises:
        StarringError: if the backend does not tell the log-sum-exp, or not on this device in this precision.
    """
    if backend not in KNOWN:
        raise StarringError(
            f"The attention backend '{backend}' does not tell the log-sum-exp that the biases towards a reference are"
            f" merged by. Choose one of {', '.join(KNOWN)}, or film without biases (tab=False, erae=False)."
        )
    device, kind = query.device.type, query.dtype
    if backend == MATH:
        return FORMULA
    if backend in (EFFICIENT, CUDNN):
        if device != "cuda" or kind not in (_HALF if backend == CUDNN else (*_HALF, torch.float32)):
            raise StarringError(
                f"The attention backend '{backend}' computes on CUDA"
                f"{' in half precision' if backend == CUDNN else ''}, and this attention is on '{device}' in"
                f" {str(kind).removeprefix('torch.')}. Choose one of {', '.join((NATIVE, *FLASH, MATH))}."
            )
        return CUDNN_KERNEL if backend == CUDNN else EFFICIENT_KERNEL
    if device in ("cpu", "meta"):
        return CPU
    if device != "cuda" or query.shape[-1] % 8:
        return FORMULA
    if backend in FLASH and kind in _HALF:
        return CUDA
    return _enabled(kind)


def _enabled(kind: torch.dtype) -> Kernel:
    """The first kernel on CUDA that takes a precision, in torch's own order, of those that are enabled."""
    takes: dict[str, tuple[Kernel, tuple[torch.dtype, ...]]] = {
        "FLASH_ATTENTION": (CUDA, _HALF),
        "CUDNN_ATTENTION": (CUDNN_KERNEL, _HALF),
        "EFFICIENT_ATTENTION": (EFFICIENT_KERNEL, (*_HALF, torch.float32)),
    }
    for name in _order():
        found, kinds = takes.get(name, (FORMULA, ()))
        if kind in kinds:
            return found
    return FORMULA


@torch.compiler.assume_constant_result  # the compiler cannot read it
def _order() -> tuple[str, ...]:
    """What ``sdpa_kernel`` enables, in its order."""
    sdp: Any = torch.nn.attention
    return tuple(each.name for each in sdp._cur_sdpa_kernel_backends(with_priority=True))


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


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    out, total, seed, offset = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return out, total.narrow(2, 0, q.shape[2]), seed, offset


def _efficient_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, rest: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    # Of queries that are not there, as the kernel itself pads: a probability of exp(-inf).
    padded = F.pad(total, (0, -total.shape[2] % _ALIGNED), value=torch.inf)
    return _aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, None, out, padded, *rest, 0.0, [True, True, True, False], False
    )[:3]


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    q, k, v = (part.contiguous() for part in (q, k, v))  # wrong results otherwise
    out, total, *rest = _aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False)
    return out, total.reshape(q.shape[:3]), *rest


def _cudnn_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, rest: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    sums_q, sums_k, most_q, most_k, seed, offset, *_ = rest
    grad, q, k, v, out = (part.contiguous() for part in (grad, q, k, v, out))
    return _aten._scaled_dot_product_cudnn_attention_backward(
        grad, q, k, v, out, total.unsqueeze(-1).contiguous(), seed, offset, None, sums_q, sums_k, most_q, most_k, 0.0,
        False,
    )  # fmt: skip


def _chunk(q: Tensor, k: Tensor) -> int:
    """How many queries at a time have no more logits than there are numbers in ``q``."""
    return max(1, q.shape[2] * q.shape[3] // k.shape[2])


def _formula(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    kind, outs, totals = torch.promote_types(q.dtype, torch.float32), list[Tensor](), list[Tensor]()
    for part in q.split(_chunk(q, k), 2):
        logits = (part @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).to(kind)
        total = logits.logsumexp(-1)
        outs.append((logits - total.unsqueeze(-1)).exp().to(v.dtype) @ v)
        totals.append(total)
    return torch.cat(outs, 2), torch.cat(totals, 2)


def _formula_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, _: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    kind, scale, size = torch.promote_types(q.dtype, torch.float32), q.shape[-1] ** -0.5, _chunk(q, k)
    grad_q, (grad_k, grad_v) = list[Tensor](), (torch.zeros_like(part, dtype=kind) for part in (k, v))
    for g, part, o, seen in zip(*(x.split(size, 2) for x in (grad, q, out, total)), strict=True):
        share = ((part @ k.transpose(-1, -2) * scale).to(kind) - seen.unsqueeze(-1)).exp().to(v.dtype)
        along = share * (g @ v.transpose(-1, -2) - (g * o).sum(-1, keepdim=True)) * scale
        grad_q.append(along @ k)
        grad_k += along.transpose(-1, -2) @ part
        grad_v += share.transpose(-1, -2) @ g
    return torch.cat(grad_q, 2), grad_k.to(k.dtype), grad_v.to(v.dtype)


CPU, CUDA, EFFICIENT_KERNEL = Kernel(_cpu, _cpu_back), Kernel(_cuda, _cuda_back), Kernel(_efficient, _efficient_back)
CUDNN_KERNEL, FORMULA = Kernel(_cudnn, _cudnn_back), Kernel(_formula, _formula_back)
