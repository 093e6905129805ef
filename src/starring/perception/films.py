"""Whole films as vectors: what a Fréchet distance of films is computed from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.perception.scripted import Scripted
from starring.perception.transforms import centre


class FilmEncoder(Protocol):
    """What a set-level metric asks of a video network."""

    @property
    def protocol(self) -> str:
        """Network, weights and transform."""
        ...

    def films(self, frames: Tensor) -> Tensor:
        """One film ``f 3 H W`` in [0, 1] to its features ``d``."""
        ...


class I3D:
    """I3D (arXiv 1705.07750) as FVD uses it: the TorchScript export of StyleGAN-V (arXiv 2112.14683), by path.

    Frames get a short side of 224 (bilinear), the central square is kept, values go to [-1, 1]; the network is told
    neither to rescale nor to resize and to answer with features (400 numbers, Kinetics-400).
    """

    side = 224
    least = 10
    """Frames that the network's strides need."""

    def __init__(self, path: str | Path, *, device: torch.device | str | None = None) -> None:
        """Load ``i3d_torchscript.pt``, or another file that is called in the same way.

        Raises:
            StarringError: if there is no such file, or it is no TorchScript.
        """
        self._network = Scripted(path, "video feature network", device=device)

    @property
    def protocol(self) -> str:
        """Network, weights and transform."""
        return f"i3d({self._network.id}, short{self.side}-bilinear-crop{self.side}-half)"

    def films(self, frames: Tensor) -> Tensor:
        """Features of one film.

        Args:
            frames: ``f 3 H W`` in [0, 1], at least ten frames.

        Returns:
            ``d`` in float32.

        Raises:
            StarringError: if there are fewer frames, or the network does not accept them.
        """
        if len(frames) < self.least:
            raise StarringError(
                f"I3D needs films of at least {self.least} frames; this one has {len(frames)}. Film longer ones."
            )
        height, width = frames.shape[-2:]
        factor = self.side / min(height, width)
        size = (max(self.side, round(height * factor)), max(self.side, round(width * factor)))
        small = interpolate(frames.float(), size=size, mode="bilinear", align_corners=False)
        film = (centre(small, self.side) * 2 - 1).permute(1, 0, 2, 3)[None].contiguous()
        with torch.no_grad():
            return self._network(film, rescale=False, resize=False, return_features=True).flatten()
