"""Edges of pictures, for ControlNets that were trained on such (arXiv 2302.05543, section 4.1: Canny)."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 100, 200
"""Canny's thresholds in ControlNet's own examples."""
AS: Mapping[str, str] = {
    "pictures": "the network looks at the pictures as they are: edges, poses or depths already",
    "edges": "the network looks at the edges of the pictures (Canny), white on black",
}
"""What may be made of a clip before a ControlNet looks at it."""


def edges(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """White edges on black.

    Args:
        frames: ``F H W 3``, RGB.

    Returns:
        ``F H W 3``, 0 or 255.
    """
    found = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), LOW, HIGH) for frame in frames]
    return np.repeat(np.stack(found)[..., None], 3, axis=-1).astype(np.uint8)
