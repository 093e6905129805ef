"""VCD's zoom, rotation and mirroring of photographs, with the words that say so in the caption.

The paper (arXiv 2402.09368, §4.2) names the augmentation; its numbers are those of the released code's
``masked_dataset.py``, given there for 512 pixels and taken here as shares of the training size. One deviation: the
square cut out first is moved, where the centred one would cut the subject, as far as needed to hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from starring.config import Data

FAR = ("a far away ", "very small ")
"""Prefixes of captions of photographs that were made small."""
NEAR = ("zoomed in ", "close up ")
"""Prefixes of captions of photographs that were cut narrower."""
SHRINK = (170 / 512, 1.0)
"""Two thirds of the draws reduce the photograph to a share of the frame in this range."""
GROW = (614 / 512, 716 / 512)
"""One third of the draws enlarge it by a factor in this range."""
SMALL = 307 / 512
"""Below this share the reduced photograph is pasted on a grey canvas, from here on it fills the frame as it is."""
DEGREES = 10.0
"""Standard deviation of the rotation."""
GREY = (128, 128, 128)
"""Zero in [-1, 1], what lies outside a photograph."""
TRIES = 8
"""So many draws may miss the subject before the photograph is taken as it is."""

Layers = tuple[Image.Image, Image.Image, Image.Image]
"""A photograph, the subject's mask, and where the photograph itself is (white), changed together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crop:
    """One training picture."""

    pixels: Tensor
    """``3 s s`` in [-1, 1]."""
    mask: Tensor
    """``1 s s`` in {0, 1}; where there is no mask, the same as ``extent``."""
    extent: Tensor
    """``1 s s`` in {0, 1}: where the photograph is, and not the grey around a small one or in a turned one's corners.
    """
    caption: str
    """With ``<*>``, and with a prefix after a zoom."""


def seeded(*parts: str | int) -> torch.Generator:
    """A CPU generator whose seed depends on all of ``parts`` and on nothing else, so draws need no order."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    # 63 bits, since manual_seed takes a signed 64-bit number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def square(image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The largest square: the centred one, or the nearest to it that holds the subject (its middle, if too large)."""
    side = min(image.size)
    box = mask.getbbox() or (0, 0, *image.size)
    left = _place(image.width, side, box[0], box[2])
    top = _place(image.height, side, box[1], box[3])
    area = (left, top, left + side, top + side)
    return image.crop(area), mask.crop(area)


def _place(length: int, side: int, low: int, high: int) -> int:
    start = (length - side) // 2
    if high - low > side:
        return max(0, min(length - side, (low + high - side) // 2))
    return max(0, min(length - side, max(high - side, min(start, low))))


def take(
    image: Image.Image, mask: Tensor | None, caption: str, data: Data, size: int, generator: torch.Generator
) -> Crop:
    """Draw one training picture.

    Args:
        image: an RGB photograph.
        mask: ``h w`` in {0, 1} in the photograph's size, or ``None``.
        caption: with ``<*>``.
        data: which changes are allowed.
        size: side of the result in pixels.
        generator: where every random choice comes from.

    Returns:
        A crop in which, if the mask has any subject, some of it is visible.
    """
    picture, area = square(image, _image(mask, image.size))
    whole = picture, area, Image.new("L", picture.size, 255)
    for _ in range(TRIES if data.augment else 0):
        prefix, layers = _zoom(_turn(_mirror(whole, data, generator), data, generator), size, generator)
        if _mask(layers[1], 127).any():
            return _crop(layers, prefix + caption)
    return _crop(_fill(_mirror(whole, data, generator), size), caption)


def _crop(layers: Layers, caption: str) -> Crop:
    picture, area, extent = layers
    seen = _mask(area, 127)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return Crop(pixels=pixels, mask=seen if seen.any() else _mask(area, 0), extent=_mask(extent, 127), caption=caption)


def _mirror(layers: Layers, data: Data, generator: torch.Generator) -> Layers:
    if not data.flip or _uniform(generator) <= 0.5:
        return layers
    return _each(lambda layer: layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT), layers)


def _turn(layers: Layers, data: Data, generator: torch.Generator) -> Layers:
    if _uniform(generator) >= data.rotate:
        return layers
    angle = DEGREES * float(torch.randn((), generator=generator))
    picture, *areas = layers
    mask, extent = (area.rotate(angle, Image.Resampling.NEAREST) for area in areas)
    return picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=GREY), mask, extent


def _zoom(layers: Layers, size: int, generator: torch.Generator) -> tuple[str, Layers]:
    low, high = SHRINK if _uniform(generator) < 2 / 3 else GROW
    side = _even(size * (low + (high - low) * _uniform(generator)))
    prefix = _uniform(generator)
    if side > size:
        left, top = _below(side - size + 1, generator), _below(side - size + 1, generator)
        window = (left, top, left + size, top + size)
        return NEAR[prefix < 0.5], _each(lambda layer: layer.crop(window), _fill(layers, side))
    if side < size * SMALL:
        place = (_below(size - side + 1, generator), _below(size - side + 1, generator))
        return FAR[prefix < 0.5], _each(lambda layer: _pasted(layer, size, place), _fill(layers, side))
    return "", _fill(layers, size)


def _pasted(layer: Image.Image, size: int, place: tuple[int, int]) -> Image.Image:
    canvas = Image.new(layer.mode, (size, size), GREY if layer.mode == "RGB" else 0)
    canvas.paste(layer, place)
    return canvas


def _fill(layers: Layers, side: int) -> Layers:
    picture, *areas = layers
    mask, extent = (area.resize((side, side), Image.Resampling.BOX) for area in areas)
    return picture.resize((side, side), Image.Resampling.LANCZOS), mask, extent


def _each(change: Callable[[Image.Image], Image.Image], layers: Layers) -> Layers:
    picture, mask, extent = layers
    return change(picture), change(mask), change(extent)


def _even(value: float) -> int:
    return max(2, int(value) // 2 * 2)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _image(mask: Tensor | None, size: tuple[int, int]) -> Image.Image:
    if mask is None:
        return Image.new("L", size, 255)
    return Image.fromarray((mask.cpu() > 0.5).to(torch.uint8).mul(255).numpy())


def _mask(area: Image.Image, above: int) -> Tensor:
    return (torch.from_numpy(np.array(area, dtype=np.float32))[None] > above).float()
