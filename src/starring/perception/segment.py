"""Cutting out what a word names: one contract for text-prompted segmenters, and where they come from.

A photograph may hold several dogs. A segmenter tells them apart (:meth:`Segmenter.instances`) and gives the one that
matters (:meth:`Segmenter.segment`): the largest and most certain one, by the product of score and area, where the
released code of VCD (arXiv 2402.09368) takes whichever comes first.
"""

from __future__ import annotations

import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError, unknown
from starring.perception.loading import Frozen, bundled, locate, saved_settings

T = TypeVar("T")
SEGMENTERS: Mapping[str, str] = {
    "miniature": bundled("segmenter"),
    "clipseg": "CIDAS/clipseg-rd64-refined",
    "grounded-sam": "IDEA-Research/grounding-dino-base+facebook/sam-vit-huge",
    "sam3": "facebook/sam3",
}
"""Names of text-prompted segmenters; a detector and the SAM that cuts out its boxes are joined by ``+``. The pair is
VCD's (section 4.2; Swin-B and ViT-H as in the LangSAM that its code calls)."""
AUTO = ("sam3", "grounded-sam", "clipseg")
"""What ``auto`` tries, the best first."""
SPECKS = 0.05
"""Pieces and holes smaller than this share of a mask's largest piece are a network's crumbs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instance:
    """One thing that was found in a picture."""

    mask: Tensor
    """Where it is: boolean ``H W`` at the picture's own size, on the CPU."""
    score: float
    """How certain the network is that this is what was asked for, in [0, 1]."""
    place: int = 0
    """Which of its picture's findings it was, in the network's own order, from 0; of a mask's pieces from the top."""

    @property
    def weight(self) -> float:
        """Score times share of the picture: what decides which instance is the subject."""
        return self.score * coverage(self.mask)


