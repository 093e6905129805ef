"""A corpus of pairs as learning reads it: which corpus, and the latents of its clips and cut-outs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone, Moments
from starring.backbones.presets import shipped
from starring.config import Recipe, Sample
from starring.data.cutouts import on_white, read_cutout
from starring.data.files import write_image
from starring.data.latents import Bank, shrink
from starring.data.motion import framed
from starring.data.pairbank import PairBank, Shard
from starring.data.pairs import Pair, Pairs, PairsRecord
from starring.data.prompts import mentions
from starring.data.subject import Complaint, Subject
from starring.data.video import contact_sheet
from starring.errors import StarringError
from starring.learn.progress import OnProgress, Preview, Progress
from starring.methods import METHODS, build, find, recipe_for
from starring.methods.base import Method, require_family, require_fitting
from starring.run import Run

SHARD = 64
"""Pairs in a file of latents."""
SHOWN = 6
"""Pairs in the run's first picture."""


def material(method: str, given: Subject | Pairs) -> tuple[Subject, Pairs | None]:
    """What a person gave, as a subject and a corpus; a corpus is of nobody in particular.

    Raises:
        StarringError: if pairs are given to a method that learns from photographs, with those that take pairs.
    """
    if isinstance(given, Subject):
        return given, None
    if not find(method).paired:
        these = ", ".join(name for name, kind in METHODS.items() if kind.paired)
        raise StarringError(
            f"'{method}' learns from photographs of one subject, and got a corpus of pairs. Pairs are for {these}."
        )
    nobody = Subject(
        images=[], paths=[], captions=[], digests=[], sizes=[], class_word="", name=given.name, folder=None,
        skipped=given.skipped,
    )  # fmt: skip
    return nobody, given


def same(given: Pairs | None, record: PairsRecord | None) -> None:
    """Refuse to go on with another corpus than a run was begun with.

    Raises:
        StarringError: if it is another.
    """
    if record is None or (given is not None and given.digest == record.digest):
        return
    raise StarringError(f"The pairs in {record.place} are not those that the run was begun with. Put them back.")


