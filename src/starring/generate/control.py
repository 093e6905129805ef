"""What a film's layout follows: a ControlNet that looks at one picture for each frame (arXiv 2302.05543).

Edges, poses or depths come as pictures, as whoever trained the network made them; nothing of the subject is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ControlNetModel
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Sample
from starring.data.edges import AS, edges
from starring.data.footage import read_footage
from starring.errors import unknown
from starring.layers.control import controlled
from starring.perception.loading import bundled, fingerprint, load, locate, short

CONTROLNETS: Mapping[str, str] = {"miniature-edges": bundled("control")}
"""Names of ControlNets; for Stable Diffusion 1.5 give a hub id, such as ``lllyasviel/control_v11p_sd15_canny``."""


class ControlNet:
    """A diffusers ``ControlNetModel`` for the base, such as ``lllyasviel/control_v11p_sd15_openpose``."""

    def __init__(self, network: Any, *, scale: float = 1.0, name: str = "controlnet") -> None:
        """Keep the network, and the weight of what it says."""
        self.network = network.eval().requires_grad_(False)
        self.scale = scale
        self.id = f"{name}@{fingerprint(self.network)}, scale {scale:g}"

    def __call__(self, backbone: Backbone, pixels: Tensor) -> AbstractContextManager[None]:
        """The network on the backbone, looking at ``1 3 F h w`` in [-1, 1]."""
        self.network.to(backbone.device)
        picture = (pixels[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
        return controlled(backbone.denoiser, self.network, picture, self.scale)


def load_controlnet(source: str, backbone: Backbone, scale: float = 1.0) -> ControlNet:
    """A ControlNet by name (:data:`CONTROLNETS`), folder or hub id, in the backbone's precision.

    Raises:
        StarringError: if it cannot be loaded.
    """
    place = locate("ControlNet", source, CONTROLNETS)
    network = load("ControlNet", ControlNetModel, place, torch_dtype=backbone.dtype)
    return ControlNet(cast("Any", network), scale=scale, name=short(source, source))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Guide:
    """A ControlNet and what it looks at in one film."""

    network: ControlNet
    """Who looks."""
    pixels: Tensor
    """At what: ``1 3 F H W`` in [-1, 1]."""
    facts: dict[str, Any]
    """What the sidecar says about both."""


def guide(
    network: ControlNet | str, pictures: str | Path, backbone: Backbone, sample: Sample, scale: float = 1.0,
    numbers: list[int] | None = None, look: str = "pictures",
) -> Guide:  # fmt: skip
    """What a film is to follow.

    Args:
        network: a ControlNet, or its folder or hub id.
        pictures: a video file or a folder with a picture for each frame.
        backbone: what films.
        sample: length, size and speed of the film.
        scale: weight of a network that is loaded here.
        numbers: which of the pictures to take, as an earlier film did.
        look: what the network looks at, one of :data:`starring.data.edges.AS`.

    Raises:
        StarringError: if one of both cannot be read, or ``look`` is unknown.
    """
    if look not in AS:
        raise unknown("way of looking at a clip", look, AS)
    footage = read_footage(
        pictures, frames=sample.frames, fps=sample.fps, size=(sample.height, sample.width), numbers=numbers
    )
    source = network if isinstance(network, str) else ""
    loaded = load_controlnet(network, backbone, scale) if isinstance(network, str) else network
    facts = {
        "file": str(Path(pictures).expanduser().resolve()), "sha256": footage.sha256, "frames": list(footage.numbers),
        "network": loaded.id, "source": source, "scale": loaded.scale, "look": look,
    }  # fmt: skip
    pixels = footage.pixels if look == "pictures" else _outlined(footage.pixels)
    return Guide(network=loaded, pixels=pixels, facts=facts)


def _outlined(pixels: Tensor) -> Tensor:
    """The edges of ``1 3 F H W`` in [-1, 1], in the same form."""
    frames = ((pixels[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return (torch.from_numpy(edges(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1).to(pixels)


@contextmanager
def following(backbone: Backbone, guide: Guide | None) -> Iterator[None]:
    """Films that are made inside follow the guide, if there is one."""
    if guide is None:
        yield
        return
    with guide.network(backbone, guide.pixels.to(backbone.device)):
        yield
