"""Small networks to put beside a frozen layer. Fresh, they add nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from starring.errors import StarringError


class LowRank(nn.Module):
    """A low-rank change of a linear map (LoRA, arXiv 2106.09685, section 4.1): ``scale * up(down(x))``.

    ``down`` starts as in torch's linear layers and ``up`` at zero, so the change starts at zero. ``scale`` is
    ``alpha / rank``. Attach it with ``branch(linear, lambda out, x: out + low_rank(x))``.

    Args:
        inputs: width of the layer's input.
        outputs: width of the layer's output.
        rank: inner width.
        alpha: strength; ``None`` means ``rank``, so a scale of 1.

    Raises:
        StarringError: if the rank is not positive.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        if rank < 1:
            raise StarringError(f"A low-rank branch needs a rank of at least 1, and was given {rank}.")
        self.scale = (rank if alpha is None else alpha) / rank
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    @classmethod
    def beside(cls, linear: nn.Linear, rank: int, alpha: float | None = None) -> LowRank:
        """One that fits ``linear``, on its device."""
        return cls(linear.in_features, linear.out_features, rank, alpha).to(linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """``... inputs`` to ``... outputs``, computed in the branch's precision, returned in that of ``x``."""
        return (self.up(self.down(x.to(self.down.weight.dtype))) * self.scale).to(x.dtype)

    def delta(self) -> Tensor:
        """The change as a matrix ``(outputs, inputs)``, as it would be added to the layer's weight."""
        return torch.mm(self.up.weight, self.down.weight) * self.scale


class FullRank(nn.Module):
    """A change of a linear map by a whole matrix, which starts at zero.

    Args:
        inputs: width of the layer's input.
        outputs: width of the layer's output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.full = nn.Linear(inputs, outputs, bias=False)
        nn.init.zeros_(self.full.weight)

    @classmethod
    def beside(cls, linear: nn.Linear) -> FullRank:
        """One that fits ``linear``, on its device."""
        return cls(linear.in_features, linear.out_features).to(linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """``... inputs`` to ``... outputs``, computed in the branch's precision, returned in that of ``x``."""
        return self.full(x.to(self.full.weight.dtype)).to(x.dtype)

    def delta(self) -> Tensor:
        """The change as a matrix ``(outputs, inputs)``, as it would be added to the layer's weight."""
        return self.full.weight


class Bottleneck(nn.Module):
    """A bottleneck adapter (arXiv 1902.00751, section 2): ``up(gelu(down(x)))``, with biases.

    ``up`` starts at zero, so it adds nothing. It returns the change only; the caller adds it to the layer's output.

    Args:
        width: width of what it reads and writes.
        hidden: inner width.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``... width`` to ``... width``, computed in the branch's precision, returned in that of ``x``."""
        hidden = nn.functional.gelu(self.down(x.to(self.down.weight.dtype)))
        return self.up(hidden).to(x.dtype)
