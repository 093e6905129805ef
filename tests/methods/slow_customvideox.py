"""CustomVideoX's attention written out: one softmax over all tokens with a dense bias, loops instead of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear(x: Array, layer: Any) -> Array:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def change(x: Array, adapter: Any) -> Array:
    """``x (scale up down)^T``, or by a whole matrix."""
    if hasattr(adapter, "full"):
        return x @ adapter.full.weight.detach().double().numpy().T
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


def found(query: Array, keys: Array, tokens: list[int]) -> Array:
    """The softmax over these keys at the entity's tokens, mean over heads, for each query.

    ``keys`` are the text's, which come first, or all there are.
    """
    heads, count, _ = query.shape
    shares = np.zeros(count)
    for i in range(count):
        for head in range(heads):
            logits = keys[head] @ query[head, i] / np.sqrt(query.shape[-1])
            weights = np.exp(logits - logits.max())
            shares[i] += sum(weights[j] for j in tokens) / weights.sum() / heads
    return shares


def region(shares: Array, frames: int, threshold: float, stretch: bool = True) -> Array:
    """Equation 8's R_e: a map, stretched in each frame, held to lambda; without ``stretch`` the map itself is held."""
    if not stretch:
        return (shares > threshold).astype(float)
    result = np.zeros(len(shares))
    for frame in np.split(np.arange(len(shares)), frames):
        low, high = shares[frame].min(), shares[frame].max()
        result[frame] = (shares[frame] - low) / (high - low) > threshold
    return result


def projected(
    attn: Any, adapters: Any, x: Array, changed: NDArray[np.bool_], n_text: int, rows: tuple[Any, Any]
) -> list[Array]:
    """Queries, keys and values ``h n d``: changed where they are, normalised, and turned beyond the text."""
    parts: list[Array] = []
    for which in ("to_q", "to_k", "to_v"):
        y = linear(x, getattr(attn, which))
        y[changed] += change(x[changed], adapters[which])
        parts.append(y.reshape(len(x), attn.heads, -1).transpose(1, 0, 2))
    q, k, v = parts
    q, k = normed(q, attn.norm_q), normed(k, attn.norm_k)
    q[:, n_text:], k[:, n_text:] = rotated(q[:, n_text:], rows), rotated(k[:, n_text:], rows)
    return [q, k, v]


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(
    attn: Any, adapters: Any, text: Array, video: Array, reference: Array, rows: tuple[Any, Any], frames: int,
    time: float = 0.0, boost: float = 0.0, threshold: float = 0.1, tokens: list[int] | None = None,
    apart: bool = False, product: bool = False, all_queries: bool = False, kind: str = "minmax",
    everywhere: bool = False, way: str = "logits", decoupled: bool = False, shares: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One joint attention layer over text, video and reference tokens, each ``n d``.

    ``apart`` keeps the reference's queries from everything but the reference (Algorithm 1). ``product`` multiplies the
    biases, ``all_queries`` gives text and reference the one over time too, ``kind`` is what is held against lambda, and
    ``everywhere`` changes all tokens and not the reference's alone. ``way`` is what the boost does to the logits or the
    output of the reference, ``decoupled`` gives it a softmax of its own, and ``shares`` is a map from elsewhere.
    """
    n_text, n_video = len(text), len(video)
    x, film = np.concatenate([text, video, reference]), slice(n_text, n_text + n_video)
    own = np.arange(len(x)) >= n_text + n_video
    changed = np.ones(len(x), dtype=bool) if everywhere else own
    q, k, v = projected(attn, adapters, x, changed, n_text, rows)
    a, gain, r = np.zeros(len(x)), np.ones(len(x)), np.zeros(n_video)
    if tokens is not None:
        seen = found(q[:, film], k if kind == "joint" else k[:, :n_text], tokens) if shares is None else shares
        r = region(seen, frames, threshold, kind == "minmax")
        assert 0 < r.sum() < n_video, "somewhere, and not everywhere"
    if all_queries:
        a[:] = time
    a[film] = time * r if product else time + (boost * r if way == "logits" else 0)
    gain[film] += 0 if way == "logits" else boost * r
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    if way == "scale":
        logits[:, :, own] *= gain[:, None]
    bias = np.zeros((len(x), len(x)))
    bias[:, own] = a[:, None]
    if apart:
        bias[np.ix_(own, ~own)] = -np.inf
    weights = softmax(logits + (np.where(np.isinf(bias), bias, 0) if decoupled else bias))
    if decoupled:
        gated = slice(0, len(x)) if all_queries else film
        weights[:, gated][..., ~own] = softmax(logits[:, gated][..., ~own])
        weights[:, gated][..., own] = softmax(logits[:, gated][..., own]) * np.exp(a[gated])[:, None]
    if way == "output":
        weights[:, :, own] *= gain[:, None]
    out = (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)
    y = linear(out, attn.to_out[0])
    y[changed] += change(out[changed], adapters["to_out"])
    return y[:n_text], y[film], y[own]
