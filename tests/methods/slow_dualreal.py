"""DualReal restated slowly: loops and NumPy in double precision, and a CogVideoX walked through block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def weights_of(method: Any) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in method.state_dict().items()}


def gelu(x: Array) -> Array:
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


def tanh_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def adapters(w: Weights, site: str, x: Array, a: float, b: float, image: Array | None, only: str = "both") -> Array:
    """a A_id(x) + b A_mo(x), token by token."""
    out = np.zeros_like(x)
    for n, token in enumerate(x):
        who, how = token.copy(), token.copy()
        if only in ("both", "identity"):
            who += linear(w, f"{site}.identity.up", gelu(linear(w, f"{site}.identity.down", token)))
        if only in ("both", "motion"):
            seen = token if image is None else token + linear(w, f"{site}.condition", image)
            how += linear(w, f"{site}.motion.up", gelu(linear(w, f"{site}.motion.down", seen)))
        out[n] = a * who + b * how
    return out


def blender(w: Weights, time: Array, tokens: Array, squash: str = "sigmoid") -> Array:
    """Shares of all groups for one sample: ``t`` and ``n w`` to ``g``."""
    width = len(time)
    modulation = linear(w, "blender.timestep_encoder.1", time * sigmoid(time))
    shift, scale, gate = modulation[:width], modulation[width : 2 * width], modulation[2 * width :]
    pooled = linear(w, "blender.channel_encoder.0", np.array([max(column) for column in tokens.T]))
    normal = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-5)
    normal = normal * w["blender.norm.weight"] + w["blender.norm.bias"]
    h = linear(w, "blender.fuse_proj", normal * (1 + scale) + shift)
    h = linear(w, "blender.fuse_proj_down", tanh_gelu(h)) + gate * pooled
    h = linear(w, "blender.fusion_net.1", np.maximum(h, 0))
    logits = linear(w, "blender.fusion_net.3", np.maximum(h, 0))
    return np.exp(logits) / np.exp(logits).sum() if squash == "softmax" else sigmoid(logits)


def prediction(
    net: Any, w: Weights, groups: int, x: Tensor, t: int, words: Tensor, rows: Any, image: Array | None,
    squash: str = "sigmoid", total: float = 0.2,
) -> Tensor:  # fmt: skip
    """The transformer's output for one film ``1 c f h w``, every block written out."""
    b, f, height, width = 1, x.shape[2], *x.shape[-2:]
    time = net.time_embedding(net.time_proj(torch.tensor([t])))
    tokens = net.patch_embed(words, x.transpose(1, 2))
    n = words.shape[1]
    shares = np.full(groups, 0.5)
    if "blender.norm.weight" in w:
        shares = blender(w, time[0].double().numpy(), tokens[0].double().numpy(), squash)
    text, video = tokens[:, :n], tokens[:, n:]
    blocks = len(net.transformer_blocks)

    def pair(site: str, given: Tensor, a: float) -> Tensor:
        found = adapters(w, f"adapters.{site}", given[0].double().numpy(), a, total - a, image)
        return torch.from_numpy(found)[None].float()

    for i, block in enumerate(net.transformer_blocks):
        a = total * float(shares[i * groups // blocks])
        v, s, gate_v, gate_s = block.norm1(video, text, time)
        attended_v, attended_s = block.attn1(hidden_states=v, encoder_hidden_states=s, image_rotary_emb=rows)
        extra = pair(f"transformer_blocks__{i}__attn1", torch.cat([s, v], 1), a)
        video, text = video + gate_v * (attended_v + extra[:, n:]), text + gate_s * (attended_s + extra[:, :n])
        v, s, gate_v, gate_s = block.norm2(video, text, time)
        both = torch.cat([s, v], 1)
        out = block.ff(both) + pair(f"transformer_blocks__{i}__ff", both, a)
        video, text = video + gate_v * out[:, n:], text + gate_s * out[:, :n]
    last = net.norm_final(torch.cat([text, video], 1))[:, n:]
    last = net.proj_out(net.norm_out(last, temb=time))
    p = net.config.patch_size
    last = last.reshape(b, f, height // p, width // p, -1, p, p).permute(0, 1, 4, 2, 5, 3, 6)
    return last.flatten(5, 6).flatten(3, 4).transpose(1, 2)
