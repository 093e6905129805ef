"""Methods against each other on one suite: each learns the same subjects, all films share prompts and seeds.

Nothing here knows a method by name: whatever is registered can take part. The backbone of a method is the one that its
recipes were made for, in the bundled world for the suites about that world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, Sample, Train, to_json
from starring.data.files import write_json
from starring.data.masks import Segmenter
from starring.data.prompts import load_suite
from starring.data.subject import Subject, slug
from starring.errors import StarringError, unknown
from starring.evaluate.ask import Evaluation, Loader, evaluate, require_real
from starring.evaluate.entrants import Backbones, Motions, Terms, cast_of, learned, own_world, require_ready
from starring.evaluate.progress import OnProgress, Progress, nobody
from starring.evaluate.wishes import settings_of, usual_eyes
from starring.learn import Progress as LearnProgress
from starring.methods import METHODS, OWN_WORLD, find, recipe_for
from starring.metrics.protocols import Protocol, protocol_of
from starring.metrics.suite import Judge, load_judge
from starring.run import Run

ABOUT = "contest.json"
"""Who took part, on what, and how it was filmed."""


def contest(
    methods: Sequence[str], suite: str, *, subjects: Sequence[Subject] | None = None, limit: int | None = None,
    backbone: Backbone | str | Path | None = None, load: Loader | None = None, seeds: Sequence[int] | None = None,
    sample: Sample | Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None,
    segmenter: Segmenter | str | None = None, judge: Judge | str | None = None, protocol: str | None = None,
    eyes: Mapping[str, str] | None = None, real: str | Path | None = None, correlation: float | None = None,
    motion: str | Path | None = None, recipes: Mapping[str, Recipe] | None = None, folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:  # fmt: skip
    """Learn a suite's subjects with several methods, film its prompts, score the films: a leaderboard.

    Runs, films and scores are kept by what they depend on: the same call goes on where it was stopped, and a second one
    computes nothing and changes no digit.

    Args:
        methods: keys of ``METHODS``, each once.
        suite: a suite's name; the subjects of ``miniature`` and ``...-miniature`` are made here, held out of all
            training.
        subjects: photographs with class words, for the other suites.
        limit: take only so many of the subjects, the first ones.
        backbone: one for all methods, instead of the one that each method's recipe was made for.
        load: loads backbones; says where they compute.
        seeds: one film for each prompt and seed; as many as the suite says by default, from 0.
        sample: a whole ``Sample``, or settings that replace the recipes' own.
        train: settings of :class:`starring.config.Train` that replace those of every stage.
        segmenter: cuts the masks; by default the one that suits the backbone.
        judge: who scores, or a judge's name; by default whoever suits the suite.
        protocol: as in :func:`starring.evaluate.evaluate`.
        eyes: likewise.
        real: likewise.
        correlation: gamma of the noise prior for all; each method's own by default.
        motion: clips of a motion for methods that learn one together with the subject, or a folder with a folder of
            clips for each subject; the bundled world's suites bring their own.
        recipes: by method, instead of its own for its backbone.
        folder: where everything goes; ``leaderboard-SUITE`` by default.
        on_progress: told about every step.

    Raises:
        StarringError: for anything that cannot be done as asked, before anything is learned.
        Interrupted: on Ctrl-C; everything done so far is kept.
        OSError: if the disk is full; everything done so far is kept.
    """
    chosen, known = _methods(methods), load_suite(suite)
    home = Path(folder).expanduser() if folder is not None else Path(f"leaderboard-{slug(suite)}")
    seeds = list(range(known.seeds) if seeds is None else seeds)
    settings_of(sample)
    _checked(seeds, train or {})
    preset = protocol_of(protocol or "starring")
    cast = cast_of(known, subjects, limit, home / "photographs")
    tell = on_progress or nobody
    terms = Terms(
        runs=home / "runs", motions=Motions(known, cast, motion, home / "clips"), recipes=recipes or {},
        train=train or {}, segmenter=segmenter,
        own=Backbones(backbone, load or (lambda origin: load_backbone(**origin)), own_world(known)),
    )  # fmt: skip
    require_ready(terms, chosen, cast)
    scorer = judge if isinstance(judge, Judge) else _scorer(terms, chosen, judge, own_world(known), preset, eyes)
    if real is not None:
        require_real(real, scorer)

    def learning(name: str, progress: LearnProgress) -> None:
        if progress.total and progress.phase != "done":
            what = f"{name}: {progress.phase}"
            tell(Progress(part="learn", done=progress.step, total=progress.total, what=what))

    places = [(method, subject) for method in chosen for subject in cast]
    runs = [learned(terms, method, subject, learning) for method, subject in places]
    asked = {"sample": to_json(sample or {}), "correlation": correlation, "seeds": seeds}
    about = {"suite": suite, "methods": chosen, "subjects": [each.name for each in cast], **asked}
    write_json(home / ABOUT, about)
    return evaluate(
        runs, suite=suite, seeds=seeds, backbone=terms.own.whole, load=terms.own.load, sample=sample,
        correlation=correlation, judge=scorer, real=real, labels=[method for method, _ in places],
        subjects={run.name: subject for run, (_, subject) in zip(runs, places, strict=True)}, folder=home,
        title=f"{', '.join(chosen)} on the suite {suite}", segmenter=segmenter, remarks=_moved(runs),
        on_progress=lambda p: tell(Progress(part="film", done=p.share * p.total, total=p.total, what=p.what)),
    )  # fmt: skip


def read_subjects(folder: str | Path, words: Mapping[str, str] | None = None) -> list[Subject]:
    """The subjects in a folder of folders of photographs.

    Args:
        folder: one folder in it for each subject.
        words: class words by the folder's name; otherwise ``class_word`` in its ``subject.json``.

    Raises:
        StarringError: if there is no subject, or one has no class word.
    """
    import json

    home, given = Path(folder).expanduser(), dict(words or {})
    places = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")) if home.is_dir() else []
    if not places:
        raise StarringError(
            f"{home} holds no subjects. Put the photographs of each into a folder of its own in there: {home / 'dog1'}."
        )
    for name in given:
        if name not in {place.name for place in places}:
            raise unknown(f"subject in {home}", name, [place.name for place in places])
    found: list[Subject] = []
    for place in places:
        about = place / "subject.json"
        try:
            values = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StarringError(f"{about} is not JSON ({error}).") from error
        word = given.get(place.name, values.get("class_word", "") if isinstance(values, dict) else "")
        if not word:
            raise StarringError(
                f"What is shown in {place}? Say {place.name}=WORD, such as {place.name}=dog, or write"
                ' {"class_word": "dog"} into its subject.json.'
            )
        found.append(Subject.from_folder(place, str(word)))
    return found


def _methods(methods: Sequence[str]) -> list[str]:
    """Known methods, each once.

    Raises:
        StarringError: otherwise.
    """
    for method in methods:
        find(method)
    if not methods or len(set(methods)) != len(methods):
        given = ", ".join(methods) or "none"
        raise StarringError(f"Name the methods, each once; these are {given}. There are {', '.join(METHODS)}.")
    return list(methods)


def _scorer(
    terms: Terms, methods: Sequence[str], judge: str | None, bundled: bool, preset: Protocol,
    eyes: Mapping[str, str] | None,
) -> Judge:  # fmt: skip
    """Who scores, with all eyes that can be had for the suite's world: see :func:`usual_eyes`.

    Raises:
        StarringError: if they cannot be loaded.
    """
    name = judge or (OWN_WORLD if bundled else "paper")
    backbone = terms.own.of(methods[0])
    recipes = [terms.recipe(methods[0], backbone)]
    recipes += [terms.recipes.get(method) or recipe_for(method, backbone) for method in methods[1:]]
    own = usual_eyes(recipes, name)
    if not own and isinstance(terms.segmenter, str):
        own = {"segmenter": terms.segmenter}
    return load_judge(name, protocol=preset, eyes=eyes or own, device=backbone.device)


def _moved(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of methods that had more to learn from than photographs."""
    told: dict[str, list[str]] = {}
    for run in runs:
        if (motion := run.record.motion) is not None:
            shown = f"{len(motion.digests)} clips for {run.record.subject.name} ({motion.captions[0]})"
            told.setdefault(run.record.recipe.method, []).append(shown)
    return [
        f"{method} learned a motion together with each subject, from clips that no other method saw: {', '.join(who)}."
        for method, who in told.items()
    ]


def _checked(seeds: Sequence[int], train: Mapping[str, Any]) -> None:
    """Refuse what would only be noticed after hours of learning.

    Raises:
        StarringError: for seeds that are no seeds, and for an unknown training setting, with the nearest name.
    """
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise StarringError(f"Seeds must be different whole numbers from 0, at least one; not {list(seeds)}.")
    known = {field.name for field in fields(Train)}
    for key in train:
        if key not in known:
            raise unknown("training setting", key, known)
