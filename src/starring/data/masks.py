"""Cutting the subject out of its photographs by a text (VCD, arXiv 2402.09368, §4.2: prompt-to-segmentation)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from starring.data.files import write_image, write_json
from starring.data.subject import Complaint, Subject
from starring.errors import StarringError, unknown

SMALLEST = 0.005
"""A mask that covers less than this share of its photograph counts as nothing found."""
INDEX = "masks.json"
MISSING = ("skip", "unmasked")
"""What can be done with a photograph in which no subject was found."""


class Segmenter(Protocol):
    """Whatever can find something by its name in pictures."""

    @property
    def id(self) -> str:
        """Which model and which weights; cached masks of another one are cut again."""
        ...

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        """One mask ``h w`` in {0, 1} for each picture, in the picture's own size."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmenterRecord:
    """Who cuts the subject out, as far as it must be the same again."""

    name: str | None
    """As it was named, files and folders by their absolute paths; empty for the backbone's own, ``None`` for an object.
    """
    id: str | None
    """With weights and thresholds; ``None`` where no masks had to be cut."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Masks:
    """One mask for each photograph of a subject."""

    masks: list[Tensor]
    """``h w`` floats in {0, 1}, each in its photograph's size."""
    text: str
    """What was looked for."""
    segmenter: str
    """Who looked."""

    @property
    def coverage(self) -> list[float]:
        """The share of each photograph that its mask covers."""
        return [float(mask.mean()) for mask in self.masks]

    @property
    def found(self) -> list[bool]:
        """Whether something worth the name was found, by photograph."""
        return [share >= SMALLEST for share in self.coverage]


def cut_masks(
    subject: Subject,
    segmenter: Segmenter,
    text: str,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Masks:
    """Look for ``text`` in every photograph.

    Args:
        subject: the photographs.
        segmenter: who looks.
        text: what to look for, usually the class word.
        folder: where masks are cached as PNG (in the run, never beside the photographs); masks of the same photograph,
            text and segmenter are read from there.
        on_progress: called with (photographs done, photographs in all).

    Raises:
        StarringError: if the text is empty, or if the segmenter returns masks of another size.
    """
    if not text.strip():
        raise StarringError(
            "Cutting masks needs to know what to look for. Give the subject's class word, such as 'dog'."
        )
    known = _index(folder, text, segmenter.id) if folder is not None else {}
    masks: list[Tensor] = []
    for done, (image, path, digest) in enumerate(
        zip(subject.images, subject.paths, subject.digests, strict=True), start=1
    ):
        mask = _cached(folder, known.get(digest), image)
        if mask is None:
            mask = _cut(segmenter, image, text, path)
            if folder is not None:
                known[digest] = _store(folder, path, digest, mask)
                write_json(folder / INDEX, {"text": text, "segmenter": segmenter.id, "masks": known})
        masks.append(mask)
        if on_progress is not None:
            on_progress(done, len(subject))
    return Masks(masks=masks, text=text, segmenter=segmenter.id)


def load_masks(subject: Subject, text: str, folder: Path) -> Masks | None:
    """The cached masks, if there is one for every photograph; no segmenter is needed for that."""
    if not (folder / INDEX).is_file():
        return None
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    known = index["masks"] if index.get("text") == text else {}
    masks = [
        _cached(folder, known.get(digest), image) for image, digest in zip(subject.images, subject.digests, strict=True)
    ]
    whole = [mask for mask in masks if mask is not None]
    return Masks(masks=whole, text=text, segmenter=index["segmenter"]) if len(whole) == len(masks) else None


def settle(
    subject: Subject, masks: Masks, missing: str = "skip"
) -> tuple[Subject, list[Tensor | None], list[Complaint]]:
    """Decide about photographs in which nothing was found, and tell.

    Args:
        subject: the photographs.
        masks: what was found in them.
        missing: ``skip`` leaves such a photograph out (as the paper's code does), ``unmasked`` trains on all of it.
            Where nothing was found in any photograph, all are used unmasked.

    Returns:
        The subject to train on, its masks (``None`` means the whole picture), and what a person has to be told.

    Raises:
        StarringError: if ``missing`` is neither.
    """
    if missing not in MISSING:
        raise unknown("way to treat photographs without a mask", missing, MISSING)
    found = masks.found
    if not any(found):
        told = Complaint(
            path=subject.folder or Path(subject.name),
            kind="unmasked",
            message=f"no '{masks.text}' was found in any photograph by {masks.segmenter}, so training goes on"
            " WITHOUT masks and learns the background as well.",
            advice="Check the class word, or use a segmenter that knows such pictures.",
        )
        return subject, [None] * len(subject), [told]
    fate = "left out" if missing == "skip" else "used without a mask, background included"
    told = [
        Complaint(
            path=path,
            kind="no-subject",
            message=f"no '{masks.text}' was found in it, so it is {fate}.",
            advice="Replace it by a photograph that shows the subject larger and clearer.",
        )
        for path, seen in zip(subject.paths, found, strict=True)
        if not seen
    ]
    keep = [i for i, seen in enumerate(found) if seen or missing == "unmasked"]
    return subject.choose(keep), [masks.masks[i] if found[i] else None for i in keep], told


def mask_image(mask: Tensor) -> Image.Image:
    """A mask ``h w`` in [0, 1] as a black and white picture."""
    return Image.fromarray((mask.detach().cpu() > 0.5).to(torch.uint8).mul(255).numpy())


def overlay(image: Image.Image, mask: Tensor | None) -> Image.Image:
    """The photograph with everything outside the mask faded, so that one sees what will be learned."""
    if mask is None:
        return image
    faded = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.6)
    return Image.composite(image, faded, mask_image(mask))


def _cut(segmenter: Segmenter, image: Image.Image, text: str, path: Path) -> Tensor:
    (mask,) = segmenter.segment([image], text)
    if tuple(mask.shape) != (image.height, image.width):
        raise StarringError(
            f"The segmenter {segmenter.id} returned a mask of {tuple(mask.shape)} for {path.name}, which is"
            f" {image.height} x {image.width}. Masks must have the picture's size."
        )
    return (mask.detach().float().cpu() > 0.5).float()


def _store(folder: Path, path: Path, digest: str, mask: Tensor) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    # Photographs of equal stem, dog.jpg and dog.png, must not share a mask.
    name = f"{path.stem}-{digest[:8]}.png"
    write_image(folder / name, mask_image(mask))
    return {"file": name, "photograph": path.name, "coverage": round(float(mask.mean()), 4)}


def _cached(folder: Path | None, entry: dict[str, Any] | None, image: Image.Image) -> Tensor | None:
    if folder is None or entry is None or not (folder / entry["file"]).is_file():
        return None
    with Image.open(folder / entry["file"]) as stored:
        if stored.size != image.size:
            return None
        values = np.asarray(stored.convert("L"), dtype=np.float32)
    return (torch.from_numpy(values.copy()) > 127).float()


def _index(folder: Path, text: str, segmenter: str) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    index = json.loads(path.read_text(encoding="utf-8"))
    return dict(index["masks"]) if (index.get("text"), index.get("segmenter")) == (text, segmenter) else {}


def overview(images: Sequence[Image.Image], masks: Sequence[Tensor | None]) -> list[Image.Image]:
    """:func:`overlay` of every photograph."""
    return [overlay(image, mask) for image, mask in zip(images, masks, strict=True)]
