"""Making frames larger: interpolation, Swin2SR (arXiv 2209.11345), or any network that spandrel knows (ESRGAN)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Swin2SRForImageSuperResolution

from starring.errors import StarringError
from starring.perception.loading import fingerprint, load, locate, short

WEIGHTS = (".pth", ".pt", ".safetensors")
"""Suffixes of single files that spandrel reads."""


class Enlarger(Protocol):
    """Who makes frames larger."""

    @property
    def id(self) -> str:
        """Which network and weights."""
        ...

    def enlarge(self, frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """``F h w 3`` as ``F height width 3``."""
        ...


class Lanczos:
    """Interpolation: nothing is invented."""

    id = "lanczos"

    def enlarge(self, frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """``F h w 3`` as ``F height width 3``."""
        return np.stack([_lanczos(frame, height, width) for frame in frames])


class Network:
    """A super-resolution network, brought to the size that is wanted by Lanczos, as the released workflow does."""

    def __init__(self, network: Callable[[Tensor], Tensor], identity: str, block: int | None = None) -> None:
        """Keep what was given.

        Args:
            network: called with ``1 3 h w`` in [0, 1], answers with the same picture larger by a whole factor.
            identity: which network and weights.
            block: pictures are mirrored at the lower and right edge up to the next multiple of this, by one block
                where they are a multiple already, as Swin2SR's own processing does; ``None`` leaves them.
        """
        self.network = network
        self.id = identity
        self.block = block

    def enlarge(self, frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """``F h w 3`` as ``F height width 3``, a frame at a time, which bounds the memory."""
        return np.stack([_lanczos(self._larger(frame), height, width) for frame in frames])

    def _larger(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        h, w = frame.shape[:2]
        more = [(0, self.block - length % self.block if self.block else 0) for length in (h, w)]
        padded = np.pad(frame, [*more, (0, 0)], mode="symmetric")
        with torch.no_grad():
            larger: Tensor = self.network(torch.from_numpy(padded).movedim(-1, 0)[None].float() / 255)
        factor = larger.shape[-2] // padded.shape[0]
        picture = larger[0, :, : h * factor, : w * factor].float().clamp(0, 1).movedim(0, -1) * 255
        return picture.round().to(torch.uint8).cpu().numpy()


def _lanczos(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)


def load_enlarger(name: str = "lanczos", *, device: torch.device | str | None = None) -> Enlarger:
    """Who enlarges, by name.

    Args:
        name: ``lanczos``; a folder or hub id of a ``Swin2SRForImageSuperResolution`` (such as
            ``caidas/swin2SR-classical-sr-x2-64``); or a file of weights in the form that ESRGAN and its relatives are
            shared in (.pth, .safetensors), read by spandrel (``pip install starring[upscale]``).
        device: where to compute; the CPU by default.

    Raises:
        StarringError: if there is no such thing, it cannot be read, or spandrel is not installed.
    """
    if name == "lanczos":
        return Lanczos()
    if Path(name).suffix.lower() in WEIGHTS:
        return _by_spandrel(Path(name).expanduser(), device)
    source = locate("enlarger", name, {"lanczos": "lanczos"})
    model = load("enlarger", Swin2SRForImageSuperResolution, source, dtype=torch.float32)
    placed = cast("Any", model).eval().requires_grad_(False).to(device or "cpu")
    identity = f"swin2sr({short(name, source)}@{fingerprint(placed)})"

    def larger(picture: Tensor) -> Tensor:
        return placed(pixel_values=picture.to(placed.device)).reconstruction

    return Network(larger, identity, block=8)


def _by_spandrel(file: Path, device: torch.device | str | None) -> Enlarger:
    if not file.is_file():
        raise StarringError(f"There are no weights {file}. Check the path.")
    try:
        import spandrel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise StarringError(
            f"{file.name} is read by spandrel, which is not installed: pip install 'starring[upscale]'. Without it,"
            " --enlarger takes lanczos or a Swin2SR."
        ) from error
    state = _state(file)
    try:
        found = cast("Any", spandrel).ModelLoader(device=device or "cpu").load_from_state_dict(state)
    except cast("Any", spandrel).UnsupportedModelError as error:
        raise StarringError(f"{file} holds no network that spandrel knows. Give super-resolution weights.") from error
    if found.input_channels != 3 or found.output_channels != 3:
        raise StarringError(f"{file.name} does not enlarge colour pictures. Give super-resolution weights.")
    network = found.eval()
    network.model.requires_grad_(False)

    def larger(picture: Tensor) -> Tensor:
        return network(picture.to(network.device))

    return Network(larger, f"{found.architecture.id}({file.name}@{fingerprint(network.model)})")


def _state(file: Path) -> dict[str, Any]:
    """The tensors of a file of weights; nothing in it is executed."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise StarringError(f"{file} cannot be read as weights ({reason}). Nothing in it was executed.") from error
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            return cast("dict[str, Any]", state[key])
    return cast("dict[str, Any]", state)
