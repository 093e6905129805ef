"""The motion that is learned together with a subject: which clips, their latents, and a picture of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load, save
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe, Sample
from starring.data.augment import seeded
from starring.data.files import write_bytes, write_image
from starring.data.latents import LatentBank
from starring.data.motion import Motion, MotionRecord, framed
from starring.data.subject import Subject
from starring.data.video import contact_sheet
from starring.errors import StarringError
from starring.learn.progress import OnProgress, Progress
from starring.methods import METHODS, find
from starring.perception.encoders import CLIP, load_clip
from starring.perception.transforms import variant
from starring.run import Run

SHOWN = 6
"""Frames of a clip in the run's first pictures."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clips:
    """Clips as learning reads them."""

    bank: LatentBank
    """Moments of whole clips, ``v c f h w``."""
    images: Tensor
    """The embedding of one frame of each, ``v e``."""


def lasting(recipe: Recipe, motion: Motion | None, backbone: Backbone) -> Motion | None:
    """The clips that a run learns from.

    Args:
        recipe: with its sampling, which says how long and large a film is.
        motion: what a person gave.
        backbone: gives the sampling where the recipe has none.

    Raises:
        StarringError: if a motion is asked for and not given or the other way round (with the method to use instead),
            or a clip is too short.
    """
    asked = any(stage.clips for stage in recipe.stages)
    if not find(recipe.method).moving:
        if motion is not None or asked:
            both = ", ".join(name for name, kind in METHODS.items() if kind.moving)
            raise StarringError(
                f"'{recipe.method}' learns from photographs alone. Leave the motion out, or learn both with {both}."
            )
        return None
    if not asked:
        raise StarringError(f"'{recipe.method}' learns from clips, but no stage of the recipe has any (clips=0).")
    if motion is None:
        raise StarringError(
            f"'{recipe.method}' learns a subject and a motion together, and got photographs alone. Give clips of the"
            " motion with --motion; a subject alone is learned with vcd."
        )
    if recipe.data.fit == "square" or recipe.data.masks:
        raise StarringError(
            f"'{recipe.method}' takes photographs and clips whole: data.fit must be letterbox, crop or stretch, and"
            " data.masks false."
        )
    sample = recipe.sample or backbone.sample
    backbone.latent_shape(sample.frames, sample.height, sample.width)
    return motion.lasting(sample.frames, sample.fps, recipe.data.pace)


def recorded(given: Motion | None, record: MotionRecord | None) -> Motion | None:
    """The clips that a resumed run was begun with.

    Raises:
        StarringError: if they are gone or are others.
    """
    if record is None:
        return None
    motion = given or Motion.read(record.place, "the motion")  # what clips show is in the record
    where = {each: i for i, each in enumerate(motion.digests)}
    if not set(record.digests) <= where.keys():
        raise StarringError(f"The clips in {motion.place} are not those that the run was begun with. Put them back.")
    rows = [where[each] for each in record.digests]
    return replace(
        motion, paths=[motion.paths[i] for i in rows], captions=list(record.captions), digests=list(record.digests)
    )


def seer_of(recipe: Recipe, backbone: Backbone) -> CLIP:
    """The image encoder that the method's options name.

    Raises:
        StarringError: if it cannot be loaded, or its vectors are of another width than the options say.
    """
    options = recipe.options
    clip = load_clip(str(options["encoder"]), device=backbone.device)
    if clip.width != options["image_width"]:
        raise StarringError(
            f"The image encoder {options['encoder']} makes vectors of width {clip.width}, and the options say"
            f" {options['image_width']}. Give --options image_width={clip.width}."
        )
    return clip


def shown(subject: Subject, recipe: Recipe, clip: CLIP) -> Tensor:
    """The embedding of the photograph that stands for the subject in films, ``e``.

    Raises:
        StarringError: if there is no photograph of that number.
    """
    number = int(recipe.options.get("photograph", 0))
    if number >= len(subject):
        raise StarringError(
            f"There is no photograph number {number}; {subject.name} has {len(subject)}, counted from 0."
        )
    how = variant(clip.transform, "dualreal-film") if recipe.options.get("stretch", False) else None
    return clip.embeddings([subject.images[number]], how)[0].cpu()


