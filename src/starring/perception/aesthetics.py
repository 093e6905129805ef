"""How pleasing a picture is to people who rated pictures: LAION's linear head on CLIP."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starring.errors import StarringError
from starring.perception.encoders import PictureEncoder
from starring.perception.loading import digest_of_tensors


class Aesthetic:
    """LAION's aesthetic predictor: a linear layer on the unit vectors of CLIP (``sa_0_4_vit_l_14_linear.pth``)."""

    def __init__(self, encoder: PictureEncoder, weight: Tensor, bias: Tensor, name: str = "linear") -> None:
        """Keep what was given.

        Args:
            encoder: the CLIP that the head was trained on: ViT-L/14 for the published one.
            weight: ``1 d``.
            bias: ``1``.
            name: of the head.
        """
        self.encoder = encoder
        self._weight, self._bias = weight.float(), bias.float()
        self._name = f"{name}@{digest_of_tensors({'weight': weight, 'bias': bias})}"

    @property
    def protocol(self) -> str:
        """Head and encoder."""
        return f"aesthetic({self._name} on {self.encoder.protocol})"

    def rate(self, vectors: Tensor) -> Tensor:
        """Ratings ``f``, about 1 to 10, of the encoder's unit vectors ``f d``.

        Raises:
            StarringError: if the head was trained on vectors of another width.
        """
        if vectors.shape[1] != self._weight.shape[1]:
            raise StarringError(
                f"The aesthetic head {self._name} reads {self._weight.shape[1]} numbers a picture, but "
                f"{self.encoder.id} gives {vectors.shape[1]}. LAION's linear head of ViT-L/14 needs CLIP ViT-L/14."
            )
        return (vectors.float().cpu() @ self._weight.T).squeeze(1) + self._bias


def load_aesthetic(path: str | Path, encoder: PictureEncoder) -> Aesthetic:
    """The head from LAION's file, or from the same two tensors as ``.safetensors``.

    Raises:
        StarringError: if the file is missing or holds something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise StarringError(f"There is no aesthetic head at {file}. LAION's is called sa_0_4_vit_l_14_linear.pth.")
    state = _tensors(file)
    if set(state) != {"weight", "bias"} or state["weight"].ndim != 2 or state["weight"].shape[0] != 1:
        raise StarringError(f"{file} is no linear head: it should hold 'weight' (1 d) and 'bias', not {list(state)}.")
    return Aesthetic(encoder, state["weight"], state["bias"], name=file.stem)


def _tensors(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(file))
    try:
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise StarringError(f"{file} is not a checkpoint that torch can read.") from error
