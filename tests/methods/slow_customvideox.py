"""CustomVideoX's attention written out: one softmax over all tokens with a dense bias, loops instead of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear(x: Array, layer: Any) -> Array:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def change(x: Array, adapter: Any) -> Array:
    """``x (scale up down)^T``."""
    return x @ (adapter.up.weight @ adapter.down.weight).detach().double().numpy().T * adapter.scale


def normed(x: Array, norm: Any) -> Array:
    """LayerNorm over the last axis."""
    middle = x - x.mean(-1, keepdims=True)
    unit = middle / np.sqrt((middle**2).mean(-1, keepdims=True) + norm.eps)
    return unit * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()


def rotated(x: Array, rows: tuple[Any, Any]) -> Array:
    """Each pair of neighbouring channels turned by its angle."""
    cos, sin = (part.double().numpy() for part in rows)
    turned = np.empty_like(x)
    turned[..., 0::2] = x[..., 0::2] * cos[:, 0::2] - x[..., 1::2] * sin[:, 0::2]
    turned[..., 1::2] = x[..., 1::2] * cos[:, 1::2] + x[..., 0::2] * sin[:, 1::2]
    return turned


def tab(t: float, total: float = 999.0, gamma: float = 10.0, epsilon: float = 0.1) -> float:
    """Equations 6 and 7."""
    return float(np.tanh(-gamma * (2 * t / total - 1) ** 2 + epsilon))


def region(query: Array, keys: Array, tokens: list[int], frames: int, threshold: float, stretch: bool = True) -> Array:
    """Equation 8's R_e: the softmax over these keys, mean over heads, stretched in each frame, held to lambda.

    ``keys`` are the text's, which come first, or all there are; without ``stretch`` the softmax itself is held.
    """
    heads, count, _ = query.shape
    found = np.zeros(count)
    for i in range(count):
        for head in range(heads):
            logits = keys[head] @ query[head, i] / np.sqrt(query.shape[-1])
            weights = np.exp(logits - logits.max())
            found[i] += sum(weights[j] for j in tokens) / weights.sum() / heads
    if not stretch:
        return (found > threshold).astype(float)
    result = np.zeros(count)
    for frame in np.split(np.arange(count), frames):
        low, high = found[frame].min(), found[frame].max()
        result[frame] = (found[frame] - low) / (high - low) > threshold
    return result


def attention(
    attn: Any, adapters: Any, text: Array, video: Array, reference: Array, rows: tuple[Any, Any], frames: int,
    time: float = 0.0, boost: float = 0.0, threshold: float = 0.1, tokens: list[int] | None = None,
    apart: bool = False, product: bool = False, all_queries: bool = False, kind: str = "minmax",
    everywhere: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One joint attention layer over text, video and reference tokens, each ``n d``.

    ``apart`` keeps the reference's queries from everything but the reference (Algorithm 1). ``product`` multiplies the
    biases, ``all_queries`` gives text and reference the one over time too, ``kind`` is what is held against lambda, and
    ``everywhere`` changes all tokens and not the reference's alone.
    """
    n_text, n_video = len(text), len(video)
    x = np.concatenate([text, video, reference])
    own = np.arange(len(x)) >= n_text + n_video
    changed = np.ones(len(x), dtype=bool) if everywhere else own
    parts: list[Array] = []
    for which in ("to_q", "to_k", "to_v"):
        y = linear(x, getattr(attn, which))
        y[changed] += change(x[changed], adapters[which])
        parts.append(y.reshape(len(x), attn.heads, -1).transpose(1, 0, 2))
    q, k, v = parts
    q, k = normed(q, attn.norm_q), normed(k, attn.norm_k)
    q[:, n_text:], k[:, n_text:] = rotated(q[:, n_text:], rows), rotated(k[:, n_text:], rows)
    bias = np.zeros((len(x), len(x)))
    a = np.full(n_video, time)
    if tokens is not None:
        keys = k if kind == "joint" else k[:, :n_text]
        r = region(q[:, n_text : n_text + n_video], keys, tokens, frames, threshold, kind == "minmax")
        assert 0 < r.sum() < n_video, "somewhere, and not everywhere"
        a = a * r if product else a + boost * r
    if all_queries:
        bias[:, own] = time
    bias[n_text : n_text + n_video, own] = a[:, None]
    if apart:
        bias[np.ix_(own, ~own)] = -np.inf
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out.transpose(1, 0, 2).reshape(len(x), -1)
    y = linear(out, attn.to_out[0])
    y[changed] += change(out[changed], adapters["to_out"])
    return y[:n_text], y[n_text : n_text + n_video], y[own]
