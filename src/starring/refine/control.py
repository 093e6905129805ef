"""What may hold a tile to the picture that it was cut from: a ControlNet made for tiles."""

# The paper names ControlNet tile once, in the lead of section 4; section 4.3 and the released workflow do without it.

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

from diffusers import ControlNetModel
from torch import Tensor

from starring.backbones.base import Backbone
from starring.layers.control import controlled
from starring.perception.loading import fingerprint, load, short

Control = Callable[[Backbone, Tensor], AbstractContextManager[None]]
"""Called with the backbone and a tile ``1 3 F h w`` in [-1, 1] before it is drawn again, which happens inside the
context that it returns."""


class ControlNetTile:
    """A :data:`Control` by a diffusers ``ControlNetModel``, such as ``lllyasviel/control_v11f1e_sd15_tile``."""

    def __init__(self, network: Any, *, scale: float = 1.0, name: str = "controlnet") -> None:
        """Keep the network, and the weight of what it says."""
        self.network = network.eval().requires_grad_(False)
        self.scale = scale
        self.id = f"{name}@{fingerprint(self.network)}, scale {scale:g}"

    def __call__(self, backbone: Backbone, pixels: Tensor) -> AbstractContextManager[None]:
        """The network on the backbone, looking at one tile."""
        self.network.to(backbone.device)
        picture = (pixels[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
        return controlled(backbone.denoiser, self.network, picture, self.scale)


def load_controlnet(source: str, backbone: Backbone, scale: float = 1.0) -> ControlNetTile:
    """A ControlNet by folder or hub id, in the backbone's precision.

    Raises:
        StarringError: if it cannot be loaded.
    """
    network = load("ControlNet", ControlNetModel, source, torch_dtype=backbone.dtype)
    return ControlNetTile(cast("Any", network), scale=scale, name=short(source, source))
