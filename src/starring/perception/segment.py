"""Cutting out what a word names: CLIPSeg (arXiv 2112.10003) behind one small class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from starring.errors import StarringError
from starring.perception.loading import bundled, fingerprint, load, locate, saved_settings, short
from starring.perception.transforms import Transform, as_tensor, squash_transform

SEGMENTERS: Mapping[str, str] = {
    "miniature": bundled("segmenter"),
    "clipseg": "CIDAS/clipseg-rd64-refined",
}
"""Names of text-prompted segmenters."""
THRESHOLDS: Mapping[str, float] = {"clipseg": 0.3}
"""Probability above which a pixel belongs, where a network's calibration asks for another value than 0.5."""


class Segmenter(nn.Module):
    """A text-prompted segmenter.

    ``segment(images, "dog")`` returns one mask per image. Small pieces (less than ``specks`` of the largest piece) are
    dropped, since a threshold on a smooth map leaves crumbs, and holes as small are filled.
    """

    def __init__(
        self,
        model: CLIPSegForImageSegmentation,
        tokenizer: CLIPTokenizer,
        transform: Transform,
        *,
        name: str = "segmenter",
        threshold: float = 0.5,
        specks: float = 0.05,
        batch: int = 16,
    ) -> None:
        """Keep what was given.

        Args:
            model: the network.
            tokenizer: the tokenizer it was trained with.
            transform: how images are prepared.
            name: where the network came from, part of :attr:`id`.
            threshold: probability above which a pixel belongs to the subject.
            specks: pieces and holes smaller than this share of the largest piece are removed; 0 keeps all.
            batch: most images per forward pass.
        """
        super().__init__()
        self.network = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.transform = transform
        self.name = name
        self.threshold = threshold
        self.specks = specks
        self.batch = batch
        self._fingerprint: str | None = None

    @property
    def id(self) -> str:
        """Network, fingerprint of its weights, transform and threshold: masks of another id are cut again."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.network)
        network = f"{self.name}@{self._fingerprint}, {self.transform.id}"
        return f"clipseg({network}, threshold {self.threshold:g}, specks {self.specks:g})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def segment(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
        """Masks of what ``text`` names.

        Args:
            images: PIL images, any sizes and modes.
            text: what to find, such as ``"dog"``.

        Returns:
            One float mask ``H W`` in {0, 1} per image, at the image's own size; all zero where nothing was found.
        """
        return [tidy(score > self.threshold, self.specks).float() for score in self.scores(images, text)]

    def scores(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
        """Probability per pixel that it belongs to what ``text`` names: ``H W`` in [0, 1] per image.

        Raises:
            StarringError: if the text is empty.
        """
        if not text.strip():
            raise StarringError("What should be cut out? Give a word for the subject, such as --class-word dog.")
        if not images:
            return []
        with torch.no_grad():
            prepared = torch.cat([self.transform(as_tensor(image).to(self.device)) for image in images])
            condition = self._condition(text)
            maps = torch.cat([self._maps(part, condition) for part in prepared.split(self.batch)])
            return [_enlarged(one, image.size) for one, image in zip(maps, images, strict=True)]

    def _condition(self, text: str) -> Tensor:
        """The text's vector ``1 d``, computed once for all images."""
        network = cast("Any", self.network)
        context = int(network.config.text_config.max_position_embeddings)
        tokens = cast("Any", self.tokenizer)([text], truncation=True, max_length=context, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        return network.get_conditional_embeddings(batch_size=1, input_ids=ids, attention_mask=mask)

    def _maps(self, prepared: Tensor, condition: Tensor) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        vectors = condition.expand(len(prepared), -1)
        logits = cast("Any", self.network)(pixel_values=prepared.to(dtype), conditional_embeddings=vectors).logits
        return logits.reshape(len(prepared), *logits.shape[-2:]).float().sigmoid()


def tidy(mask: Tensor, specks: float) -> Tensor:
    """Drop pieces and fill holes smaller than ``specks`` of the largest piece.

    Args:
        mask: boolean ``H W``.
        specks: share of the largest piece's area, in [0, 1].

    Returns:
        Boolean ``H W``.
    """
    if specks <= 0 or not bool(mask.any()):
        return mask
    pixels = mask.cpu().numpy().astype(np.uint8)
    largest = max(_areas(pixels)[1])
    for value in (1, 0):  # first the crumbs, then the holes
        labels, areas = _areas(pixels if value else 1 - pixels)
        small = [label for label, area in enumerate(areas, start=1) if area < specks * largest]
        pixels[np.isin(labels, small)] = 1 - value
    return torch.from_numpy(pixels).bool().to(mask.device)


def coverage(mask: Tensor) -> float:
    """Share of the picture that a mask ``H W`` covers."""
    return float(mask.float().mean())


def load_segmenter(
    name: str = "miniature",
    *,
    device: torch.device | str | None = None,
    threshold: float | None = None,
    batch: int = 16,
) -> Segmenter:
    """A segmenter by preset name, hub id or folder (``CLIPSegForImageSegmentation`` and its tokenizer).

    Args:
        name: a name in :data:`SEGMENTERS`, a hub id, or a folder.
        device: where to put it; the CPU by default.
        threshold: probability above which a pixel belongs; ``None`` takes the preset's.
        batch: most images per forward pass.

    Raises:
        StarringError: if there is no such model or it cannot be loaded.
    """
    source = locate("segmenter", name, SEGMENTERS)
    transform = squash_transform(saved_settings(source))
    tokenizer = load("segmenter's tokenizer", CLIPTokenizer, source)
    model = load("segmenter", CLIPSegForImageSegmentation, source, dtype=torch.float32)
    placed = model if device is None else cast("Any", model).to(device)
    chosen = THRESHOLDS.get(name, 0.5) if threshold is None else threshold
    return Segmenter(placed, tokenizer, transform, name=short(name, source), threshold=chosen, batch=batch)


def _enlarged(one: Tensor, size: tuple[int, int]) -> Tensor:
    width, height = size
    return interpolate(one[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0].cpu()


def _areas(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[np.ndarray[Any, np.dtype[np.int32]], list[int]]:
    """Connected pieces (8-neighbourhood): labels ``H W`` from 1, and their areas."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    return cast("Any", labels), [int(area) for area in stats[1:, cv2.CC_STAT_AREA]]
