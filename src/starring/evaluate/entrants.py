"""Who takes part in a contest, with whom, and whether all that it takes is there: asked before anybody learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starring.backbones.base import Backbone
from starring.backbones.presets import clips, photographs
from starring.config import Recipe, Sample
from starring.data.masks import Segmenter
from starring.data.motion import Motion
from starring.data.prompts import Role, Suite
from starring.data.subject import Subject, slug
from starring.errors import Interrupted, StarringError
from starring.learn import Progress, learn
from starring.learn.clips import lasting, seer_of
from starring.learn.identity import identity_of
from starring.learn.pairs import learned_before
from starring.learn.stages import require_backbones
from starring.methods import build, find, recipe_for, usual_backbone
from starring.run import Run

Load = Callable[[Mapping[str, str]], Backbone]
"""Loads a backbone from the arguments of ``load_backbone``."""
Tell = Callable[[str, Progress], None]
"""Hears how a run learns: its name, and where it stands."""


def own_world(suite: Suite) -> bool:
    """Whether a suite is about subjects of the bundled world."""
    return all(role.seed is not None for role in suite.roles)


def cast_of(suite: Suite, given: Sequence[Subject] | None, limit: int | None, folder: Path) -> list[Subject]:
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


def _named(role: Role) -> str:
    return f"{role.class_word}-{role.seed}"


def _own(role: Role, folder: Path) -> Subject:
    """A subject of the bundled world, photographed."""
    if role.seed is None:
        raise AssertionError("a role of the bundled world has a seed")
    place = photographs(folder / _named(role), role.class_word, role.seed)
    return Subject.from_folder(place, role.class_word, _named(role))


class Backbones:
    """The backbone of each method, one in memory at a time: a real one fills it."""

    def __init__(self, given: Backbone | str | Path | None, load: Load, bundled: bool) -> None:
        """Keep what was asked for.

        Args:
            given: one for all methods, or its name; ``None`` for each method's own.
            load: loads them.
            bundled: whether each method's own is one that ships with its world.
        """
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


class Motions:
    """The motion of each subject, for methods that learn one as well."""

    def __init__(self, suite: Suite, cast: Sequence[Subject], given: str | Path | None, folder: Path) -> None:
        """Read what was given.

        Args:
            suite: the bundled world's say how each of their subjects moves.
            cast: the subjects.
            given: clips of one motion for all, or a folder with one of clips for each subject.
            folder: where the bundled world's clips go.

        Raises:
            StarringError: if clips cannot be read, or only some of the subjects have a folder in there.
        """
        self._suite, self._folder = suite.name, folder
        self._roles = {_named(role): role for role in suite.roles if role.seed is not None and role.motion}
        self._given = _motions(Path(given).expanduser(), [subject.name for subject in cast]) if given else {}

    def of(self, subject: Subject, sample: Sample) -> Motion:
        """The clips for a subject.

        Raises:
            StarringError: if nobody shows it a motion.
        """
        if subject.name in self._given:
            return self._given[subject.name]
        role = self._roles.get(subject.name)
        if role is None or role.seed is None:
            raise StarringError(
                f"it learns a motion together with the subject, and the suite {self._suite} shows none. Give clips of"
                " one with --motion, or a folder with a folder of clips for each subject."
            )
        place = self._folder / f"{subject.name}-{slug(role.motion)}-{sample.frames}"
        return Motion.read(clips(place, role.class_word, role.seed, role.motion, sample.frames, sample.fps))


def _motions(folder: Path, names: Sequence[str]) -> dict[str, Motion]:
    """Clips by subject.

    Raises:
        StarringError: as :class:`Motions`.
    """
    there = [name for name in names if (folder / name).is_dir()]
    if not there:
        return dict.fromkeys(names, Motion.read(folder))
    if lacking := [name for name in names if name not in there]:
        raise StarringError(f"{folder} has clips for {', '.join(there)}, and none for {', '.join(lacking)}. Add them.")
    return {name: Motion.read(folder / name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Terms:
    """What all methods learn under."""

    runs: Path
    """Where the runs go."""
    own: Backbones
    """Each method's backbone."""
    motions: Motions
    """Each subject's motion."""
    recipes: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])
    """By method, instead of its own for its backbone."""
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of :class:`starring.config.Train` that replace those of every stage."""
    segmenter: Segmenter | str | None = None
    """Cuts the masks; by default the one that suits the backbone."""

    def recipe(self, method: str, backbone: Backbone) -> Recipe:
        """How a method learns, with the other settings in all stages."""
        own = self.recipes.get(method) or recipe_for(method, backbone)
        changes = {key: value for key, value in self.train.items() if value is not None}
        return replace(own, stages=tuple(replace(s, train=replace(s.train, **changes)) for s in own.stages))

    def motion(self, method: str, subject: Subject, recipe: Recipe, backbone: Backbone) -> Motion | None:
        """The motion that a method learns with a subject, if it learns one."""
        return self.motions.of(subject, recipe.sample or backbone.sample) if find(method).moving else None

    def begun(self, method: str, subject: Subject) -> Path | None:
        """The folder of the method's run of a subject, if there is one."""
        place = self.runs / slug(f"{subject.name}-{method}")
        return place if (place / "config.json").is_file() else None


