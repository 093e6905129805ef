"""What was seen of a film and of photographs: every network is asked once, whatever is computed from its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError
from starring.metrics.copying import painted_over
from starring.perception.encoders import PictureEncoder
from starring.perception.faces import FaceEyes
from starring.perception.flow import Flow
from starring.perception.identity import IdentityEyes
from starring.perception.segment import Segmenter
from starring.perception.transforms import as_tensor

T = TypeVar("T")


class _Seen:
    """Answers by who was asked what."""

    def __init__(self) -> None:
        self._answers: dict[str, object] = {}

    def _once(self, what: str, ask: Callable[[], T]) -> T:
        if what not in self._answers:
            with torch.no_grad():
                self._answers[what] = ask()
        return cast("T", self._answers[what])


class Look(_Seen):
    """One film."""

    def __init__(self, frames: Tensor, fps: float) -> None:
        """Keep the film.

        Args:
            frames: ``f 3 H W`` in [0, 1], 8-bit values.
            fps: frames a second.
        """
        super().__init__()
        self.frames = frames
        self.fps = fps

    @property
    def shape(self) -> str:
        """Size, length and rate, for protocols of what depends on them."""
        count, _, height, width = self.frames.shape
        return f"{width}x{height}x{count} at {self.fps:g} fps"

    def vectors(self, encoder: PictureEncoder) -> Tensor:
        """The encoder's unit vectors ``f d``."""
        return self._once(encoder.protocol, lambda: encoder.images(self.frames).cpu())

    def flow(self, estimator: Flow, every: int = 1) -> Tensor:
        """Displacements ``p 2 H W`` in pixels between every ``every``-th frame."""
        return self._once(f"{estimator.protocol} {every}", lambda: estimator(self.frames[::every]).cpu())

    def faces(self, eyes: FaceEyes) -> list[Tensor]:
        """Unit vectors ``n d`` of each frame's faces."""
        return self._once(eyes.protocol, lambda: [found.cpu() for found in eyes.faces(self.frames)])

    def subjects(self, eyes: IdentityEyes) -> Tensor:
        """Unit vectors ``n d`` of the subject on the frames that show it."""
        return self._once(eyes.protocol, lambda: _known(eyes, [self.frames]))

    def masks(self, segmenter: Segmenter, word: str) -> list[Tensor]:
        """The subject on each frame, ``H W`` in {0, 1}."""
        arrays = (self.frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return self._once(
            f"{segmenter.id} {word}", lambda: segmenter.segment([Image.fromarray(a) for a in arrays], word)
        )

    def surroundings(self, encoder: PictureEncoder, segmenter: Segmenter, word: str) -> Tensor:
        """The encoder's unit vectors ``f d`` of the frames with the subject painted over, which are other pictures."""
        what = f"{encoder.protocol} around {word} {segmenter.id}"
        return self._once(what, lambda: encoder.images(painted_over(self.frames, self.masks(segmenter, word))).cpu())


class References(_Seen):
    """A subject's photographs, and clips of the motion that it learned."""

    def __init__(self, images: Sequence[Image.Image], clips: Sequence[Look] = (), mover: str = "") -> None:
        """Keep them.

        Args:
            images: the photographs.
            clips: the clips, at the films' size, length and rate.
            mover: what moves in them, such as ``person``.

        Raises:
            StarringError: if there are none.
        """
        super().__init__()
        if not images:
            raise StarringError("A subject without photographs cannot be recognised in a film. Give at least one.")
        self.images = list(images)
        self.clips = list(clips)
        self.mover = mover
        self.digest = digest_of(images)
        """Changes with any pixel of any photograph or clip; results are cached under it."""
        if clips:
            digest = hashlib.blake2b(f"{self.digest} {mover}".encode(), digest_size=8)
            for clip in clips:
                digest.update(clip.shape.encode() + (clip.frames * 255).round().byte().cpu().numpy().tobytes())
            self.digest = digest.hexdigest()

    def __len__(self) -> int:
        """How many photographs."""
        return len(self.images)

    def vectors(self, encoder: PictureEncoder) -> Tensor:
        """The encoder's unit vectors ``r d``."""
        return self._once(encoder.protocol, lambda: encoder.pictures(self.images).cpu())

    def faces(self, eyes: FaceEyes) -> list[Tensor]:
        """Unit vectors ``n d`` of each photograph's faces."""
        return self._once(eyes.protocol, lambda: [eyes.faces(as_tensor(image))[0].cpu() for image in self.images])

    def subjects(self, eyes: IdentityEyes) -> Tensor:
        """Unit vectors ``n d`` of the subject on the photographs that show it."""
        return self._once(eyes.protocol, lambda: _known(eyes, [as_tensor(image) for image in self.images]))

    def masks(self, segmenter: Segmenter, word: str) -> list[Tensor]:
        """The subject on each photograph, ``H W`` in {0, 1}."""
        return self._once(f"{segmenter.id} {word}", lambda: segmenter.segment(self.images, word))

    def surroundings(self, encoder: PictureEncoder, segmenter: Segmenter, word: str) -> Tensor:
        """The encoder's unit vectors ``r d`` of the photographs with the subject painted over."""

        def ask() -> Tensor:
            masks = self.masks(segmenter, word)
            painted = [painted_over(as_tensor(i), [m]) for i, m in zip(self.images, masks, strict=True)]
            return encoder.pictures([_picture(each[0]) for each in painted]).cpu()

        return self._once(f"{encoder.protocol} around {word} {segmenter.id}", ask)


def _known(eyes: IdentityEyes, pictures: Sequence[Tensor]) -> Tensor:
    found = [eyes.crop(each) for each in pictures]
    vectors = [eyes.encoder.images(crops).cpu() for crops, seen in found if seen]
    return torch.cat(vectors) if vectors else torch.zeros(0, 1)


def digest_of(images: Sequence[Image.Image]) -> str:
    """Sixteen hexadecimal digits that change with any pixel, size or the order of the images."""
    digest = hashlib.blake2b(digest_size=8)
    for image in images:
        flat = image.convert("RGBA")
        digest.update(f"{flat.size}".encode())
        digest.update(flat.tobytes())
    return digest.hexdigest()


def _picture(pixels: Tensor) -> Image.Image:
    array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array))
