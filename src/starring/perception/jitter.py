"""Colours, sides and places changed at random, differentiably: what an identity should survive."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601)."""
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def jitter(
    pixels: Tensor,
    generator: torch.Generator | None = None,
    *,
    colour: float = 0.2,
    hue: float = 0.05,
    flip: bool = True,
    noise: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
) -> Tensor:
    """Brightness, contrast, saturation and hue of each picture changed a little, half of them mirrored, noise added.

    Before that each is moved and enlarged or reduced a little, where that is asked for.

    Args:
        pixels: ``b 3 H W`` in [0, 1].
        generator: a CPU generator gives the same changes on every device.
        colour: brightness, contrast and saturation are multiplied by a factor in ``[1 - colour, 1 + colour]``.
        hue: largest turn of the hue, as a share of the circle.
        flip: mirror half of the pictures.
        noise: most noise, as a standard deviation; each picture gets its own share of it.
        shift: how far it is moved at most, each way, as a share of its side.
        zoom: it is enlarged by a factor in ``[1 - zoom, 1 + zoom]``; its rim is drawn out where it becomes smaller.

    Returns:
        ``b 3 H W`` in [0, 1] before the noise, differentiable with respect to the pixels.
    """
    if shift or zoom:
        pixels = _placed(pixels, 2 * torch.rand(len(pixels), 3, generator=generator) - 1, shift, zoom)
    draws = torch.rand(len(pixels), 5, generator=generator).to(pixels.device)
    factor = (1 + colour * (2 * draws[:, :3] - 1)).to(pixels)[:, :, None, None, None]
    bright = pixels * factor[:, 0]
    grey = _grey(bright)
    middle = grey.mean((2, 3), keepdim=True)
    contrasted = middle + factor[:, 1] * (bright - middle)
    grey = _grey(contrasted)
    coloured = grey + factor[:, 2] * (contrasted - grey)
    turned = _turned(coloured, hue * (2 * draws[:, 3] - 1))
    mirrored = (draws[:, 4] < 0.5) & flip
    changed = torch.where(mirrored[:, None, None, None], turned.flip(-1), turned).clamp(0, 1)
    if not noise:
        return changed
    strength = noise * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return changed + (strength * torch.randn(pixels.shape, generator=generator)).to(pixels)


def _placed(pixels: Tensor, draws: Tensor, shift: float, zoom: float) -> Tensor:
    # affine_grid says where each pixel of the result comes from, on a side of length 2.
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / (1 + zoom * draws[:, 2])
    theta[:, :, 2] = 2 * shift * draws[:, :2]
    grid = F.affine_grid(theta.to(pixels), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _grey(pixels: Tensor) -> Tensor:
    weight = torch.tensor(LUMA, device=pixels.device, dtype=pixels.dtype)[None, :, None, None]
    return (pixels * weight).sum(1, keepdim=True)


def _turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """The hue turned by shares of the circle, ``b``, from red to green: the chroma axes of YIQ turned the other way."""
    to = torch.tensor(_YIQ, dtype=torch.float64)
    angle = -2 * math.pi * turns.double().cpu()
    turn = torch.zeros(len(turns), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrix = (torch.linalg.inv(to) @ turn @ to).to(pixels)
    return torch.einsum("bij,bjhw->bihw", matrix, pixels)
