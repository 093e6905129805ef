"""The verb: learn subjects, film them in every row, score the films."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starring.ablate.rows import Row, distinct, rows_of
from starring.ablate.told import Ablation, check_results, told
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, Sample
from starring.data import prompts as suites
from starring.data.masks import Segmenter
from starring.data.motion import Motion
from starring.data.subject import Subject, slug
from starring.errors import Interrupted, StarringError
from starring.evaluate.moves import clips_of, motions_of, prompts_of
from starring.evaluate.progress import OnProgress, Progress, nobody
from starring.evaluate.shots import Ledger, Order, Shot, Studio
from starring.evaluate.wishes import Task, default_suite, find_judge, settings_of, tasks_of
from starring.generate import Progress as FilmProgress
from starring.learn import Progress as LearnProgress
from starring.learn import learn, resume
from starring.learn.clips import recorded
from starring.methods import build, find, recipe_for
from starring.metrics.suite import Judge, References
from starring.perception.encoders import ImageEncoder
from starring.perception.segment import suiting
from starring.reward import Eyes, eyes_for
from starring.run import Run

FILMS = "ablation"
"""Where a subject's films are, in its run."""


def ablate(
    method: str, subjects: Sequence[Subject], backbone: Backbone | None = None, recipe: Recipe | None = None, *,
    motion: Motion | None = None, tokens: str | Path | None = None, rows: Sequence[Row] | None = None,
    suite: str | Path | Sequence[str] | None = None, seeds: Sequence[int] = (0,),
    sample: Sample | Mapping[str, Any] | None = None, judge: Judge | str | None = None,
    segmenter: Segmenter | str | None = None, encoder: ImageEncoder | str | None = None, mover: str = "",
    folder: str | Path = "ablation", on_progress: OnProgress | None = None,
) -> Ablation:  # fmt: skip
    """Learn subjects and film them with every combination of components that is a row.

    Runs, films and scores are kept by what they depend on: the same call goes on where it was stopped. Processes with
    different subjects may share a folder, and the call with all subjects then only makes the table.

    Args:
        method: a key of ``METHODS``.
        subjects: photographs, with class words and different names.
        backbone: what to learn and film on; the miniature by default.
        recipe: of learning; the method's own for the backbone by default.
        motion: clips of a motion, for methods that learn one with each subject.
        tokens: a run that all rows begin with, as in :func:`starring.learn.learn`.
        rows: the method's own by default.
        suite: as in :func:`starring.evaluate.evaluate`; by default the method's own suite, where it has one, and with
            the motion that was learned, if one was.
        seeds: one film for each row, subject, prompt and seed.
        sample: a whole ``Sample``, or single settings that replace the recipe's, in all rows.
        judge: who scores; by default the one that suits the backbone.
        segmenter: who looks for the subject, in learning and for rewards; by default the one that suits the backbone.
        encoder: who looks for rewards, likewise.
        mover: what moves in the clips, such as ``person``; with it the way of the subject's middle is scored too.
        folder: where everything goes.
        on_progress: told about every step.

    Raises:
        StarringError: for anything that cannot be done as asked, before the first film is begun.
        Interrupted: on Ctrl-C; everything done so far is kept.
        OSError: if the disk is full; everything done so far is kept.
    """
    chosen = tuple(rows) if rows is not None else rows_of(method)  # told before anything is loaded
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise StarringError(
            f"A component table needs subjects of different names; these are {', '.join(names) or '-'}."
        )
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise StarringError(f"Seeds must be different whole numbers from 0, at least one; not {list(seeds)}.")
    settings, home = settings_of(sample), Path(folder).expanduser()
    check_results(home)
    backbone, tell = backbone or load_backbone(), on_progress or nobody
    if rows is None:
        chosen = rows_of(method, recipe or recipe_for(method, backbone))
    chosen, same = distinct(method, chosen, backbone, recipe)
    if motion is not None and suite is None:
        motions_of(motion.captions, [s.class_word for s in subjects], mover)  # told before anything is learned
    given = {"motion": motion, "tokens": tokens, "segmenter": segmenter}
    runs = {
        row.name: [_learned(home / "runs", method, s, backbone, recipe, row, given, tell) for s in subjects]
        for row in chosen
    }
    first = next(iter(runs.values()))
    seen = dict(zip([run.name for run in first], subjects, strict=True))
    learned = recorded(motion, first[0].record.motion)
    tasks = tasks_of(first, suite if suite is not None else _own_prompts(method, first, mover), seen, names)
    looking = [
        eyes_for(task.subject, backbone, segmenter, encoder) if any(row.reward is not None for row in chosen) else None
        for task in tasks
    ]
    scorer = _scorer(find_judge(judge, first[0], backbone), backbone, segmenter, mover)
    ledgers = {run.name: Ledger.open(run.folder / FILMS) for each in runs.values() for run in each}
    owners = {run.name: name for each in runs.values() for run, name in zip(each, names, strict=True)}
    orders = [
        (row, own, order)
        for i, task in enumerate(tasks)
        for row in chosen
        for own in [replace(task, run=runs[row.name][i])]
        for order in _orders(row, own, backbone, settings, seeds, looking[i])
    ]
    clips = clips_of(learned, first[0].record.recipe.data, orders[0][2].sample) if learned is not None else []
    references = {task.label: scorer.references(task.subject.images, clips, mover) for task in tasks}
    shots = _filmed(orders, chosen, backbone, ledgers, scorer, references, tell)
    return told(method, chosen, same, tasks, owners, shots, home, scorer)


