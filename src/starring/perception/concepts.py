"""SAM 3, *Segment Anything with Concepts* (arXiv 2511.16719): every instance of what a noun phrase names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from starring.perception.loading import load, short
from starring.perception.segment import (
    SPECKS,
    Instance,
    Segmenter,
    asked,
    require_torchvision,
    tidy,
    weightiest_first,
)

PRESENT, PIXEL = 0.5, 0.5
"""Score above which an instance counts, and probability above which a pixel is part of it (the model card's)."""


class Concepts(Segmenter):
    """SAM 3 asked in words. The score of an instance includes the network's belief that there is one at all."""

    network: nn.Module

    def __init__(self, model: nn.Module, processor: Any, *, name: str = "sam3", threshold: float = PRESENT) -> None:
        """Keep what was given.

        Args:
            model: a ``Sam3Model``.
            processor: its ``Sam3Processor``.
            name: where the network came from, part of :attr:`id`.
            threshold: score above which an instance counts.
        """
        super().__init__({"network": model})
        self.processor = processor
        self.name = name
        self.threshold = threshold

    @property
    def id(self) -> str:
        """Network, fingerprint of its weights and threshold; see :attr:`Segmenter.id`."""
        return (
            f"sam3({self.name}@{self.weights_of('network')}, threshold {self.threshold:g}/{PIXEL:g}, largest x most"
            " certain)"
        )

    @torch.no_grad()
    def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
        """One instance for each query that answers; see :meth:`Segmenter.instances`."""
        text = asked(text)
        found: list[list[Instance]] = []
        for picture in (image.convert("RGB") for image in images):
            given = self.processor(images=picture, text=text, return_tensors="pt").to(self.device)
            pixels = given["pixel_values"].to(next(self.network.parameters()).dtype)
            answer = cast("Any", self.network)(
                pixel_values=pixels, input_ids=given["input_ids"], attention_mask=given["attention_mask"]
            )
            (told,) = self.processor.post_process_instance_segmentation(
                answer, threshold=self.threshold, mask_threshold=PIXEL, target_sizes=[(picture.height, picture.width)]
            )
            masks = [tidy(mask.bool().cpu(), SPECKS) for mask in told["masks"]]
            found.append(
                weightiest_first([
                    Instance(mask=m, score=s) for m, s in zip(masks, told["scores"].float().tolist(), strict=True)
                ])
            )  # fmt: skip
        return found


def load_concepts(name: str, source: str, *, device: torch.device | str | None, threshold: float | None) -> Concepts:
    """A SAM 3 from a folder or hub id; see :func:`~starring.perception.segment.load_segmenter`.

    Raises:
        StarringError: if torchvision is not installed, or it cannot be loaded.
    """
    require_torchvision("SAM 3")
    from transformers import Sam3Model, Sam3Processor

    model = load("segmenter", Sam3Model, source, dtype=torch.float32)
    processor = load("segmenter's processor", Sam3Processor, source)
    eye = Concepts(model, processor, name=short(name, source), threshold=PRESENT if threshold is None else threshold)
    return eye if device is None else eye.to(device)
