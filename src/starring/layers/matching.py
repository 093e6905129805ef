"""Semantic correspondence between pictures: which cell of one shows what a cell of the other shows.

Cells of a picture are numbered row by row. A flow is one whole number for each cell of the target, the cell of the
source that matches it best, so warping is a gather, chains of warps are compositions of index vectors, and nothing is
ever blended.

Legend: ``f`` pairs of pictures, ``c`` channel, ``n`` cells (``h w`` in rows), ``d`` feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from starring.errors import StarringError

BUDGET = 2**21
"""Similarities that are held at once; the whole cost volume of a 64 x 64 grid has 2^24 for each pair."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flow:
    """How the frames of a film follow from a reference picture, at one resolution."""

    links: Tensor
    """``f n``: for each cell of a frame, the matching cell of the picture it is warped from."""
    path: Tensor
    """``f n``: where a cell comes from in the end, in the pictures ``reference, frame 1, ..., frame f`` joined, so
    below ``n`` for a cell of the reference."""
    trusted: Tensor | None = None
    """``f n``: whether the link survived the test of cycle consistency; ``None`` if there was none."""


def grid(cells: int, height: int, width: int) -> tuple[int, int]:
    """The ``h w`` of a layer with so many cells in a network that halves ``height x width`` some times, rounding up.

    Raises:
        StarringError: if no halving gives that number.
    """
    h, w = height, width
    while h * w > cells and h * w > 1:
        h, w = -(-h // 2), -(-w // 2)
    if h * w != cells:
        raise StarringError(
            f"A layer with {cells} cells fits no halving of {height} x {width} latents. Film in multiples of 64 pixels."
        )
    return h, w


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``f c h w`` at another size, bilinearly."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)


def units(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Features ``f d h w``, first resized, then of unit length in every cell: ``f n d`` float32."""
    return normalize(resized(features.float(), size).flatten(2), dim=1).transpose(1, 2)


def reduced(features: Sequence[Tensor], width: int = 256) -> Tensor:
    """Features of several levels as one: each on its first principal components, enlarged to the largest, joined.

    As DreamMatcher (arXiv 2402.09812, section 4.2) matches. The components are those of all pictures together.

    Args:
        features: ``f d h w`` each.
        width: components of each level, as far as it has them.

    Returns:
        ``f (levels width) h w`` float32.
    """
    size = max((level.shape[-2], level.shape[-1]) for level in features)
    found: list[Tensor] = []
    for level in features:
        cells = level.float().permute(0, 2, 3, 1)
        centred = (cells - cells.mean((0, 1, 2))).flatten(0, 2)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:]
        found.append(resized((centred @ directions).view(*cells.shape[:3], -1).permute(0, 3, 1, 2), size))
    return torch.cat(found, dim=1)


def match(source: Tensor, target: Tensor, softness: float = 0.0, width: int = 1) -> Tensor:
    """The cell of the source that is most similar to each cell of the target.

    Similarities are cosines; they are computed for some rows at a time, and only the winners are kept.

    Args:
        source: ``f n d`` of unit length.
        target: ``f n d`` of unit length.
        softness: temperature of a soft-argmax, which gives the mean position under the softmax of the similarities,
            rounded to a cell; 0 is the argmax.
        width: of the grid, for the soft-argmax.

    Returns:
        ``f n`` whole numbers below ``n``.
    """
    rows = max(1, BUDGET // (source.shape[0] * source.shape[1]))
    turned = source.transpose(1, 2)
    if softness == 0:
        return torch.cat([(part @ turned).argmax(-1) for part in target.split(rows, dim=1)], dim=1)
    cells = torch.arange(source.shape[1], device=source.device)
    where = torch.stack([cells // width, cells % width], dim=-1).to(source)
    means = [((part @ turned) / softness).softmax(-1) @ where for part in target.split(rows, dim=1)]
    y, x = torch.cat(means, dim=1).round().long().unbind(-1)
    return y * width + x


def cycle_error(there: Tensor, back: Tensor, width: int) -> Tensor:
    """How far from itself a cell of the target ends, in cells, that goes to the source and comes back: ``f n``.

    Args:
        there: for each cell of the target, its match in the source, ``f n``.
        back: for each cell of the source, its match in the target, ``f n``.
        width: of the grid.
    """
    start = torch.arange(there.shape[1], device=there.device)
    end = back.gather(1, there)
    return torch.hypot((end // width - start // width).float(), (end % width - start % width).float())


def composed(links: Tensor, trusted: Tensor | None = None) -> Tensor:
    """Frame after frame, each warped from the one before: where every cell comes from in the end.

    Equal, bit for bit, to warping one after the other.

    Args:
        links: ``f n``, frame 1 from the reference, frame f from frame f - 1.
        trusted: ``f n``; a cell that is not trusted comes from itself.

    Returns:
        A :attr:`Flow.path`, ``f n``.
    """
    path: list[Tensor] = []
    for i, link in enumerate(links):
        path.append(link if i == 0 else path[-1][link])
        if trusted is not None:
            path[-1] = torch.where(trusted[i], path[-1], itself(links)[i])
    return torch.stack(path)


def itself(links: Tensor) -> Tensor:
    """The path on which every cell is its own beginning, ``f n``."""
    f, n = links.shape
    return torch.arange(n, (f + 1) * n, device=links.device).view(f, n)


def warp(values: Tensor, index: Tensor) -> Tensor:
    """``... n d`` gathered along ``n``: one row of the source for each cell of the target."""
    return values.index_select(-2, index)
