"""Finders that know where the faces are, and films with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from starring.refine.find import Face, within

Box = tuple[int, int, int, int]
"""Top, left, height, width."""


class Known:
    """Says where faces are, frame by frame."""

    id = "known"

    def __init__(self, boxes: Sequence[Sequence[Box]]) -> None:
        self.boxes = boxes

    def find(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        return [[masked(frames.shape[1:3], box) for box in boxes] for boxes in self.boxes]


def masked(frame: tuple[int, ...], box: Box) -> Face:
    top, left, height, width = box
    mask = np.zeros(frame[:2], dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return within(mask)


def noise_film(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Frames in which every pixel differs from its neighbours, so that nothing can be moved unseen."""
    return np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
