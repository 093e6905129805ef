"""Finding faces on every frame: by a text-prompted segmenter, or by OpenCV's face detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from starring.data.footage import digest
from starring.errors import StarringError
from starring.perception.segment import Segmenter

DETECTOR_SCORE = 0.5
"""Of the face detector, as in the released workflow."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Face:
    """One face on one frame."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels; right and bottom are the first outside."""
    mask: NDArray[np.bool_]
    """Where it is, ``H W``, as large as the frame."""

    @property
    def centre(self) -> tuple[float, float]:
        """Vertical and horizontal middle of the box, in pixels from the frame's corner."""
        left, top, right, bottom = self.box
        return (top + bottom) / 2, (left + right) / 2

    @property
    def size(self) -> tuple[float, float]:
        """Height and width of the box in pixels."""
        left, top, right, bottom = self.box
        return bottom - top, right - left


class Finder(Protocol):
    """Who looks for faces."""

    @property
    def id(self) -> str:
        """Which network, with everything that its answers depend on."""
        ...

    def find(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """The faces on each of the frames ``F H W 3``."""
        ...


class BySegmenter:
    """Faces as the instances that a text-prompted segmenter finds for a word."""

    def __init__(self, segmenter: Segmenter, word: str = "face") -> None:
        """Keep who segments, and the word to ask for."""
        self.segmenter = segmenter
        self.word = word

    @property
    def id(self) -> str:
        """The segmenter's own, and the word."""
        return f"{self.segmenter.id}, '{self.word}'"

    def find(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """The faces on each of the frames ``F H W 3``."""
        found = self.segmenter.instances([Image.fromarray(frame) for frame in frames], self.word)
        return [[within(instance.mask.numpy()) for instance in instances] for instances in found]


class ByDetector:
    """OpenCV's YuNet (``cv2.FaceDetectorYN``) with a model file that the person brings; masks are ellipses."""

    def __init__(self, model: str | Path, score: float = DETECTOR_SCORE) -> None:
        """Load ``model``, an ONNX file such as ``face_detection_yunet_2023mar.onnx``.

        Raises:
            StarringError: if there is no such file, or OpenCV cannot read it.
        """
        self.model = Path(model).expanduser()
        self.score = score
        if not self.model.is_file():
            raise StarringError(
                f"There is no face detector {self.model}. Give the path of a YuNet model (.onnx, from OpenCV's model"
                " zoo), or leave it out: then the segmenter looks for faces."
            )
        logging = cv2.utils.logging  # it remarks on its own defaults
        former = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            self._network = cv2.FaceDetectorYN.create(str(self.model), "", (320, 320), score)
        except cv2.error as error:
            raise StarringError(
                f"{self.model} is no face detector that OpenCV can read. Give a YuNet model from OpenCV's model zoo."
            ) from error
        finally:
            logging.setLogLevel(former)

    @property
    def id(self) -> str:
        """The file and the least score."""
        return f"yunet({self.model.name}@{digest(self.model)[:10]}, score {self.score:g})"

    def find(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """The faces on each of the frames ``F H W 3``."""
        height, width = frames.shape[1:3]
        self._network.setInputSize((width, height))
        found: list[list[Face]] = []
        for frame in frames:
            _, rows = self._network.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            boxes = [] if rows is None else [(r[0], r[1], r[0] + r[2], r[1] + r[3]) for r in np.asarray(rows)]
            found.append([face for box in boxes if (face := _ellipse(box, height, width)) is not None])
        return found


def within(mask: NDArray[np.bool_]) -> Face:
    """A face from its mask ``H W``, which covers a pixel at least."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Face(box=box, mask=mask)


def _ellipse(box: Sequence[float], height: int, width: int) -> Face | None:
    """The ellipse in a box as a face, where it lies on the frame; ``None`` if it covers no pixel's middle."""
    left, top, right, bottom = (float(value) for value in box)
    y, x = np.mgrid[:height, :width] + 0.5
    u = (x - (left + right) / 2) / max((right - left) / 2, 1e-6)
    v = (y - (top + bottom) / 2) / max((bottom - top) / 2, 1e-6)
    mask = np.asarray(u**2 + v**2 <= 1)
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    return Face(box=inside, mask=mask) if mask.any() else None
