"""What can be said about a photograph without any network: how blurred it is, and whether it was seen before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE = 16
"""The perceptual hash compares this many neighbours in every row and in every column."""
HASH_BITS = 2 * HASH_SIDE * HASH_SIDE


def luma(image: Image.Image, side: int | None = None) -> NDArray[np.float32]:
    """Brightness ``h w`` in [0, 1]; with ``side``, the shorter edge is first reduced to it (never enlarged)."""
    short = min(image.size)
    if side is not None and short > side:
        scale = side / short
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


def blur(image: Image.Image, side: int | None = None) -> float:
    """How blurred a picture is, in [0, 1]: how little of its local contrast a further blur can take away.

    The no-reference measure of Crete et al., "The blur effect: perception and estimation with a new no-reference
    perceptual blur metric" (SPIE 2007), eqs. 1 to 6: neighbour differences before and after a nine-tap mean, along
    rows and along columns; the worse direction counts. A sharp photograph lies near 0.3, a visibly blurred one above
    0.55, a flat picture at 1.

    Args:
        image: any size.
        side: judge the picture at this shorter edge, since blur that vanishes at training size does no harm.
    """
    gray = luma(image, side)
    return max(_blur_along(gray, 0), _blur_along(gray, 1))


def _blur_along(gray: NDArray[np.float32], axis: int) -> float:
    if gray.shape[axis] < 3:
        return 1.0
    taps = min(9, gray.shape[axis] // 2 * 2 - 1)
    before = np.abs(np.diff(gray, axis=axis))
    after = np.abs(np.diff(_mean_filter(gray, taps, axis), axis=axis))
    total = float(before.sum())
    # A picture without any contrast has nothing to judge by; call it blurred rather than divide by zero.
    if total < 1e-6 * gray.size:
        return 1.0
    lost = np.clip(before - after, 0, None)
    return (total - float(lost.sum())) / total


def _mean_filter(gray: NDArray[np.float32], taps: int, axis: int) -> NDArray[np.float32]:
    reach = taps // 2
    width = [(0, 0), (0, 0)]
    width[axis] = (reach + 1, reach)
    total = np.cumsum(np.pad(gray.astype(np.float64), width, mode="edge"), axis=axis)
    upper = np.take(total, np.arange(taps, total.shape[axis]), axis=axis)
    lower = np.take(total, np.arange(0, total.shape[axis] - taps), axis=axis)
    return ((upper - lower) / taps).astype(np.float32)


def fingerprint(image: Image.Image) -> NDArray[np.bool_]:
    """A perceptual hash of 512 bits: is each cell of a small picture brighter than its left and its upper neighbour?

    It survives rescaling, recompression and small changes of exposure.
    """
    side = HASH_SIDE + 1
    small = np.asarray(image.convert("L").resize((side, side), Image.Resampling.LANCZOS), dtype=np.int16)
    across = small[:-1, 1:] > small[:-1, :-1]
    down = small[1:, :-1] > small[:-1, :-1]
    return np.concatenate([across.ravel(), down.ravel()])


def apart(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """The share of fingerprint bits that differ; unrelated pictures lie near 0.5, copies near 0."""
    return float(np.mean(a != b))
