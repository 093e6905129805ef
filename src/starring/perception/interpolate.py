"""The frame between two frames: by a network that a person brings, or by optical flow.

One call: ``middle(before, after)``, each ``p 3 H W`` in [0, 1], gives ``p 3 H W`` in [0, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from starring.errors import StarringError
from starring.perception.flow import DIS, Flow
from starring.perception.scripted import Scripted

MULTIPLE = 16
"""Frame sides that interpolation networks ask for; VBench pads to it."""


class Interpolator(Protocol):
    """What motion smoothness asks for."""

    @property
    def protocol(self) -> str:
        """Network or algorithm: smoothness compares only where this is equal."""
        ...

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """``p 3 H W`` in [0, 1], twice, to the frames in the middle, ``p 3 H W`` in [0, 1]."""
        ...


class ByFlow:
    """The middle frame by optical flow in both directions (Super SloMo's approximation, arXiv 1712.00080, eqs. 3-4).

    At t = 1/2 the flow from the middle to the frame before is (F_10 - F_01) / 4, and to the frame after its negative;
    both frames are fetched along it, bilinearly with the border repeated, and averaged. There is no network that
    would hide ghosts: scores are lower than with one, and have a protocol of their own.
    """

    def __init__(self, flow: Flow | None = None) -> None:
        """Keep who estimates the flow; DIS by default."""
        self.flow: Flow = DIS() if flow is None else flow

    @property
    def protocol(self) -> str:
        """The algorithm and who estimates the flow."""
        return f"flow-middle({self.flow.protocol})"

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """The frames in the middle.

        Args:
            before: ``p 3 H W`` in [0, 1].
            after: the same.

        Returns:
            ``p 3 H W`` in [0, 1].
        """
        found: list[Tensor] = []
        for first, last in zip(before, after, strict=True):
            forth, back = self.flow(torch.stack([first, last])), self.flow(torch.stack([last, first]))
            quarter = (back - forth).float() / 4
            pair = fetched(torch.stack([first, last]), torch.cat([quarter, -quarter]))
            found.append(pair.mean(0))
        return torch.stack(found) if found else before


class ByNetwork:
    """A frame interpolation network from a TorchScript file, such as an exported AMT-S (arXiv 2304.09790).

    It is called with two images ``1 3 H W`` in [0, 1] and the time ``1 1 1 1`` (1/2), sides padded to multiples of 16
    by repeating the border, and answers with the image in between.
    """

    def __init__(self, path: str | Path, *, device: torch.device | str | None = None) -> None:
        """Load the file.

        Raises:
            StarringError: if there is no such file, or it is no TorchScript.
        """
        self._network = Scripted(path, "frame interpolation network", device=device)

    @property
    def protocol(self) -> str:
        """Which file."""
        return f"interpolator({self._network.id}, pad{MULTIPLE})"

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """The frames in the middle.

        Raises:
            StarringError: if the network answers with another shape.
        """
        height, width = before.shape[-2:]
        rows, columns = -height % MULTIPLE, -width % MULTIPLE
        top, left = rows // 2, columns // 2
        border = (left, columns - left, top, rows - top)
        half = torch.full((1, 1, 1, 1), 0.5)
        found: list[Tensor] = []
        for i in range(len(before)):
            pair = [pad(frames[i : i + 1].float(), border, mode="replicate") for frames in (before, after)]
            answer = self._network(*pair, half)
            if answer.shape != pair[0].shape:
                raise StarringError(
                    f"The {self._network.kind} '{self._network.id}' made a picture of {tuple(answer.shape)} from two "
                    f"of {tuple(pair[0].shape)}. It must take two images and the time, and answer with one image."
                )
            found.append(answer[0, :, top : top + height, left : left + width].clamp(0, 1))
        return torch.stack(found) if found else before


def load_interpolator(name: str = "flow", *, device: torch.device | str | None = None) -> Interpolator:
    """``flow``, or the path of a network's TorchScript file.

    Raises:
        StarringError: if there is no such file, or it is no TorchScript.
    """
    return ByFlow() if name == "flow" else ByNetwork(name, device=device)


def fetched(images: Tensor, flow: Tensor) -> Tensor:
    """Images ``b 3 H W`` read, bilinearly, at every pixel's place plus ``flow`` ``b 2 H W`` in pixels."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y]).to(flow) + flow
    size = places.new_tensor([width, height])[:, None, None]
    grid = ((2 * places + 1) / size - 1).permute(0, 2, 3, 1)
    return grid_sample(images.to(flow), grid, mode="bilinear", padding_mode="border", align_corners=False)