def require_ready(terms: Terms, methods: Sequence[str], cast: Sequence[Subject]) -> None:
    """Refuse what would only be noticed after the methods before have learned: all complaints at once.

    Backbones are loaded one after the other, and let go of. Methods all of whose runs are finished are not asked.

    Raises:
        StarringError: if a backbone or what a method learned once is not there, a method does not fit its backbone, a
            motion is missing or too short, or a reward does not find the subject on its photographs.
    """
    complaints: list[str] = []
    for method in methods:
        places = [terms.begun(method, subject) for subject in cast]
        if all(place is not None and Run.open(place).finished for place in places):
            continue
        try:
            _ready(terms, method, cast)
        except StarringError as error:
            complaints.append(f"{method}: {error}")
    if complaints:
        others = [method for method in methods if not any(c.startswith(f"{method}: ") for c in complaints)]
        rest = f" {' and '.join(others)} could." if others else ""
        raise StarringError(f"Nothing was learned, since not all methods can take part.{rest} {' '.join(complaints)}")


def _ready(terms: Terms, method: str, cast: Sequence[Subject]) -> None:
    """One method; see :func:`require_ready`."""
    backbone = terms.own.of(method)
    recipe = terms.recipe(method, backbone)
    if find(method).paired:
        learned_before(recipe, None, backbone)
        return
    build(method, backbone, dict(recipe.options))
    require_backbones(recipe, backbone)
    for subject in cast:
        lasting(recipe, terms.motion(method, subject, recipe, backbone), backbone)
        identity_of(subject, backbone, recipe, None, terms.segmenter, lambda _: None)
    if find(method).moving:
        seer_of(recipe, backbone)


def learned(terms: Terms, method: str, subject: Subject, tell: Tell) -> Run:
    """The run of a subject: found finished, gone on with, or begun.

    Raises:
        StarringError: if it was begun with other photographs or another recipe.
        Interrupted: on Ctrl-C.
    """
    name, begun = slug(f"{subject.name}-{method}"), terms.begun(method, subject)
    backbone = terms.own.of(method)
    recipe = terms.recipe(method, backbone)
    try:
        return learn(
            method, subject, backbone, recipe, terms.runs, resume=begun, name=name, segmenter=terms.segmenter,
            motion=terms.motion(method, subject, recipe, backbone), on_progress=lambda progress: tell(name, progress),
        )  # fmt: skip
    except Interrupted as stop:
        raise Interrupted(f"Stopped while learning {name}; it is kept. The same command goes on from there.") from stop
    except StarringError as error:
        if begun is None:
            raise
        raise StarringError(f"{error} For a leaderboard: choose another folder, or remove {begun}.") from error
