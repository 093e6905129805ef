"""Grounding DINO (arXiv 2303.05499) finds boxes by a word, SAM (arXiv 2304.02643) cuts them out: VCD's segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SamModel,
    SamProcessor,
)

from starring.perception.loading import load, short
from starring.perception.segment import SPECKS, Instance, Segmenter, asked, tidy, weightiest_first

BOX, TEXT = 0.3, 0.25
"""Scores above which a box and its words count (LangSAM's)."""
MOST = 16
"""Boxes of one picture that are cut out, the weightiest ones: masks have the photograph's size."""


class GroundedSAM(Segmenter):
    """A detector that is asked in words, and SAM on its boxes. The score of an instance is the detector's."""

    detector: GroundingDinoForObjectDetection
    sam: SamModel

    def __init__(
        self,
        detector: GroundingDinoForObjectDetection,
        reader: GroundingDinoProcessor,
        sam: SamModel,
        cutter: SamProcessor,
        *,
        name: str = "grounded-sam",
        threshold: float = BOX,
    ) -> None:
        """Keep what was given.

        Args:
            detector: the detector.
            reader: its processor, which prepares pictures and words.
            sam: the segmenter.
            cutter: its processor.
            name: where the networks came from, part of :attr:`id`.
            threshold: score above which a box counts.
        """
        super().__init__({"detector": detector, "sam": sam})
        self.reader = reader
        self.cutter = cutter
        self.name = name
        self.threshold = threshold

    @property
    def id(self) -> str:
        """Both networks and their fingerprints, and the thresholds; see :attr:`Segmenter.id`."""
        weights = f"{self.weights_of('detector')}+{self.weights_of('sam')}"
        return f"grounded-sam({self.name}@{weights}, threshold {self.threshold:g}/{TEXT:g}, largest x most certain)"

    @torch.no_grad()
    def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
        """One instance for each box, at most ``MOST``; see :meth:`Segmenter.instances`."""
        sentence = asked(text).lower().rstrip(". ") + "."  # the form of the captions that the detector was trained on
        found: list[list[Instance]] = []
        for picture in (image.convert("RGB") for image in images):
            boxes, scores = self.boxes(picture, sentence)
            masks = self._cut(picture, boxes)
            each = [Instance(mask=m, score=s) for m, s in zip(masks, scores.tolist(), strict=True)]
            found.append(weightiest_first(each))
        return found

    def boxes(self, picture: Image.Image, sentence: str) -> tuple[Tensor, Tensor]:
        """The weightiest boxes ``n 4`` (left, top, right, bottom in pixels, inside the picture) and scores ``n``."""
        given = cast("Any", self.reader)(images=picture, text=sentence, return_tensors="pt").to(self.device)
        given["pixel_values"] = given["pixel_values"].to(next(self.detector.parameters()).dtype)
        (found,) = self.reader.post_process_grounded_object_detection(
            cast("Any", self.detector)(**given), given["input_ids"], threshold=self.threshold, text_threshold=TEXT,
            target_sizes=[(picture.height, picture.width)],
        )  # fmt: skip
        edges = torch.tensor([picture.width, picture.height] * 2)
        boxes, scores = found["boxes"].float().cpu().clamp(min=0).minimum(edges), found["scores"].float().cpu()
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keep = (scores * areas).argsort(descending=True, stable=True)[:MOST]
        keep = keep[areas[keep] > 0]
        return boxes[keep], scores[keep]

    def _cut(self, picture: Image.Image, boxes: Tensor) -> list[Tensor]:
        """What is in each box: boolean ``H W``."""
        if not len(boxes):
            return []
        given = cast("Any", self.cutter)(picture, input_boxes=[boxes.tolist()], return_tensors="pt")
        dtype = next(self.sam.parameters()).dtype
        answer = cast("Any", self.sam)(
            pixel_values=given["pixel_values"].to(self.device, dtype),
            input_boxes=given["input_boxes"].to(self.device, dtype),
            multimask_output=False,
        )
        (masks,) = cast("Any", self.cutter).post_process_masks(
            answer.pred_masks.float().cpu(), given["original_sizes"], given["reshaped_input_sizes"]
        )
        return [tidy(mask, SPECKS) for mask in masks[:, 0]]


def load_grounded(
    detector: str, sam: str, *, device: torch.device | str | None, threshold: float | None
) -> GroundedSAM:
    """The pair from two folders or hub ids; see :func:`~starring.perception.segment.load_segmenter`.

    Pictures are prepared by PIL, with torchvision installed or without, so that masks do not depend on it.

    Raises:
        StarringError: if one cannot be loaded.
    """
    eye = GroundedSAM(
        load("detector", GroundingDinoForObjectDetection, detector, dtype=torch.float32),
        GroundingDinoProcessor(
            load("detector's image processor", AutoImageProcessor, detector, backend="pil"),
            load("detector's tokenizer", AutoTokenizer, detector),
        ),
        load("segmenter", SamModel, sam, dtype=torch.float32),
        SamProcessor(load("segmenter's image processor", AutoImageProcessor, sam, backend="pil")),
        name=f"{short(detector, detector)}+{short(sam, sam)}",
        threshold=BOX if threshold is None else threshold,
    )
    return eye if device is None else eye.to(device)