class Segmenter(Frozen, ABC):
    """Finds in pictures what a word names; called without gradient."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Networks, fingerprints of their weights, and every threshold: masks of another id are cut again."""

    @abstractmethod
    def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
        """Everything in each picture that ``text`` names, the weightiest (:attr:`Instance.weight`) first.

        Args:
            images: PIL images, any sizes and modes.
            text: what to find, such as ``"dog"``.

        Raises:
            StarringError: if the text is empty.
        """

    def segment(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
        """The largest and most certain instance of what ``text`` names in each picture.

        Args:
            images: PIL images, any sizes and modes.
            text: what to find, such as ``"dog"``.

        Returns:
            One float mask ``H W`` in {0, 1} per image, at the image's own size; all zero where nothing was found.

        Raises:
            StarringError: if the text is empty.
        """
        masks = [torch.zeros(image.height, image.width) for image in images]
        for mask, found in zip(masks, self.instances(images, text), strict=True):
            if found:
                mask.copy_(found[0].mask)
        return masks


def suited(backbone: str) -> str:
    """The name of the segmenter that suits a backbone by its name: that of its own world, or the best there is."""
    if backbone in SEGMENTERS:
        return backbone
    return "miniature" if backbone.startswith("miniature") else "auto"


def suiting(given: T | str | None, backbone: str, device: torch.device | str | None = None) -> T | Segmenter:
    """A segmenter as people give it: itself, the one of a name, or, if none is given, the one that suits a backbone.

    Raises:
        StarringError: as :func:`load_segmenter`.
    """
    if given is None or isinstance(given, str):
        return load_segmenter(given or suited(backbone), device=device)
    return given


def asked(text: str) -> str:
    """``text`` without stray white space.

    Raises:
        StarringError: if nothing is left.
    """
    text = " ".join(text.split())
    if not text:
        raise StarringError("What should be cut out? Give a word for the subject, such as --class-word dog.")
    return text


def weightiest_first(found: Sequence[Instance]) -> list[Instance]:
    """Instances, given in the network's own order, by falling :attr:`Instance.weight`; without those of no pixel."""
    placed = [replace(each, place=place) for place, each in enumerate(found)]
    return sorted((each for each in placed if each.weight > 0), key=lambda each: -each.weight)


class First(Segmenter):
    """Another segmenter, of whose findings the first one is the subject, as in VCD's released code."""

    inner: Segmenter
    """The other."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__({"inner": segmenter})

    @property
    def id(self) -> str:
        """The other segmenter's, and how it chooses; see :attr:`Segmenter.id`."""
        return f"first of {self.inner.id}"

    def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
        """What the other finds, in its own order; see :meth:`Segmenter.instances`."""
        return [sorted(found, key=lambda each: each.place) for found in self.inner.instances(images, text)]


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


def pieces(mask: Tensor) -> list[Tensor]:
    """The connected pieces (8-neighbourhood) of a boolean mask ``H W``, each a mask of its own."""
    labels, areas = _areas(mask.cpu().numpy().astype(np.uint8))
    return [torch.from_numpy(labels == label) for label in range(1, len(areas) + 1)]


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
    """A segmenter by preset name, hub id or folder.

    Args:
        name: a name in :data:`SEGMENTERS`; a hub id or folder of a CLIPSeg or SAM 3; a Grounding DINO and a SAM, each a
            hub id or folder, joined by ``+``; or ``auto``, the best of :data:`AUTO` that can be had. What stood in
            the way of a better one is told by a warning.
        device: where to put it; the CPU by default.
        threshold: probability above which something is what was asked for; ``None`` takes the network's usual one.
        batch: most images per forward pass.

    Raises:
        StarringError: if there is no such model, it cannot be loaded, or it needs an extra that is not installed.
    """
    if name == "auto":
        return _best(device, batch)
    if name == "sam3":
        require_torchvision("SAM 3")  # before gigabytes are downloaded
    detector, plus, sam = name.partition("+") if name not in SEGMENTERS else SEGMENTERS[name].partition("+")
    if plus:
        from starring.perception.grounded import load_grounded

        places = locate("detector", detector, {}), locate("segmenter", sam, {})
        return load_grounded(*places, device=device, threshold=threshold)
    source = locate("segmenter", name, SEGMENTERS)
    kind = str(saved_settings(source, "config.json").get("model_type", ""))
    if kind == "sam3":
        from starring.perception.concepts import load_concepts

        return load_concepts(name, source, device=device, threshold=threshold)
    if kind == "clipseg":
        from starring.perception.clipseg import load_clipseg

        return load_clipseg(name, source, device=device, threshold=threshold, batch=batch)
    if kind == "grounding-dino":
        raise StarringError(
            f"'{name}' finds boxes only. Join it with a network that cuts them out: --segmenter"
            f" {name}+facebook/sam-vit-huge"
        )
    raise unknown("text-prompted segmenter of the kind", kind or "unnamed", ["clipseg", "sam3", "grounding-dino+sam"])


def _best(device: torch.device | str | None, batch: int) -> Segmenter:
    """The first of :data:`AUTO` that loads; why not a better one is told."""
    reasons: list[str] = []
    for name in AUTO:
        try:
            found = load_segmenter(name, device=device, batch=batch)
        except StarringError as error:
            reasons.append(f"{name}: {error}")
            continue
        if reasons:
            warnings.warn(f"Masks are cut by {name}, since better ones failed. {' '.join(reasons)}", stacklevel=3)
        return found
    raise StarringError(f"No segmenter can be had. {' '.join(reasons)} Name one by --segmenter, or do without masks.")


def require_torchvision(what: str) -> None:
    """Refuse what cannot work without torchvision.

    Raises:
        StarringError: if it is not installed, with the extra that brings it.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise StarringError(f"{what} needs torchvision, which is not installed: pip install 'starring[sam3]'.")


def _areas(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[np.ndarray[Any, np.dtype[np.int32]], list[int]]:
    """Connected pieces (8-neighbourhood): labels ``H W`` from 1, and their areas."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    return cast("Any", labels), [int(area) for area in stats[1:, cv2.CC_STAT_AREA]]
