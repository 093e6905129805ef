"""Before and after, side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from starring.data.video import contact_sheet
from starring.errors import StarringError
from starring.generate.films import Film
from starring.refine.face import scaled

MARGIN = 0.5
"""How much around a change is shown, in sizes of the change."""


def comparison(
    before: Film | NDArray[np.uint8], after: Film | NDArray[np.uint8], *, count: int = 6, side: int = 160
) -> Image.Image:
    """A sheet with frames before (above) and after (below).

    Films of equal size are shown around what differs, which is where a face was made again; where the size differs, or
    nothing does, whole frames are shown.

    Args:
        before: a film, or its frames ``F H W 3``.
        after: the same, refined.
        count: how many frames, spread over the film.
        side: the longer edge of every picture.

    Raises:
        StarringError: if the films have different numbers of frames.
    """
    first, second = (one.frames if isinstance(one, Film) else one for one in (before, after))
    if len(first) != len(second):
        raise StarringError(f"Films of {len(first)} and {len(second)} frames cannot be compared frame by frame.")
    chosen = np.unique(np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int))
    if first.shape == second.shape:
        rows, columns = changed(first, second)
        first, second = first[:, rows, columns], second[:, rows, columns]
    pictures = [Image.fromarray(frame) for frame in (*scaled(first[chosen], second.shape[1:3]), *second[chosen])]
    labels = [f"{when} {number + 1}" for when in ("before", "after") for number in chosen]
    return contact_sheet(pictures, columns=len(chosen), side=side, labels=labels)


def changed(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns around everything that differs between two films ``F H W 3``; all of them if nothing does."""
    differs = (first != second).any(axis=(0, 3))
    if not differs.any():
        return slice(None), slice(None)
    found: list[slice] = []
    for axis in (1, 0):
        places = np.flatnonzero(differs.any(axis=axis))
        more = round(MARGIN * (places[-1] + 1 - places[0]))
        found.append(slice(max(0, int(places[0]) - more), int(places[-1]) + 1 + more))
    return found[0], found[1]
