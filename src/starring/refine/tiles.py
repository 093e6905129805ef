"""Tiled VCD: a film enlarged, and its details made again piece by piece (arXiv 2402.09368, section 4.3).

The film is enlarged by a super-resolution network or by interpolation and cut into tiles of the backbone's size, each
of which is partially denoised with all frames together (20 %, section 5.2), so that the largest tensor is that of one
tile however large the film becomes. Tiles overlap and are blended; all are cut from the enlarged film and from one
canvas of noise, so that neighbours agree on what they share and their order does not matter. Lengths are those of the
released workflow (padding 32 and mask blur 8 at tiles of 512), in shares of the tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starring.errors import StarringError

MORE = 128
"""How many pixels a tile may grow until the backbone accepts its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TileOptions:
    """The choices inside Tiled VCD."""

    scale: int = 2
    """How many times larger the film becomes; with 2, a film of the backbone's size is cut into 2 x 2 tiles."""
    strength: float = 0.2
    """Share of the schedule that is run (section 5.2)."""
    enlarger: str = "lanczos"
    """Who enlarges: ``lanczos``, a folder or hub id of a Swin2SR, or a file of ESRGAN-family weights (spandrel)."""
    padding: float = 32 / 512
    """What a tile sees of its neighbours on each side, as a share of the backbone's shorter side (workflow)."""
    blur: float = 8 / 512
    """Half the width of the seam in which neighbours are blended, as a share of the same (workflow)."""
    controlnet: str | None = None
    """Folder or hub id of a ControlNet made for tiles, which holds every tile to what it was (V10: off)."""
    control_scale: float = 1.0
    """Weight of what it says."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise StarringError(
                f"The strength for tiles is {self.strength}, but it must lie in [0, 1]; the paper: 0.2."
            )
        if self.scale < 1:
            raise StarringError(f"A film cannot be enlarged {self.scale} times. Give --tiles 2 or more.")
        if not 0 <= self.blur <= self.padding:
            raise StarringError(
                f"Tiles are blended over {self.blur:g} on each side of a seam, but see {self.padding:g} of each other."
                " Make the padding at least as large as the blur."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Span:
    """A tile along one axis."""

    start: int
    """Its first pixel."""
    weight: NDArray[np.float64]
    """How much of it goes into the film, for each of its pixels; over all tiles, every pixel's weights sum to one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How a canvas is cut."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    tile: tuple[int, int]
    """Height and width of every tile."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def grid(
    canvas: tuple[int, int],
    core: tuple[int, int],
    fits: Callable[[int, int], bool],
    *,
    padding: float,
    blur: float,
    step: int = 1,
) -> Grid:
    """Cut a canvas into as few equal parts of at most ``core`` as possible, and let tiles reach beyond their parts.

    A backbone that makes films of its own size only gets more tiles of that size instead.

    Args:
        canvas: height and width of the enlarged film.
        core: height and width of the backbone's films.
        fits: whether the backbone makes films of a height and width.
        padding: what a tile sees of its neighbours on each side, in pixels, at least.
        blur: half the width of a seam.
        step: tiles begin at multiples of this, the pixels of a latent cell.

    Raises:
        StarringError: if the backbone makes no film of any size that would do.
    """
    margin = max(math.ceil(padding), math.ceil(blur + step / 2))
    rows, height = _axis(canvas[0], core[0], lambda length: fits(length, core[1]), margin)
    columns, width = _axis(canvas[1], core[1], lambda length: fits(core[0], length), margin)
    if not fits(height, width):
        raise StarringError(
            f"A film of {canvas[0]}x{canvas[1]} would need tiles of {height}x{width}, which the backbone does not make."
            f" Its own films are {core[0]}x{core[1]}; enlarge the film another number of times."
        )
    return Grid(
        rows=spans(canvas[0], rows, height, blur, step),
        columns=spans(canvas[1], columns, width, blur, step),
        tile=(height, width),
    )


def _axis(length: int, core: int, fits: Callable[[int], bool], margin: int) -> tuple[int, int]:
    """How many tiles along an axis, and of which extent."""
    if length <= core:
        return 1, length
    wanted = min(core + 2 * margin, length)
    extent = next((e for e in range(wanted, min(length, wanted + MORE) + 1) if fits(e)), None)
    if extent is None:
        return math.ceil((length - 2 * margin) / max(core - 2 * margin, 1)), core
    return (1 if extent == length else math.ceil(length / core)), extent


def spans(length: int, count: int, extent: int, blur: float, step: int = 1) -> tuple[Span, ...]:
    """``count`` overlapping tiles of ``extent`` pixels along an axis of ``length``, weights summing to one everywhere.

    Across the seam at ``e`` the weight of the tile before it falls linearly from 1 at ``e - blur`` to 0 at
    ``e + blur``, and that of the tile after it rises as much.
    """
    edges = [length * i / count for i in range(count + 1)]

    def risen(pixels: NDArray[Any], edge: float) -> NDArray[np.float64]:
        return np.clip((pixels - edge + blur) / max(2 * blur, 1e-9), 0, 1)

    made: list[Span] = []
    for i in range(count):
        middle = (edges[i] + edges[i + 1] - extent) / 2
        start = min(max(round(middle / step) * step, 0), length - extent)
        pixels = start + np.arange(extent, dtype=np.float64) + 0.5
        weight = np.ones(extent, dtype=np.float64)
        if i > 0:
            weight = weight * risen(pixels, edges[i])
        if i < count - 1:
            weight = weight * (1 - risen(pixels, edges[i + 1]))
        made.append(Span(start=start, weight=weight))
    return tuple(made)


def tiled(
    frames: NDArray[np.uint8], cuts: Grid, redraw: Callable[[NDArray[np.uint8], int, int, int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Every tile of a film made again by itself and blended.

    Args:
        frames: the enlarged film, ``F H W 3``.
        cuts: how it is cut.
        redraw: called with a tile ``F h w 3``, its number from 1, and its top and left, in rows from the top left.

    Returns:
        ``F H W 3``; where ``redraw`` returns what it was given, that is ``frames``, bit for bit.
    """
    canvas = np.zeros(frames.shape, dtype=np.float32)
    height, width = cuts.tile
    number = 0
    for row in cuts.rows:
        for column in cuts.columns:
            number += 1
            top, left = row.start, column.start
            there = (slice(None), slice(top, top + height), slice(left, left + width))
            weight = np.outer(row.weight, column.weight).astype(np.float32)[None, :, :, None]
            canvas[there] += weight * redraw(np.ascontiguousarray(frames[there]), number, top, left)
    return np.rint(canvas).clip(0, 255).astype(np.uint8)
