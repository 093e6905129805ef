"""Two bottleneck adapters beside one layer: who it is, and how it moves (DualReal, arXiv 2505.02192, eq. 1 to 3).

::

    A_id(x) = up(gelu(down(x))) + x        A_mo(x) = up'(gelu(down'(x + W_cond e))) + x
    out     = layer(x) + a A_id(x) + b A_mo(x)

``e`` is the embedding of an image, the same for every token. Both adapters keep what they were given (the ``+ x``), so
fresh ones add ``(a + b) x``: the pair is never nothing.

Legend: ``b`` batch, ``n`` tokens, ``w`` width, ``h`` inner width, ``e`` width of an image's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starring.layers.branches import Bottleneck

SIDES = ("both", "identity", "motion")
"""Which adapters act. One that does not gives back what it was given, as when it was fresh."""


class DualAdapter(nn.Module):
    """The two adapters of one layer.

    Args:
        width: of the layer's tokens, ``w``.
        hidden: inner width, ``h``.
        image: width of an image's embedding, ``e``.
    """

    def __init__(self, width: int, hidden: int, image: int) -> None:
        super().__init__()
        self.identity = Bottleneck(width, hidden)
        self.motion = Bottleneck(width, hidden)
        self.condition = nn.Linear(image, width)

    def forward(self, x: Tensor, weights: Tensor, image: Tensor | None = None, sides: str = "both") -> Tensor:
        """What the layer's output gets in addition, ``b n w``.

        Args:
            x: what the layer was given, ``b n w``.
            weights: ``a`` and ``b`` for each sample, ``b 2``.
            image: the motion's image, ``b e`` or ``1 e``; ``None`` leaves ``W_cond`` out.
            sides: one of :data:`SIDES`.
        """
        a, b = weights.to(x.dtype)[:, :, None, None].unbind(1)
        who, how = x, x
        if sides != "motion":
            who = who + self.identity(x)
        if sides != "identity":
            how = how + self.motion(x if image is None else x + self._shift(image).to(x.dtype)[:, None])
        return a * who + b * how

    def _shift(self, image: Tensor) -> Tensor:
        return self.condition(image.to(self.condition.weight))

    @torch.no_grad()
    def folded(self, image: Tensor | None, sides: str, dtype: torch.dtype) -> Folded:
        """Both adapters as one, under one image ``1 e`` (or none) for all samples."""
        who, how, acts = self.identity, self.motion, (float(sides != "motion"), float(sides != "identity"))
        bias = how.down.bias if image is None else how.down(self._shift(image)[0])
        up = torch.cat([
            acts[0] * who.up.weight, acts[1] * how.up.weight, acts[0] * who.up.bias[:, None],
            acts[1] * how.up.bias[:, None],
        ], dim=1)  # fmt: skip
        return Folded(
            down=torch.cat([who.down.weight, how.down.weight]).to(dtype),
            bias=torch.cat([who.down.bias, bias]).to(dtype), up=up.T.to(dtype).contiguous(),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Folded:
    """The exact form of :class:`DualAdapter` for filming: one bottleneck of twice the inner width.

    As ``a + b`` is a constant, ``a A_id(x) + b A_mo(x) = (a + b) x + [a U | b U'] gelu([D; D'] x + d) + a u + b u'``,
    where ``d`` holds ``D' W_cond e``. ``W_cond``, which the plain form multiplies for every film step, is gone.
    """

    down: Tensor
    """``2h w``."""
    bias: Tensor
    """``2h``."""
    up: Tensor
    """``2h+2 w``: the two maps up and, as two more rows, their biases."""

    def onto(self, out: Tensor, x: Tensor, weights: Tensor, total: float) -> Tensor:
        """The layer's output ``b n w`` with both adapters'; ``total`` is ``a + b``, the same for all samples."""
        each = weights.to(x.dtype)
        scale = each.repeat_interleave(len(self.bias) // 2, dim=1)[:, None]
        hidden = F.gelu(F.linear(x, self.down, self.bias)) * scale
        inner = torch.cat([hidden, each[:, None].expand(-1, x.shape[1], -1)], dim=2)
        return torch.baddbmm(torch.add(out, x, alpha=total), inner, self.up.expand(len(x), -1, -1))
