"""The training loop: photographs in, a run out, exactly resumable at any moment.

There is one loop for all methods. It walks through the recipe's stages; what learns in a stage, and by which loss, is
the method's answer. Everything random comes from a generator or from global states that are part of a checkpoint, and
what a batch holds is a function of how many samples came before. So a run that was killed and resumed ends in the very
bits of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe, from_json, to_json
from starring.data.masks import Segmenter, SegmenterRecord
from starring.data.motion import Motion, MotionRecord
from starring.data.pairs import Pairs, PairsRecord
from starring.data.prompts import check_prompt
from starring.data.rights import require_consent
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.learn.choice import FOLDER, Chooser, Validation
from starring.learn.clips import clips_of, lasting, recorded, seer_of, shown
from starring.learn.cost import noted
from starring.learn.guards import Stop, guarded, own_randomness, seed_all
from starring.learn.identity import identity_of, written_out
from starring.learn.loop import Loop
from starring.learn.pairs import beside, checked, encoded, learned_before, material, same
from starring.learn.prepare import choose_segmenter, cutter, prepared, same_name
from starring.learn.prior import class_images
from starring.learn.progress import OnProgress, Preview, Progress, nobody
from starring.learn.stages import require_backbones
from starring.learn.words import taken_over
from starring.methods import Method, build, find, recipe_for
from starring.perception.identity import Identity, IdentityEyes
from starring.run import Photographs, Record, Run, libraries

__all__ = ["Interrupted", "OnProgress", "Preview", "Progress", "Validation", "learn", "resume"]


def learn(
    method_name: str, subject: Subject | Pairs, backbone: Backbone, recipe: Recipe | None = None,
    runs_dir: str | Path = "runs", *, motion: Motion | None = None, resume: str | Path | None = None,
    name: str | None = None, tokens: str | Path | None = None, segmenter: Segmenter | str | None = None,
    eyes: IdentityEyes | None = None, on_progress: OnProgress | None = None, preview: Preview | None = None,
    validation: Validation | None = None,
) -> Run:  # fmt: skip
    """Learn a subject.

    Args:
        method_name: a key of ``METHODS``.
        subject: the photographs, with a class word if the captions' template asks for one. A method that learns once
            for all subjects takes a corpus of pairs instead; with photographs there is nothing left to learn for it,
            and the run says whose they are and what was learned before.
        backbone: on the device to train on.
        recipe: all choices; the method's own for this backbone when absent (the stored one when resuming).
        runs_dir: where the new run's folder goes.
        motion: clips of the motion that is learned together with the subject, for methods that learn both.
        resume: the folder of an unfinished run to go on with, instead of beginning a new one.
        name: the run's name; ``<subject>-<method>`` by default. A number is added where it is taken.
        tokens: a finished run whose learned words are taken over, so that none are learned anew; another method's,
            too. If nothing else is left to learn, the new run is finished at once. For a method that learns once, the
            run that did; by default the one that ships with the backbone.
        segmenter: cuts the masks: an object, a preset name or folder; ``None`` takes the backbone's own.
        eyes: judge films in rewarded stages; ``None`` takes those that the recipe names, or the backbone's own.
        on_progress: called with a :class:`Progress` after every piece of work.
        preview: films to make meanwhile.
        validation: films and scores checkpoints, the best of which is the result
            (:class:`starring.evaluate.validation.Films`); without, the last one is.

    Returns:
        The finished run.

    Raises:
        StarringError: for choices that cannot be carried out, for a subject whose consent is declared none or has
            expired, and for a loss that is no number.
        Interrupted: after Ctrl-C or a termination signal, when the state has been saved; says how to go on.
        OSError: if the disk is full; what was saved before is still whole.
    """
    tell = on_progress or nobody
    subject, pairs = material(method_name, subject)
    require_consent(subject.rights, subject.name)
    if preview is not None and pairs is None:
        check_prompt(preview.prompt)
    with Stop() as stop, own_randomness():
        run = Run.open(resume) if resume is not None else None
        recipe, start = _resolved(method_name, subject, pairs, backbone, recipe, run, tokens)
        accelerator = _accelerator(backbone, recipe)
        tell = tell if accelerator.is_main_process else nobody
        for complaint in subject.skipped:
            tell(Progress(phase="check", complaint=complaint))
        if run is not None and run.finished:
            tell(Progress(phase="done", run=run.folder))
            return run
        motion = lasting(recipe, recorded(motion, run.record.motion) if run else motion, backbone)
        for complaint in motion.skipped if motion is not None else ():
            tell(Progress(phase="check", complaint=complaint))
        require_backbones(recipe, backbone)
        method = _fresh(recipe, backbone)
        segmenter = same_name(segmenter, run)
        eye = choose_segmenter(segmenter, subject, backbone, recipe, run)
        see = cache(partial(seer_of, recipe, backbone))  # an image encoder takes gigabytes, and may not be needed
        if motion is not None and run is None:
            start |= {"image": shown(subject, recipe, see())}
        # Told before there is a run, which keeps the photographs that it was begun with.
        identity = identity_of(subject, backbone, recipe, eyes, segmenter, tell)
        run = run or _new_run(runs_dir, name, recipe, subject, motion, pairs, cutter(segmenter, eye), identity,
                              backbone, accelerator, start)  # fmt: skip
        method.load_state_dict(run.load_start(), strict=False)
        tell(Progress(phase="check", run=run.folder))
        if not recipe.stages:
            return _at_once(run, method, accelerator, tell)
        with contextlib.ExitStack() as stack:
            if accelerator.is_main_process:
                stack.enter_context(run.locked())
                tell = stack.enter_context(noted(run, backbone.device, tell))
            chooser, hear = _chooser(run, validation), guarded(tell, stop, run)
            if pairs is not None:
                bank = encoded(run, pairs, backbone, method, recipe, accelerator, hear)
            else:
                bank = prepared(run, subject, backbone, recipe, eye, accelerator, hear)
            clips = clips_of(run, motion, backbone, recipe, see, accelerator, hear)
            see.cache_clear()
            prior = class_images(run, subject, backbone, recipe, accelerator, hear)
            # Cutting masks may have drawn numbers, and a resumed run finds them cut.
            seed_all(recipe.stages[0].train.seed)
            Loop(
                run=run, recipe=recipe, method=method, backbone=backbone, accelerator=accelerator, bank=bank, stop=stop,
                tell=tell, prior=prior, clips=clips, identity=identity, preview=preview, chooser=chooser,
                beside=beside(bank, preview),
            ).train()  # fmt: skip
    return run


def resume(
    folder: str | Path,
    backbone: Backbone,
    subject: Subject | Pairs | None = None,
    *,
    motion: Motion | None = None,
    segmenter: Segmenter | str | None = None,
    eyes: IdentityEyes | None = None,
    on_progress: OnProgress | None = None,
    preview: Preview | None = None,
    validation: Validation | None = None,
) -> Run:
    """Go on with an unfinished run exactly where its last checkpoint stands; see :func:`learn`.

    Args:
        folder: the run.
        backbone: the one it was begun with.
        subject: the photographs, or the pairs; read from where they were when absent.
        motion: the clips, likewise.
        segmenter: the one it was begun with; needed only if that was an object and masks had not all been cut.
        eyes: as in :func:`learn`.
        on_progress: as in :func:`learn`.
        preview: as in :func:`learn`.
        validation: as the run was begun with, so that its choice is between all of its checkpoints.
    """
    record = Run.open(folder).record
    if subject is None and record.pairs is not None:
        subject = Pairs.read(record.pairs.place)
    elif subject is None:
        if record.subject.folder is None:
            raise StarringError(f"The photographs of {folder} never were files, so it cannot be resumed without them.")
        subject = Subject.from_folder(record.subject.folder, record.subject.class_word, record.subject.name)
    return learn(
        record.recipe.method, subject, backbone, record.recipe,
        motion=motion, resume=folder, segmenter=segmenter, eyes=eyes, on_progress=on_progress, preview=preview,
        validation=validation,
    )  # fmt: skip


def _fresh(recipe: Recipe, backbone: Backbone) -> Method:
    """The method as it begins, after the first stage's seed.

    Raises:
        StarringError: if it learns nothing in one of its stages; told before anything is written, as an unknown stage
            is.
    """
    if recipe.stages:
        seed_all(recipe.stages[0].train.seed)
    method = build(recipe.method, backbone, recipe.options).to(backbone.device)
    for stage in recipe.stages:
        if not list(method.learns(stage.name)):
            raise StarringError(f"'{recipe.method}' learns nothing in its stage '{stage.name}'. Remove the stage.")
    return method


def _chooser(run: Run, validation: Validation | None) -> Chooser | None:
    """Who chooses the result.

    Raises:
        StarringError: if the run was begun with a validation and is resumed without, or with another.
    """
    if validation is None and (run.folder / FOLDER).exists():
        raise StarringError(
            f"{run.folder} was begun with validation, which chooses its result. Go on with: {run.resume_command}, or in"
            " Python pass the same validation."
        )
    if validation is None:
        return None
    validation.begin(run)
    return Chooser(run=run, validation=validation)


def _at_once(run: Run, method: Method, accelerator: Accelerator, tell: OnProgress) -> Run:
    """Finish a run that has nothing to learn."""
    if accelerator.is_main_process:
        run.save_weights(method.state_dict())
    accelerator.wait_for_everyone()
    tell(Progress(phase="done", run=run.folder))
    return run


def _resolved(
    method_name: str, subject: Subject, pairs: Pairs | None, backbone: Backbone, recipe: Recipe | None,
    run: Run | None, tokens: str | Path | None,
) -> tuple[Recipe, dict[str, Tensor]]:  # fmt: skip
    """The recipe with nothing left open, checked against subject, backbone and the run that is resumed.

    With words that are taken over, these too: what learning begins with.
    """
    find(method_name)
    if recipe is None:
        recipe = run.record.recipe if run is not None else recipe_for(method_name, backbone)
    if recipe.method != method_name:
        raise StarringError(f"The recipe is for the method '{recipe.method}', not for '{method_name}'. Use its own.")
    start: dict[str, Tensor] = {}
    if pairs is not None:
        checked(recipe, backbone)
    elif find(method_name).paired and (run is None or recipe.stages):
        recipe, start = learned_before(recipe, tokens, backbone)
    elif tokens is not None and run is None:
        spelled = replace(recipe, options=_spelled(recipe, subject.class_word))
        recipe, start = taken_over(spelled, Run.open(tokens), backbone, subject.class_word)
    if not recipe.stages and not start and (run is None or not run.load_start()):
        raise StarringError(f"The recipe for '{method_name}' has no stage, so nothing would learn. Give it one.")
    captions = recipe.data.templates or (recipe.data.template,)
    asked = any("{class_word}" in caption for caption in captions) or any(s.class_images for s in recipe.stages)
    if asked and not subject.class_word and pairs is None:
        raise StarringError(f"What is '{subject.name}'? Give its class word, for example --class-word dog.")
    sample = recipe.sample or backbone.sample
    size = recipe.data.size or min(backbone.sample.height, backbone.sample.width)
    backbone.latent_shape(1, size, size)  # complains about sizes that the backbone cannot encode
    recipe = replace(
        recipe, options=_options(recipe, subject.class_word), sample=sample, data=replace(recipe.data, size=size),
        backbone=backbone.origin["name_or_path"],
    )  # fmt: skip
    if run is not None:
        same(pairs, run.record.pairs)
        _same(run, recipe, subject, backbone)
    return recipe, start


def _options(recipe: Recipe, class_word: str) -> dict[str, Any]:
    """Every option of the method, so that a later change of a default changes no run that exists.

    Raises:
        StarringError: for an unknown option, with the nearest name, and for a value that the method refuses.
    """
    config_type, options = find(recipe.method).config_type, _spelled(recipe, class_word)
    if "class_word" in {f.name for f in dataclasses.fields(config_type)}:
        options.setdefault("class_word", class_word)
    return to_json(from_json(config_type, options))


def _spelled(recipe: Recipe, class_word: str) -> dict[str, Any]:
    return written_out(
        recipe.options, {f.name for f in dataclasses.fields(find(recipe.method).config_type)}, class_word
    )


def _same(run: Run, recipe: Recipe, subject: Subject, backbone: Backbone) -> None:
    """Refuse to resume with anything else than what the run was begun with."""
    record = run.record
    # An option that came after the run has its default in both.
    begun = replace(record.recipe, options=_options(record.recipe, record.subject.class_word))
    now, then = to_json(replace(recipe, backbone=begun.backbone)), to_json(begun)
    changed = [key for key in then if then[key] != now[key]]
    if changed:
        raise StarringError(
            f"{run.folder} was begun with another recipe (different: {', '.join(changed)}). Resume it with its own, or"
            " begin a new run."
        )
    # A preset is its name, so the bundled weights may lie elsewhere now.
    if backbone.family != record.family or _places(backbone.origin) != _places(record.origin):
        raise StarringError(
            f"{run.folder} was begun on the backbone {_said(record.origin)} ({record.family}), not on"
            f" {_said(backbone.origin)} ({backbone.family}). Resume it with its own: leave --backbone and --base out,"
            " or in Python load_backbone(**run.record.origin)."
        )
    if record.dtype not in (None, backbone.precision):
        raise StarringError(
            f"{run.folder} was begun in the precision {record.dtype}, not in {backbone.precision}. Resume it in its"
            f" own (--dtype {record.dtype}), or begin a new run."
        )
    if set(subject.digests) != set(record.subject.digests.values()):
        raise StarringError(
            f"The photographs of '{subject.name}' are not those that {run.folder} was begun with. Put them back, or"
            " begin a new run."
        )


def _places(origin: Mapping[str, str]) -> dict[str, str]:
    """An origin in which one file has one name, whichever links lead to it."""
    return {key: str(Path(place).resolve()) if Path(place).is_absolute() else place for key, place in origin.items()}


def _said(origin: Mapping[str, str]) -> str:
    """An origin in a sentence."""
    others = " and ".join(f"{key} {place}" for key, place in sorted(origin.items()) if key != "name_or_path")
    return origin["name_or_path"] + (f" with {others}" if others else "")


def _accelerator(backbone: Backbone, recipe: Recipe) -> Accelerator:
    kinds = {stage.train.precision for stage in recipe.stages} or {"no"}
    if len(kinds) > 1 or not kinds <= {"no", "fp16", "bf16"}:
        raise StarringError(f"Precisions {sorted(kinds)}: all stages need the same one of no, fp16, bf16.")
    (precision,) = kinds
    cpu = backbone.device.type == "cpu"
    if cpu and precision == "fp16":
        raise StarringError("Training in fp16 needs an accelerator. On the CPU choose precision no or bf16.")
    # accelerate keeps one precision for the process's life, but a process may learn several subjects.
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    return Accelerator(cpu=cpu, mixed_precision=precision)


def _new_run(
    runs_dir: str | Path, name: str | None, recipe: Recipe, subject: Subject, motion: Motion | None,
    pairs: Pairs | None, cut: SegmenterRecord | None, identity: Identity | None, backbone: Backbone,
    process: Accelerator, start: Mapping[str, Tensor],
) -> Run:  # fmt: skip
    made: list[Any] = [None]
    if process.is_main_process:
        record = Record(
            recipe=recipe, origin=dict(backbone.origin), family=backbone.family, subject=Photographs.of(subject),
            motion=MotionRecord.of(motion) if motion else None, pairs=PairsRecord.of(pairs) if pairs else None,
            segmenter=cut, rewarded=identity.encoders if identity else (), dtype=backbone.precision,
            libraries=libraries(),
        )  # fmt: skip
        made = [str(Run.create(runs_dir, name or f"{subject.name}-{recipe.method}", record, start).folder)]
    if process.num_processes > 1:
        broadcast_object_list(made)
    return Run.open(made[0])
