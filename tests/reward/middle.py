"""A segmenter that needs no picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor


class Middle:
    """Finds the subject in the middle of the n-th picture it is shown, if ``sees(n)``."""

    id = "middle"

    def __init__(self, sees: Callable[[int], bool] = lambda _: True) -> None:
        self.sees, self.shown = sees, 0

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        found: list[Tensor] = []
        for image in images:
            mask = torch.zeros(image.height, image.width)
            if self.sees(self.shown):
                mask[image.height // 4 : -image.height // 4, image.width // 4 : -image.width // 4] = 1
            found.append(mask)
            self.shown += 1
        return found
