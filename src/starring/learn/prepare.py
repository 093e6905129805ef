"""What is made of photographs before anything learns: masks, crops, and the VAE's moments of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.files import write_image
from starring.data.latents import LatentBank, bank_key
from starring.data.masks import Segmenter, cut_masks, load_masks, overview, settle
from starring.data.subject import Subject
from starring.data.video import contact_sheet
from starring.learn.clips import whole_photographs
from starring.learn.progress import OnProgress, Progress
from starring.perception.segment import First, load_segmenter, suited
from starring.run import Run


def choose_segmenter(
    segmenter: Segmenter | str | None, subject: Subject, backbone: Backbone, recipe: Recipe, run: Run | None
) -> Segmenter | None:
    """Who cuts the masks; ``None`` if nobody has to."""
    if not recipe.data.masks or (run is not None and load_masks(subject, _wanted(subject), run.masks) is not None):
        return None
    if segmenter is not None and not isinstance(segmenter, str):
        return segmenter
    found = load_segmenter(segmenter or suited(backbone.name), device=backbone.device)
    return cast("Segmenter", First(found) if recipe.data.instance == "first" else found)


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