def _learned(
    runs: Path, method: str, subject: Subject, backbone: Backbone, recipe: Recipe | None, row: Row,
    given: Mapping[str, Any], tell: OnProgress,
) -> Run:  # fmt: skip
    """The run of a subject, for all rows or for one: found finished, gone on with, or begun.

    Raises:
        StarringError: if it was learned from other photographs, or as another recipe says.
    """

    def told(progress: LearnProgress) -> None:
        if progress.total:
            what = f"{subject.name}: {progress.phase}"
            tell(Progress(part="learn", done=progress.step, total=progress.total, what=what))

    more: dict[str, Any] = {**given, "on_progress": told}
    begun, own = runs / f"{subject.name}-{method}", set(row.options) & find(method).shaping
    if own or row.data:
        begun, recipe = begun.with_name(f"{begun.name}-{slug(row.name)}"), recipe or recipe_for(method, backbone)
        options = {**recipe.options, **{key: row.options[key] for key in own}}
        recipe = replace(recipe, options=options, data=replace(recipe.data, **row.data))
    if not (begun / "config.json").is_file():
        return learn(method, subject, backbone, recipe, runs, name=begun.name, **more)
    if recipe is not None and more["tokens"] is None:
        return learn(method, subject, backbone, recipe, resume=begun, **more)
    return resume(begun, backbone, subject, **{key: value for key, value in more.items() if key != "tokens"})


def _own_prompts(method: str, runs: Sequence[Run], mover: str) -> str | list[str]:
    """The prompts that a method's paper was evaluated with, in the words of the runs' backbone.

    Those of a motion are of the one that was learned.

    Raises:
        StarringError: if the clips' captions do not say who moves and how.
    """
    usual = default_suite(runs[0])
    own = f"{method}-miniature" if usual == "miniature" else method
    if own not in suites.suites():
        return usual
    motion = runs[0].record.motion
    if motion is None:
        return own
    return prompts_of(motion.captions, [run.record.subject.class_word for run in runs], own, mover)


def _scorer(judge: Judge, backbone: Backbone, segmenter: Segmenter | str | None, mover: str) -> Judge:
    """A judge who can tell where a subject is, if the way of what moves is asked for."""
    if not mover or judge.eyes.segmenter is not None:
        return judge
    finder: Any = suiting(segmenter, backbone.name, backbone.device)
    return Judge(
        eyes=replace(judge.eyes, segmenter=finder), protocol=judge.preset, films=judge.films, missing=judge.missing
    )


def _orders(
    row: Row, task: Task, backbone: Backbone, settings: Sample | dict[str, Any], seeds: Sequence[int], eyes: Eyes | None
) -> Iterator[Order]:
    """One film for each prompt and seed.

    Raises:
        StarringError: for an unknown option or setting, with the nearest name.
    """
    record = task.run.record
    recipe = replace(record.recipe, options={**record.recipe.options, **row.options})
    run = replace(task.run, record=replace(record, recipe=recipe))
    whole = settings if isinstance(settings, Sample) else replace(recipe.sample or backbone.sample, **settings)
    gamma = build(recipe.method, backbone, dict(recipe.options)).correlation
    weights = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    for prompt in task.prompts:
        for seed in seeds:
            yield Order(
                run=run, customized=True, prompt=prompt, said=task.said(prompt), seed=seed,
                sample=replace(whole, **row.sample), correlation=gamma, weights=weights,
                reward=row.reward, eyes=eyes if row.reward is not None else None,
            )  # fmt: skip


def _filmed(
    orders: Sequence[tuple[Row, Task, Order]], rows: Sequence[Row], backbone: Backbone,
    ledgers: Mapping[str, Ledger], judge: Judge, references: Mapping[str, References], tell: OnProgress,
) -> dict[str, list[Shot]]:  # fmt: skip
    """Every film, by row; from memory as far as possible.

    Raises:
        Interrupted: on Ctrl-C; everything done so far is kept.
    """
    shots: dict[str, list[Shot]] = {row.name: [] for row in rows}
    done, now = 0, ""

    def step(_: str, film: FilmProgress) -> None:
        if film.done is None:
            tell(Progress(part="film", done=done + film.step / film.steps, total=len(orders), what=now))

    studios = {name: Studio(ledger, judge, step) for name, ledger in ledgers.items()}
    try:
        for row, task, order in orders:
            now = f"{row.name}, {task.label}: {order.prompt}"
            shots[row.name].append(studios[task.run.name].shot(order, backbone, references[task.label]))
            done += 1
            tell(Progress(part="film", done=done, total=len(orders), what=now))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped after {done} of {len(orders)} films, which are kept. The same command goes on from there."
        ) from error
    return shots
