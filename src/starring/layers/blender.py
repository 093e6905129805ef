"""StageBlender: how much of who and how much of how, at this moment and depth (DualReal, arXiv 2505.02192, eq. 5 to 7).

Legend: ``b`` batch, ``n`` tokens, ``w`` width of tokens, ``t`` width of the time embedding, ``g`` groups of blocks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SQUASHES = ("sigmoid", "softmax")
"""How the last layer's outputs become shares: each by itself, or in competition between the groups."""


class StageBlender(nn.Module):
    """A share for every group of blocks, from the time embedding and the tokens before the first block.

    ::

        c = W max_n(tokens)
        shift, scale, gate = V silu(time)
        h = MLP(LN(c) (1 + scale) + shift) + gate c
        share = sigmoid(L' relu(L relu(h)))

    The last layer starts at zero, so all shares start equal: at one half, or at ``1 / g`` under softmax. Parameter
    names and order of computation are those of the released code, where the paper writes MLP before AdaLN.

    Args:
        time: width of the time embedding, ``t``.
        width: of the tokens, ``w``.
        groups: ``g``.
        squash: one of :data:`SQUASHES`.
        inner: width before the last layer.
    """

    def __init__(self, time: int, width: int, groups: int, squash: str = "sigmoid", inner: int = 128) -> None:
        super().__init__()
        self.squash = squash
        self.timestep_encoder = nn.Sequential(nn.SiLU(), nn.Linear(time, 3 * time))
        self.channel_encoder = nn.Sequential(nn.Linear(width, time))
        self.norm = nn.LayerNorm(time, eps=1e-5)
        self.fuse_proj = nn.Linear(time, 4 * time)
        self.fuse_proj_down = nn.Linear(4 * time, time)
        last = nn.Linear(inner, groups)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.fusion_net = nn.Sequential(nn.ReLU(), nn.Linear(time, inner), nn.ReLU(), last)

    def forward(self, time: Tensor, tokens: Tensor) -> Tensor:
        """Shares in (0, 1), ``b g``.

        Args:
            time: the embedding of the timestep, ``b t``.
            tokens: text and video tokens before the first block, ``b n w``.
        """
        own = self.norm.weight
        shift, scale, gate = self.timestep_encoder(time.to(own)).chunk(3, dim=1)
        pooled = self.channel_encoder(tokens.amax(dim=1).to(own))
        hidden = self.fuse_proj(self.norm(pooled) * (1 + scale) + shift)
        hidden = self.fuse_proj_down(F.gelu(hidden, approximate="tanh")) + gate * pooled
        logits = self.fusion_net(hidden)
        return logits.softmax(dim=1) if self.squash == "softmax" else logits.sigmoid()
