"""What is made of photographs before anything learns: masks, crops, and the VAE's moments of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.files import write_image
from starring.data.latents import LatentBank, bank_key
from starring.data.masks import Segmenter, SegmenterRecord, cut_masks, load_masks, overview, settle
from starring.data.subject import Subject
from starring.data.video import contact_sheet
from starring.errors import StarringError
from starring.learn.clips import whole_photographs
from starring.learn.progress import OnProgress, Progress
from starring.perception.segment import SEGMENTERS, First, suiting
from starring.perception.segment import Segmenter as Instances
from starring.run import Run


def same_name(segmenter: Segmenter | str | None, run: Run | None) -> Segmenter | str | None:
    """The segmenter that was asked for; in a resumed run the one that it was begun with, if none is and it has a name.

    A file or folder gets its absolute path, so that a run finds it again from anywhere.
    """
    if segmenter is None and run is not None and run.record.segmenter is not None:
        return run.record.segmenter.name or None
    if not isinstance(segmenter, str) or segmenter in (*SEGMENTERS, "auto"):
        return segmenter
    places = [Path(part).expanduser() for part in segmenter.split("+")]
    return "+".join(str(p.absolute()) if p.exists() else n for p, n in zip(places, segmenter.split("+"), strict=True))


def choose_segmenter(
    segmenter: Segmenter | str | None, subject: Subject, backbone: Backbone, recipe: Recipe, run: Run | None
) -> Segmenter | None:
    """Who cuts the masks; ``None`` if nobody has to.

    Raises:
        StarringError: if it cannot be had, cannot tell instances apart where the recipe asks for the first one, or is
            not the one with which the run that is resumed began.
    """
    if not recipe.data.masks or (run is not None and load_masks(subject, _wanted(subject), run.masks) is not None):
        return None
    chosen = cast("Segmenter", suiting(segmenter, backbone.name, backbone.device))
    if recipe.data.instance == "first":
        if not isinstance(chosen, Instances):
            raise StarringError(
                f"The segmenter {chosen.id} does not tell instances apart, so there is no first one. Leave --instance"
                " out, or give a starring.perception.segment.Segmenter."
            )
        chosen = cast("Segmenter", First(chosen))
    if run is not None:
        _same_cutter(chosen, run)
    return chosen


def cutter(segmenter: Segmenter | str | None, eye: Segmenter | None) -> SegmenterRecord | None:
    """What a run notes: what was asked for, and who cuts its masks."""
    if segmenter is None and eye is None:
        return None
    name = segmenter if isinstance(segmenter, str) else "" if segmenter is None else None
    return SegmenterRecord(name=name, id=eye.id if eye is not None else None)


def _same_cutter(segmenter: Segmenter, run: Run) -> None:
    begun = run.record.segmenter
    if begun is None or begun.id is None or begun.id == segmenter.id:
        return
    advice = f"Go on with: {run.resume_command}" if begun.name else "In Python pass the same one: segmenter=..."
    if begun.name == "":
        advice = "Leave --segmenter out, or begin a new run."
    raise StarringError(
        f"The masks of {run.folder} are not all cut, and were begun by {begun.id}, not by {segmenter.id}. {advice}"
    )


def _wanted(subject: Subject) -> str:
    return subject.class_word or "object"


def prepared(
    run: Run, subject: Subject, backbone: Backbone, recipe: Recipe, segmenter: Segmenter | None,
    accelerator: Accelerator, tell: OnProgress,
) -> LatentBank:  # fmt: skip
    """Masks and moments, from the run's cache where they are; other processes wait for the main one's."""
    with accelerator.main_process_first():
        kept, masks = _masks(run, subject, recipe, segmenter, tell)
        data, size, seed = recipe.data, cast("int", recipe.data.size), recipe.stages[0].train.seed
        uses = max(s.train.steps * s.train.batch * s.train.accumulate for s in recipe.stages)
        data = replace(data, variants=max(len(kept), min(data.variants, uses * accelerator.num_processes)))
        shape = recipe.sample or backbone.sample
        whole = f" {shape.height} {shape.width}" if data.fit != "square" else ""
        key = bank_key(kept, masks, data, size, seed, f"{backbone.source} {backbone.dtype}{whole}")
        path = run.cache / "moments.safetensors"
        bank = LatentBank.load(path, key)
        if bank is None:

            def told(done: int, total: int) -> None:
                tell(Progress(phase="moments", step=done, total=total, run=run.folder))

            with torch.no_grad():
                if data.fit != "square":
                    bank = whole_photographs(kept, recipe, backbone, told)
                else:
                    bank = LatentBank.build(
                        kept, masks, lambda pixels: backbone.encode_moments(pixels.to(backbone.device)), data, size,
                        seed, told,
                    )  # fmt: skip
            run.cache.mkdir(exist_ok=True)
            bank.save(path, key)
    return bank


def _masks(
    run: Run, subject: Subject, recipe: Recipe, segmenter: Segmenter | None, tell: OnProgress
) -> tuple[Subject, Sequence[Tensor | None]]:
    """The photographs to train on and their masks; the first picture of the run shows both."""
    kept, masks = subject, cast("list[Tensor | None]", [None] * len(subject))
    if recipe.data.masks:
        found = load_masks(subject, _wanted(subject), run.masks)
        if found is None and segmenter is not None:
            found = cut_masks(
                subject, segmenter, _wanted(subject), run.masks,
                lambda done, total: tell(Progress(phase="masks", step=done, total=total, run=run.folder)),
            )  # fmt: skip
        if found is not None:
            kept, masks, complaints = settle(subject, found, recipe.data.missing)
            for complaint in complaints:
                tell(Progress(phase="masks", complaint=complaint, run=run.folder))
    sheet = run.previews / "photographs.png"
    if not sheet.is_file():
        run.previews.mkdir(exist_ok=True)
        write_image(sheet, contact_sheet(overview(kept.images, masks), side=192))
    tell(Progress(phase="masks", step=len(subject), total=len(subject), preview=sheet, run=run.folder))
    return kept, masks
