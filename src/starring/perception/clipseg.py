"""CLIPSeg (arXiv 2112.10003): a map of what a sentence names, without telling its instances apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from starring.perception.loading import load, saved_settings, short
from starring.perception.segment import SPECKS, Instance, Segmenter, asked, pieces, tidy, weightiest_first
from starring.perception.transforms import Transform, as_tensor, squash_transform

THRESHOLDS: Mapping[str, float] = {"clipseg": 0.3}
"""Probability above which a pixel belongs, where a network's calibration asks for another value than 0.5."""


LEAST = 16
"""A piece of so many pixels is an instance, however small beside the largest; one of fewer may be a crumb."""


class CLIPSeg(Segmenter):
    """One probability for each pixel.

    The mask is all of what lies above the threshold, since one subject may fall into several pieces. Of a mask, small
    pieces (less than ``specks`` of the largest) are dropped, since a threshold on a smooth map leaves crumbs, and holes
    as small are filled. The instances are the pieces, and of these also small ones that have :data:`LEAST` pixels: a
    face far away is one too.
    """

    network: CLIPSegForImageSegmentation

    def __init__(
        self,
        model: CLIPSegForImageSegmentation,
        tokenizer: CLIPTokenizer,
        transform: Transform,
        *,
        name: str = "segmenter",
        threshold: float = 0.5,
        specks: float = SPECKS,
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
        super().__init__({"network": model})
        self.tokenizer = tokenizer
        self.transform = transform
        self.name = name
        self.threshold = threshold
        self.specks = specks
        self.batch = batch

    @property
    def id(self) -> str:
        """Network, fingerprint of its weights, transform and threshold; see :attr:`Segmenter.id`."""
        network = f"{self.name}@{self.weights_of('network')}, {self.transform.id}"
        return f"clipseg({network}, threshold {self.threshold:g}, specks {self.specks:g})"

    def segment(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
        """All that ``text`` names; see :meth:`Segmenter.segment`."""
        return [self._mask(score).float() for score in self.scores(images, text)]

    def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
        """The pieces above the threshold, each with its mean probability; see :meth:`Segmenter.instances`.

        Their own order is from the top, but small ones (less than ``specks`` of the largest) come after the others.
        """
        return [
            weightiest_first([Instance(mask=piece, score=float(score[piece].mean())) for piece in self._pieces(score)])
            for score in self.scores(images, text)
        ]

    def scores(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
        """Probability per pixel that it belongs to what ``text`` names: ``H W`` in [0, 1] per image.

        Raises:
            StarringError: if the text is empty.
        """
        text = asked(text)
        if not images:
            return []
        with torch.no_grad():
            prepared = torch.cat([self.transform(as_tensor(image).to(self.device)) for image in images])
            condition = self._condition(text)
            maps = torch.cat([self._maps(part, condition) for part in prepared.split(self.batch)])
            return [_enlarged(one, image.size) for one, image in zip(maps, images, strict=True)]

    def _mask(self, score: Tensor) -> Tensor:
        return tidy(score > self.threshold, self.specks)

    def _pieces(self, score: Tensor) -> list[Tensor]:
        """What lies above the threshold, piece by piece, without crumbs and holes."""
        found = pieces(score > self.threshold)
        if not found:
            return []
        floor = self.specks * max(int(piece.sum()) for piece in found)
        found = [piece for piece in found if int(piece.sum()) >= min(floor, LEAST)]
        found.sort(key=lambda piece: int(piece.sum()) < floor)
        taken = torch.stack(found).any(0)  # what closes a hole must not swallow another piece
        return [piece | (tidy(piece, self.specks) & ~taken) for piece in found]

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


def load_clipseg(
    name: str, source: str, *, device: torch.device | str | None, threshold: float | None, batch: int
) -> CLIPSeg:
    """A CLIPSeg and its tokenizer from a folder or hub id; see :func:`~starring.perception.segment.load_segmenter`.

    Raises:
        StarringError: if it cannot be loaded.
    """
    transform = squash_transform(saved_settings(source))
    tokenizer = load("segmenter's tokenizer", CLIPTokenizer, source)
    model = load("segmenter", CLIPSegForImageSegmentation, source, dtype=torch.float32)
    chosen = THRESHOLDS.get(name, 0.5) if threshold is None else threshold
    eye = CLIPSeg(model, tokenizer, transform, name=short(name, source), threshold=chosen, batch=batch)
    return eye if device is None else eye.to(device)


def _enlarged(one: Tensor, size: tuple[int, int]) -> Tensor:
    width, height = size
    return interpolate(one[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0].cpu()