def checked(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse films that the backbone cannot make, before anything is written.

    Raises:
        StarringError: with the nearest legal number of frames or size; and for square crops.
    """
    sample = recipe.sample or backbone.sample
    backbone.latent_shape(sample.frames, sample.height, sample.width)
    if recipe.data.fit == "square" or recipe.data.masks:
        raise StarringError(
            f"'{recipe.method}' takes clips whole: data.fit must be letterbox, crop or stretch, and data.masks false."
        )


def learned_before(recipe: Recipe, tokens: str | Path | None, backbone: Backbone) -> tuple[Recipe, dict[str, Tensor]]:
    """A recipe in which nothing is left to learn for a subject, and what was learned once for all.

    Args:
        recipe: of a method that learns from pairs. What its options say otherwise than the usual recipe wins over those
            of the run; what nobody asked for does not.
        tokens: a finished run of the method; the one that ships with the backbone when absent.
        backbone: of the family that it was learned on.

    Raises:
        StarringError: if there is no such run, with what to train, or it is of another method, backbone or size.
    """
    source = Run.open(tokens if tokens is not None else shipped(recipe.method, backbone.name))
    record, weights = source.record, source.load_weights()
    if record.recipe.method != recipe.method:
        raise StarringError(f"{source.folder} learned '{record.recipe.method}', and not '{recipe.method}'.")
    require_family(recipe.method, record.family, backbone)
    usual, learned = recipe_for(recipe.method, backbone).options, record.recipe.options
    asked = {key: value for key, value in recipe.options.items() if key not in usual or usual[key] != value}
    options = {**recipe.options, **learned, **asked}
    for key in sorted(find(recipe.method).binding & set(asked) & set(learned)):
        if asked[key] != learned[key]:
            warnings.warn(
                f"{source.folder} was learned with {key}={learned[key]} and is to film with {key}={asked[key]}, which"
                f" it never saw. Leave {key} out to film as it was learned.",
                stacklevel=2,
            )
    learned_on = record.origin.get("name_or_path", "")
    require_fitting(build(recipe.method, backbone, options), weights, source.weights, backbone, learned_on)
    digest = hashlib.sha256(source.weights.read_bytes()).hexdigest()
    return replace(
        recipe, options=options, stages=(), sample=recipe.sample or record.recipe.sample,
        source=f"{recipe.source}; learned before in {source.name}, SHA-256 {digest}",
    ), weights  # fmt: skip


def beside(bank: Bank, preview: Preview | None) -> tuple[Tensor, str] | None:
    """What previews are filmed beside: the corpus's first reference, and its word if the prompt has it."""
    if preview is None or not isinstance(bank, PairBank):
        return None
    drawn = bank.draw(0, 1, torch.Generator())
    assert drawn.references is not None
    assert drawn.entities is not None
    (entity,) = drawn.entities
    return drawn.references, entity if mentions(preview.prompt, entity) else ""


def encoded(
    run: Run, pairs: Pairs, backbone: Backbone, method: Method, recipe: Recipe, accelerator: Accelerator,
    tell: OnProgress,
) -> PairBank:  # fmt: skip
    """The latents of a corpus, from the run's cache as far as they are there; processes share what is left.

    Raises:
        StarringError: if no pair of the corpus can be read, with the first reason.
    """
    sample, data, seed = recipe.sample or backbone.sample, recipe.data, recipe.stages[0].train.seed
    about = [
        pairs.digest, sample.frames, sample.fps, sample.height, sample.width, data.fit, data.pace, backbone.source,
        str(backbone.dtype),
    ]  # fmt: skip
    beside = method.picture_size(sample.height, sample.width)
    backbone.latent_shape(1, *beside)  # complains about sizes that cannot be encoded
    if beside != (sample.height, sample.width):
        about += beside
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    home = run.cache / "pairs"
    home.mkdir(parents=True, exist_ok=True)
    chunks = [pairs.rows[start : start + SHARD] for start in range(0, len(pairs), SHARD)]
    paths = [home / f"{number:05d}.safetensors" for number in range(len(chunks))]
    done, world = 0, accelerator.num_processes
    for number in range(accelerator.process_index, len(chunks), world):

        def told(more: int, before: int = done) -> None:
            tell(Progress(phase="pairs", step=min(before + more, len(pairs)), total=len(pairs), run=run.folder))

        if Shard.load(paths[number], key) is None:
            _encode(paths[number], key, chunks[number], backbone, beside, recipe, told)
        done += len(chunks[number]) * world
    accelerator.wait_for_everyone()
    bank = PairBank(shards=[cast("Shard", Shard.load(path, key)) for path in paths], seed=seed)
    complaints = [
        Complaint(path=Path(file), kind="pair", message=f"it was left out: {why}", advice="Replace it, or its line.")
        for shard in bank.shards
        for file, why in shard.skipped
    ]
    if not len(bank):
        raise StarringError(f"No pair in {pairs.place} can be read. {complaints[0]}")
    for complaint in complaints:
        tell(Progress(phase="pairs", complaint=complaint, run=run.folder))
    if accelerator.is_main_process:
        _show(run, pairs, sample, recipe, tell)
    return bank


def _encode(
    path: Path, key: str, rows: list[Pair], backbone: Backbone, beside: tuple[int, int], recipe: Recipe,
    tell: Callable[[int], None],
) -> Shard:  # fmt: skip
    """Write the moments of some pairs, pictures at the size ``beside``; those that cannot be read are left out."""
    kept, skipped = list[Pair](), list[tuple[str, str]]()
    moments = list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]()
    sample = recipe.sample or backbone.sample
    size = sample.height, sample.width
    for count, pair in enumerate(rows, 1):
        file = pair.clip
        try:
            film, extent = framed(pair.frames(sample.frames, sample.fps, recipe.data.pace), size, recipe.data.fit)
            file = pair.reference
            picture = on_white(read_cutout(pair.reference), beside)
        except StarringError as error:
            skipped.append((str(file), str(error)))
        else:
            clip, reference = _moments(backbone, film), _moments(backbone, picture)
            small = shrink(extent[None, :, None], clip.mean.shape[-2:])
            moments.append((clip.mean, clip.std, reference.mean, reference.std, small))
            kept.append(pair)
        tell(count)
    shard = Shard(
        path=path, captions=[p.caption for p in kept], entities=[p.entity for p in kept], skipped=skipped
    )  # fmt: skip
    return shard.save(key, moments)


def _moments(backbone: Backbone, pixels: Tensor) -> Moments:
    """Of one film, ``3 F H W``."""
    with torch.no_grad():
        return backbone.encode_moments(pixels[None].to(backbone.device))


def _show(run: Run, pairs: Pairs, sample: Sample, recipe: Recipe, tell: OnProgress) -> None:
    """The run's first picture: some references, each before the beginning, middle and end of its clip."""
    sheet, pictures = run.previews / "pairs.png", list[Image.Image]()
    for pair in pairs.rows[:SHOWN]:
        with contextlib.suppress(StarringError):  # told where it was left out
            frames = pair.frames(sample.frames, sample.fps, recipe.data.pace)
            pictures += [read_cutout(pair.reference), frames[0], frames[len(frames) // 2], frames[-1]]
    if pictures and not sheet.is_file():
        run.previews.mkdir(exist_ok=True)
        write_image(sheet, contact_sheet(pictures, columns=4))
    if sheet.is_file():
        tell(Progress(phase="pairs", preview=sheet, run=run.folder))
