"""How far every pixel moves from one frame to the next.

Two estimators with one call: ``flow(frames)``, frames ``f 3 H W`` in [0, 1], gives ``f-1 2 H W`` in pixels (x right, y
down). DIS (arXiv 1603.03590) needs no weights; RAFT (arXiv 2003.12039) is loaded from a file.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.perception.raft import load_raft

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class Flow(Protocol):
    """What a motion metric asks of an optical flow estimator."""

    @property
    def protocol(self) -> str:
        """Estimator and settings: magnitudes compare only where this is equal."""
        ...

    def __call__(self, frames: Tensor) -> Tensor:
        """``f 3 H W`` in [0, 1] to displacements ``f-1 2 H W`` in pixels."""
        ...


class DIS:
    """Dense inverse search (arXiv 1603.03590), OpenCV's implementation, on 8-bit grey frames at their native size."""

    smallest = 16
    """Short side, in pixels, that OpenCV's patches need; smaller frames are enlarged first."""

    def __init__(self, preset: str = "medium") -> None:
        """Keep what was given.

        Args:
            preset: ``ultrafast``, ``fast`` or ``medium``.

        Raises:
            StarringError: if the preset is none of these.
        """
        if preset not in _PRESETS:
            raise StarringError(f"There is no DIS preset '{preset}'. Known: {', '.join(_PRESETS)}.")
        self.preset = preset

    @property
    def protocol(self) -> str:
        """Estimator and preset."""
        return f"dis({self.preset})"

    def __call__(self, frames: Tensor) -> Tensor:
        """Displacements.

        Args:
            frames: ``f 3 H W`` in [0, 1].

        Returns:
            ``f-1 2 H W`` in pixels of the given frames; empty for fewer than two frames.
        """
        height, width = frames.shape[-2:]
        if len(frames) < 2:
            return frames.new_zeros(0, 2, height, width)
        factor = max(1, -(-self.smallest // min(height, width)))
        grey = [self._grey(frame, factor) for frame in frames]
        estimator = cv2.DISOpticalFlow.create(_PRESETS[self.preset])
        pairs = [estimator.calc(a, b, cast("Any", None)) for a, b in pairwise(grey)]
        flow = torch.from_numpy(np.stack(pairs)).permute(0, 3, 1, 2)
        return flow if factor == 1 else interpolate(flow, size=(height, width), mode="area") / factor

    @staticmethod
    def _grey(frame: Tensor, factor: int) -> Any:
        array = (frame.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        grey = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2GRAY)
        return grey if factor == 1 else cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def load_flow(name: str = "dis", *, device: torch.device | str = "cpu") -> Flow:
    """``dis``, ``dis-fast``, ``dis-ultrafast``, or the path of a RAFT checkpoint.

    Raises:
        StarringError: if there is no such estimator or file.
    """
    if name == "dis" or name.startswith("dis-"):
        return DIS(name.partition("-")[2] or "medium")
    return load_raft(name, device=device)
