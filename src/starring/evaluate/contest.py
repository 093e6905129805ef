"""Methods against each other on one suite: each learns the same subjects, all films share prompts and seeds.

Nothing here knows a method by name: whatever is registered can take part. The backbone of a method is the one that its
recipes were made for, in the bundled world for the suites about that world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone, photographs
from starring.config import Recipe, Sample, Train, to_json
from starring.data.files import write_json
from starring.data.masks import Segmenter
from starring.data.prompts import Role, Suite, load_suite
from starring.data.subject import Subject, slug
from starring.errors import Interrupted, StarringError, unknown
from starring.evaluate.ask import Evaluation, Loader, evaluate, require_real
from starring.evaluate.wishes import settings_of
from starring.learn import Progress as LearnProgress
from starring.learn import learn
from starring.methods import METHODS, OWN_WORLD, find, recipe_for, usual_backbone
from starring.metrics.suite import Judge, load_judge
from starring.run import Run

ABOUT = "contest.json"
"""Who took part, on what, and how it was filmed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the work stands."""

    part: str
    """``learn`` or ``film``."""
    done: float
    """Steps learned of the run at work, or films made."""
    total: float
    """There is to do in it."""
    what: str
    """The run, or the film at work."""


OnProgress = Callable[[Progress], None]


def contest(
    methods: Sequence[str], suite: str, *, subjects: Sequence[Subject] | None = None, limit: int | None = None,
    backbone: Backbone | str | Path | None = None, load: Loader | None = None, seeds: Sequence[int] | None = None,
    sample: Sample | Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None,
    segmenter: Segmenter | str | None = None, judge: Judge | str | None = None, protocol: str | None = None,
    eyes: Mapping[str, str] | None = None, real: str | Path | None = None, correlation: float | None = None,
    folder: str | Path | None = None, on_progress: OnProgress | None = None,
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
        folder: where everything goes; ``leaderboard-SUITE`` by default.
        on_progress: told about every step.

    Raises:
        StarringError: for anything that cannot be done as asked, before anything is learned.
        Interrupted: on Ctrl-C; everything done so far is kept.
        OSError: if the disk is full; everything done so far is kept.
    """
    chosen, known = _methods(methods), load_suite(suite)
    home = Path(folder).expanduser() if folder is not None else Path(f"leaderboard-{slug(suite)}")
    cast = _cast(known, subjects, limit, home / "photographs")
    tell = on_progress or _nobody
    own = _Backbones(backbone, load or (lambda origin: load_backbone(**origin)), own_world(known))
    seeds = list(range(known.seeds) if seeds is None else seeds)
    settings_of(sample)
    _checked(seeds, train or {})
    scorer = judge
    if not isinstance(scorer, Judge):
        name = scorer or (OWN_WORLD if own_world(known) else "paper")
        device = own.of(chosen[0]).device
        scorer = load_judge(name, protocol=protocol or "starring", eyes=eyes, device=device)
    if real is not None:
        require_real(real, scorer)
    runs, labels = list[Run](), list[str]()
    for method in chosen:
        for subject in cast:
            runs.append(_learned(home / "runs", method, subject, own.of(method), train or {}, segmenter, tell))
            labels.append(method)
    asked = {"sample": to_json(sample or {}), "correlation": correlation, "seeds": seeds}
    about = {"suite": suite, "methods": chosen, "subjects": [each.name for each in cast], **asked}
    write_json(home / ABOUT, about)
    return evaluate(
        runs, suite=suite, seeds=seeds, backbone=own.whole, load=own.load,
        sample=sample, correlation=correlation, judge=scorer, real=real, labels=labels,
        subjects=dict(zip([run.name for run in runs], [*cast] * len(chosen), strict=True)), folder=home,
        title=f"{' and '.join(chosen)} on the suite {suite}",
        on_progress=lambda p: tell(Progress(part="film", done=p.share * p.total, total=p.total, what=p.what)),
    )  # fmt: skip


