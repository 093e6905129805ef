"""The residual network of the ArcFace family (IResNet), with the names of its published checkpoints.

ArcFace (arXiv 1801.07698, section 3.1) puts batch norm first in each block (improved residual units), keeps the first
convolution at full size, and ends in batch norm, a linear layer and batch norm, which give the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from starring.errors import StarringError

R100 = (3, 13, 30, 3)
"""Blocks of IResNet-100, which PersonalVideo trains with (arXiv 2411.17048, section 5.1)."""
WIDTHS = (64, 128, 256, 512)
"""Channels of the published networks."""


class Block(nn.Module):
    """A residual unit; the first of a stage halves the size and has a projection beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k h/stride w/stride``."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Aligned crops ``b 3 side side`` in [-1, 1], red first, to embeddings ``b d`` (not yet of length one)."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = R100,
        widths: tuple[int, int, int, int] = WIDTHS,
        dimension: int = 512,
        side: int = 112,
    ) -> None:
        """Random weights.

        Args:
            blocks: units of each stage.
            widths: channels of each stage.
            dimension: of the embedding.
            side: of the crops in pixels, a multiple of 16.
        """
        super().__init__()
        self.side = side
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            units = [Block(inputs, width, 2), *(Block(width, width, 1) for _ in range(count - 1))]
            self.add_module(f"layer{i}", nn.Sequential(*units))
            inputs = width
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * (side // 16) ** 2, dimension)
        self.features = nn.BatchNorm1d(dimension)

    def forward(self, x: Tensor) -> Tensor:
        """The embedding."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def from_tensors(tensors: Mapping[str, Tensor], source: str = "the checkpoint") -> IResNet:
    """The network that a checkpoint's tensors are of; sizes are read off their shapes.

    Args:
        tensors: by the names of the published checkpoints, alone or below ``module.``, ``backbone.`` or ``state_dict``.
        source: where they came from, for errors.

    Raises:
        StarringError: if they are not an IResNet's.
    """
    tensors = {re.sub(r"^(module|backbone)\.", "", name): value for name, value in tensors.items()}
    needed = ("conv1.weight", "fc.weight", *(f"layer{i}.0.conv1.weight" for i in range(1, 5)))
    lacking = [name for name in needed if name not in tensors]
    if lacking:
        raise StarringError(
            f"{source} is no IResNet of the ArcFace family: it lacks {', '.join(lacking)}. It holds "
            f"{', '.join(list(tensors)[:3])} and {max(0, len(tensors) - 3)} more. Give one such as glint360k's r100."
        )
    units = [{int(m[1]) for n in tensors if (m := re.match(rf"layer{i}\.(\d+)\.", n))} for i in range(1, 5)]
    widths = [tensors[f"layer{i}.0.conv1.weight"].shape[0] for i in range(1, 5)]
    dimension, flat = tensors["fc.weight"].shape
    with torch.device("meta"):
        net = IResNet(
            (len(units[0]), len(units[1]), len(units[2]), len(units[3])),
            (widths[0], widths[1], widths[2], widths[3]),
            dimension,
            16 * round((flat / widths[3]) ** 0.5),
        )
    # Counters of batches belong to training; some published files leave them out.
    wanted = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = [n for n, value in wanted.items() if n not in tensors or tensors[n].shape != value.shape]
    if wrong:
        raise StarringError(f"{source} does not fit an IResNet: {', '.join(wrong[:3])} ({len(wrong)} tensors).")
    given = {name: tensors[name].float() for name in wanted}
    counters = {name: torch.zeros((), dtype=torch.long) for name in net.state_dict() if name not in wanted}
    net.load_state_dict(given | counters, assign=True)
    return net.eval()
