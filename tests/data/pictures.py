"""Photographs made on the spot, and small honest eyes that need no weights."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor


def photo(seed: int, size: tuple[int, int] = (96, 96), subject: bool = True, red: int = 230) -> Image.Image:
    """A busy grey background, and a red disc somewhere on it."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, (90, 90, 90))
    pen = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, grey = rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(40, 220)
        pen.rectangle((x, y, x + rng.randrange(4, 20), y + rng.randrange(4, 20)), fill=(grey, grey, grey))
    if subject:
        reach = min(size) // 4
        x, y = (rng.randrange(reach, extent - reach) for extent in size)
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(red, 20, 20))
    return image


def album(folder: Path, count: int = 4, size: tuple[int, int] = (96, 96)) -> Path:
    """A folder of photographs ``1.png`` and on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, count + 1):
        photo(i, size).save(folder / f"{i}.png")
    return folder


def blurred(image: Image.Image, radius: float = 4) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


class RedFinder:
    """A segmenter that knows one thing: what is red. It counts how many pictures it looked at."""

    id = "red-finder/1"

    def __init__(self) -> None:
        self.looked = 0

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        self.looked += len(images)
        pixels = [torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32)) for image in images]
        return [((p[..., 0] > 150) & (p[..., 1] < 80)).float() for p in pixels]


class ColourEye:
    """Pictures as their mean colour beyond grey, on the unit sphere."""

    def images(self, pixels: Tensor) -> Tensor:
        colour = pixels.mean((2, 3))
        return torch.nn.functional.normalize(colour - colour.mean(1, keepdim=True) + 1e-4, dim=1)