def clips_of(
    run: Run, motion: Motion | None, backbone: Backbone, recipe: Recipe, see: Callable[[], CLIP],
    accelerator: Accelerator, tell: OnProgress,
) -> Clips | None:  # fmt: skip
    """Latents of the clips and embeddings of their frames, from the run's cache where they are."""
    if motion is None:
        return None
    sample, seed = recipe.sample or backbone.sample, recipe.stages[0].train.seed
    legacy = bool(recipe.options.get("legacy_clip_norm", False))
    about = [
        motion.digests, motion.captions, sample.frames, sample.fps, sample.height, sample.width, recipe.data.fit,
        recipe.data.pace, seed, recipe.options["encoder"], legacy, backbone.source, str(backbone.dtype),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    path, pictures = run.cache / "clips.safetensors", run.cache / "images.safetensors"
    with accelerator.main_process_first():
        bank = LatentBank.load(path, key)
        if bank is None or not pictures.is_file():
            run.cache.mkdir(exist_ok=True)
            frames, clip = [_one_of(motion, i, sample, recipe.data.pace, seed) for i in range(len(motion))], see()
            images = clip.embeddings(frames, variant(clip.transform, "dualreal") if legacy else None)
            write_bytes(pictures, save({"images": images.cpu().contiguous()}))
            with torch.no_grad():
                bank = LatentBank.encoded(
                    _films(run, motion, sample, recipe, tell),
                    lambda pixels: backbone.encode_moments(pixels.to(backbone.device)), seed,
                    lambda done: tell(Progress(phase="clips", step=done, total=len(motion), run=run.folder)),
                )  # fmt: skip
            bank.save(path, key)
    return Clips(bank=bank, images=load(pictures.read_bytes())["images"])


def whole_photographs(
    subject: Subject, recipe: Recipe, backbone: Backbone, on_progress: Callable[[int, int], None]
) -> LatentBank:
    """Moments of whole photographs at the film's height and width, each as a film of one frame."""
    sample, data = recipe.sample or backbone.sample, recipe.data
    films = (
        (*framed([image], (sample.height, sample.width), data.fit), subject.caption(i, data.template))
        for i, image in enumerate(subject.images)
    )
    return LatentBank.encoded(
        films, lambda pixels: backbone.encode_moments(pixels.to(backbone.device)), recipe.stages[0].train.seed,
        lambda done: on_progress(done, len(subject)),
    )  # fmt: skip


def _one_of(motion: Motion, index: int, sample: Sample, pace: str, seed: int) -> Any:
    """One frame of a clip, drawn once."""
    numbers = motion.numbers(index, sample.frames, sample.fps, pace)
    drawn = int(torch.randint(len(numbers), (), generator=seeded(seed, "frame", index)))
    return motion.frames(index, [numbers[drawn]])[0]


def _films(
    run: Run, motion: Motion, sample: Sample, recipe: Recipe, tell: OnProgress
) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Every clip at the film's size; the run's previews show them."""
    for i, caption in enumerate(motion.captions):
        numbers = motion.numbers(i, sample.frames, sample.fps, recipe.data.pace)
        pixels, extent = framed(motion.frames(i, numbers), (sample.height, sample.width), recipe.data.fit)
        sheet: Path = run.previews / f"clip-{i + 1}.png"
        run.previews.mkdir(exist_ok=True)
        picked = torch.linspace(0, pixels.shape[1] - 1, min(SHOWN, pixels.shape[1])).round().long()
        write_image(sheet, contact_sheet(pixels[:, picked]))
        tell(Progress(phase="clips", step=i, total=len(motion), preview=sheet, run=run.folder))
        yield pixels, extent, caption