def own_world(suite: Suite) -> bool:
    """Whether a suite is about subjects of the bundled world."""
    return all(role.seed is not None for role in suite.roles)


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


class _Backbones:
    """The backbone of each method, one in memory at a time: a real one fills it."""

    def __init__(self, given: Backbone | str | Path | None, load: Loader, bundled: bool) -> None:
        self.whole = given if isinstance(given, Backbone) else None
        self._load = load
        self._name = None if given is None or isinstance(given, Backbone) else str(given)
        self._bundled = bundled
        self._kept: Backbone | None = None

    def of(self, method: str) -> Backbone:
        """The method's own, or the one that was given for all."""
        if self.whole is not None:
            return self.whole
        return self.load({"name_or_path": self._name or usual_backbone(method, self._bundled)})

    def load(self, origin: Mapping[str, str]) -> Backbone:
        """A backbone by its origin, unless it is there."""
        if self._kept is None or dict(origin) not in (self._kept.origin, {"name_or_path": self._kept.name}):
            self._kept = None
            self._kept = self._load(origin)
        return self._kept


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


def _cast(suite: Suite, given: Sequence[Subject] | None, limit: int | None, folder: Path) -> list[Subject]:
    """The subjects that everybody learns.

    Raises:
        StarringError: if there are none, two have one name, or some are given where the suite has its own.
    """
    if limit is not None and limit < 1:
        raise StarringError(f"The number of subjects is {limit}; a leaderboard needs 1 at least.")
    if own_world(suite):
        if given is not None:
            raise StarringError(f"The suite {suite.name} has subjects of its own, made here. Leave yours out.")
        return [_own(role, folder) for role in suite.roles[:limit]]
    if not given:
        wanted = ", ".join(sorted({role.class_word for role in suite.roles}))
        raise StarringError(
            f"The suite {suite.name} needs photographs: a folder with one folder for each subject. It is about these"
            f" kinds of subjects: {wanted}; others get its prompts as well."
        )
    names = [subject.name for subject in given]
    if len(set(names)) != len(names):
        raise StarringError(f"Subjects must differ in name; these are {', '.join(names)}.")
    return list(given)[:limit]


def _own(role: Role, folder: Path) -> Subject:
    """A subject of the bundled world, photographed."""
    if role.seed is None:
        raise AssertionError("a role of the bundled world has a seed")
    name = f"{role.class_word}-{role.seed}"
    return Subject.from_folder(photographs(folder / name, role.class_word, role.seed), role.class_word, name)


def _learned(
    runs: Path, method: str, subject: Subject, backbone: Backbone, train: Mapping[str, Any],
    segmenter: Segmenter | str | None, tell: OnProgress,
) -> Run:  # fmt: skip
    """The run of a subject: found finished, gone on with, or begun.

    Raises:
        StarringError: if it was begun with other photographs or another recipe.
        Interrupted: on Ctrl-C.
    """
    name = slug(f"{subject.name}-{method}")
    place = runs / name
    begun = place if (place / "config.json").is_file() else None

    def told(progress: LearnProgress) -> None:
        if progress.total and progress.phase != "done":
            what = f"{name}: {progress.phase}"
            tell(Progress(part="learn", done=progress.step, total=progress.total, what=what))

    recipe = _with(recipe_for(method, backbone), train)
    try:
        return learn(
            method, subject, backbone, recipe, runs, resume=begun, name=name, segmenter=segmenter, on_progress=told
        )  # fmt: skip
    except Interrupted as stop:
        raise Interrupted(f"Stopped while learning {name}; it is kept. The same command goes on from there.") from stop
    except StarringError as error:
        if begun is None:
            raise
        raise StarringError(f"{error} For a leaderboard: choose another folder, or remove {begun}.") from error


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


def _with(recipe: Recipe, train: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings in all stages."""
    changes = {key: value for key, value in train.items() if value is not None}
    return replace(recipe, stages=tuple(replace(s, train=replace(s.train, **changes)) for s in recipe.stages))


def _nobody(_: Progress) -> None:
    """Nobody listens."""
