"""Crops through which gradient flows: a square around a subject, a face set upright by its five points.

Positions are in pixels, centres of pixels at whole numbers, x before y.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def around(mask: Tensor, wider: float = 1.25) -> Tensor:
    """The square around a mask.

    Args:
        mask: ``H W`` bool, at least one pixel covered.
        wider: side of the square over the longer side of the mask.

    Returns:
        ``3``: the middle's x and y, and the side, in pixels.
    """
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    top, bottom, left, right = (float(v) for v in (rows[0], rows[-1], columns[0], columns[-1]))
    side = wider * (max(bottom - top, right - left) + 1)
    return torch.tensor([(left + right) / 2, (top + bottom) / 2, side], device=mask.device)


def crop_square(frames: Tensor, squares: Tensor, side: int) -> Tensor:
    """Cut one square from each frame and bring it to one size; what lies outside repeats the border.

    A square larger than ``side`` is read at several points a pixel, whose mean is taken.

    Args:
        frames: ``b 3 H W``.
        squares: ``b 3``, as :func:`around` gives them.
        side: of the crops, in pixels.

    Returns:
        ``b 3 side side``, differentiable with respect to the frames.
    """
    points = max(1, round(float(squares[:, 2].max()) / side))
    place = (torch.arange(side * points, device=frames.device) + 0.5) / (side * points) - 0.5
    x = squares[:, 0, None] + place * squares[:, 2, None]
    y = squares[:, 1, None] + place * squares[:, 2, None]
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.avg_pool2d(_read(frames, grid, "border"), points)


def similarity(points: Tensor, target: Tensor) -> Tensor:
    """The turn, scale and shift that bring points nearest to a target, by least squares (Umeyama 1991), unmirrored.

    Args:
        points: ``b n 2``, not all equal.
        target: ``n 2``.

    Returns:
        ``b 2 3``: multiplied with ``(x, y, 1)`` of a point it gives the place on the target.
    """
    middle, goal = points.mean(1, keepdim=True), target.mean(0)
    p, q = points - middle, (target - goal).expand_as(points)
    # In the plane the best turn and scale are one complex number: sum(conj(p) q) / sum(|p|^2).
    power = p.square().sum((1, 2))
    a = (p * q).sum((1, 2)) / power
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / power
    turn = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], dim=1)
    shift = goal - (turn @ middle.transpose(1, 2))[..., 0]
    return torch.cat([turn, shift[..., None]], dim=2)


def align(frames: Tensor, matrices: Tensor, side: int) -> Tensor:
    """Frames moved by similarity transforms, as ``cv2.warpAffine`` does it with a black border, but differentiable.

    Args:
        frames: ``b 3 H W`` in [0, 1], black at 0.
        matrices: ``b 2 3`` from a place on the frame to one on the crop (:func:`similarity`).
        side: of the crops, in pixels.

    Returns:
        ``b 3 side side``, differentiable with respect to the frames.
    """
    turn, shift = matrices[:, :, :2], matrices[:, :, 2]
    steps = torch.arange(side, device=frames.device, dtype=frames.dtype)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([x, y], dim=-1).flatten(0, 1) - shift[:, None]
    grid = (places @ torch.linalg.inv(turn).transpose(1, 2)).unflatten(1, (side, side))
    return _read(frames, grid, "zeros")


def _read(frames: Tensor, places: Tensor, outside: str) -> Tensor:
    """Bilinear reading at places ``b h w 2`` in pixels."""
    height, width = frames.shape[-2:]
    size = torch.tensor([width - 1, height - 1], device=frames.device, dtype=frames.dtype).clamp_min(1)
    grid = places.to(frames) * 2 / size - 1
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode=outside, align_corners=True)
