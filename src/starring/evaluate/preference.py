"""Two runs side by side for people's eyes: films beside each other, and a blind page to vote on."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starring.backbones.base import Backbone
from starring.config import Sample, to_json
from starring.data.files import write_json, write_text
from starring.data.subject import Subject
from starring.data.video import write_video
from starring.errors import Interrupted, StarringError
from starring.evaluate.ask import Loader, Progress, Watch, Wish, backbone_of, orders_of
from starring.evaluate.contest import ABOUT
from starring.evaluate.page import photograph
from starring.evaluate.shots import Ledger, Shot, Studio, as_pixels
from starring.evaluate.wishes import Task, find_runs, settings_of, tasks_of
from starring.metrics.ballot import Duel, ballot_page
from starring.metrics.preference import Ballot, Wins, preferred, read_ballots, tally
from starring.metrics.table import Table
from starring.run import Run

KEY = "key.json"
"""Which side is which: nobody who votes should read it before."""
GAP = 2 / 32
"""Between two films side by side, as a share of their width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What came out."""

    folder: Path
    """Holds everything."""
    page: Path
    """``vote.html``, for those who vote."""
    films: list[Path]
    """Side by side, the first run on the left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What people said."""

    names: tuple[str, str]
    """Both sides."""
    wins: list[Wins]
    """One for each question, of the first side."""
    ballots: list[Ballot]
    """What was counted."""
    table: Table
    """The same as text."""
    results: Path
    """``preference.json``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Two names, and for each subject the runs of both."""

    names: tuple[str, str]
    """What the sides are called."""
    runs: tuple[tuple[Run, Run], ...]
    """One pair for each subject."""
    about: Mapping[str, Any] | None = None
    """How a leaderboard filmed them; its films are used again."""


def sides_of(one: str | Path, other: str | Path, leaderboard: str | Path | None = None) -> Sides:
    """Two runs of one subject, or two methods of a leaderboard.

    Args:
        one: a run's folder, or a method's name where a leaderboard is given.
        other: the same.
        leaderboard: the folder of one.

    Raises:
        StarringError: if they are not there, are one and the same, or show different subjects.
    """
    if leaderboard is None:
        first, second = Run.open(one), Run.open(other)
        if first.folder.resolve() == second.folder.resolve():
            raise StarringError(f"{first.folder} cannot be compared with itself. Name two runs.")
        digests = [set(run.record.subject.digests.values()) for run in (first, second)]
        if not digests[0] & digests[1]:
            raise StarringError(
                f"{first.name} and {second.name} have no photograph in common, so nobody could compare."
            )
        names = (first.name, second.name) if first.name != second.name else (str(first.folder), str(second.folder))
        return Sides(names=names, runs=((first, second),))
    home = Path(leaderboard).expanduser()
    path = home / ABOUT
    if not path.is_file():
        raise StarringError(
            f"{home} holds no leaderboard ({ABOUT}). `starring evaluate --suite ... --methods ...` makes it."
        )
    about = json.loads(path.read_text(encoding="utf-8"))
    names = str(one), str(other)
    for name in names:
        if name not in about["methods"]:
            raise StarringError(f"'{name}' did not take part in {home}. There are {', '.join(about['methods'])}.")
    if names[0] == names[1]:
        raise StarringError(f"'{one}' cannot be compared with itself. Name two methods.")
    places = [[home / "runs" / f"{subject}-{name}" for name in names] for subject in about["subjects"]]
    return Sides(names=names, runs=tuple((Run.open(a), Run.open(b)) for a, b in places), about=about)


def compare(
    sides: Sides, *, suite: str | Path | Sequence[str] | None = None, seeds: Sequence[int] | None = None,
    backbone: Backbone | str | Path | None = None, load: Loader | None = None,
    sample: Sample | Mapping[str, Any] | None = None, subjects: Mapping[str, Subject] | None = None, seed: int = 0,
    folder: str | Path = "comparison", leaderboard: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Comparison:  # fmt: skip
    """Film the same prompts with both, and write films side by side and a page to vote on.

    Films are kept by what they depend on; those of a leaderboard are used again. The page embeds all films and says
    nowhere whose they are: that is in ``key.json``, which stays with whoever counts.

    Args:
        sides: :func:`sides_of`.
        suite: as in :func:`starring.evaluate.evaluate`; a leaderboard's own by default.
        seeds: one pair of films for each prompt and seed.
        backbone: as in :func:`starring.evaluate.evaluate`.
        load: loads the runs' own backbones.
        sample: a whole ``Sample``, or single settings that replace the runs' own.
        subjects: photographs by the run's name, where the run's own folder is gone.
        seed: shuffles sides and order.
        folder: where everything goes.
        leaderboard: where the films of a leaderboard are.
        on_progress: told about every denoising step.

    Raises:
        StarringError: if the films would differ in length, rate or size, or the folder holds another comparison.
        Interrupted: on Ctrl-C; everything done so far is kept.
    """
    home, about = Path(folder).expanduser(), sides.about or {}
    seeds = list(seeds if seeds is not None else about.get("seeds", (0,)))
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise StarringError(f"Seeds must be different whole numbers from 0, at least one; not {seeds}.")
    wish = Wish(
        seeds=seeds, backbone=backbone, sample=settings_of(about.get("sample") if sample is None else sample),
        correlation=about.get("correlation"), renders={}, load=load,
    )  # fmt: skip
    runs = [run for pair in sides.runs for run in pair]
    given = {name: subject for name, subject in (subjects or {}).items() if name in {run.name for run in runs}}
    tasks = tasks_of(find_runs(runs), suite if suite is not None else about.get("suite"), given, None)
    ledger = Ledger.open(home if leaderboard is None else Path(leaderboard).expanduser())
    shots = _filmed(tasks, wish, ledger, on_progress)
    pairs = [
        (task, left, right)
        for task, first, second in zip(tasks[::2], shots[::2], shots[1::2], strict=True)
        for left, right in zip(first, second, strict=True)
    ]
    return _written(home, sides, pairs, seed)


def count(folder: str | Path, files: Sequence[str | Path]) -> Counted:
    """Count votes, and write the counts beside the key.

    Args:
        folder: of the comparison.
        files: what the page saved, one file for each person.

    Raises:
        StarringError: if there is no comparison, or a file is missing, damaged or of another comparison.
    """
    home = Path(folder).expanduser()
    path = home / KEY
    if not path.is_file():
        raise StarringError(f"{home} holds no comparison ({KEY}). Name the folder that `starring compare` made: --out.")
    key = json.loads(path.read_text(encoding="utf-8"))
    names = key["names"][0], key["names"][1]
    flipped = [pair["left"] == 1 for pair in key["pairs"]]
    ballots = read_ballots(files, key["comparison"], len(flipped))
    wins = tally(ballots, flipped)
    table = preferred(names, wins, ballots)
    results = home / "preference.json"
    votes = [
        {"rater": b.rater, "votes": [{"pair": p, "question": q, "choice": c} for (p, q), c in b.votes.items()]}
        for b in ballots
    ]
    write_json(
        results, {"comparison": key["comparison"], "names": names, "wins": [to_json(w) for w in wins], "ballots": votes}
    )  # fmt: skip
    return Counted(names=names, wins=wins, ballots=ballots, table=table, results=results)


def _filmed(
    tasks: Sequence[Task], wish: Wish, ledger: Ledger, tell: Callable[[Progress], None] | None
) -> list[list[Shot]]:
    """Every run's films, customized ones only."""
    watch = Watch(total=len(wish.seeds) * sum(len(task.prompts) for task in tasks), tell=tell)
    studio, loaded = Studio(ledger, None, watch.step), dict[Any, Backbone]()
    found: list[list[Shot]] = []
    try:
        for task in tasks:
            backbone = backbone_of(wish, task.run, loaded)
            orders = [order for order in orders_of(task, backbone, wish) if order.customized]
            found.append([watch.count(studio.shot(order, backbone, None)) for order in orders])
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped after {watch.done} of {watch.total} films, which are kept in {ledger.folder}. "
            "The same command goes on from there."
        ) from error
    return found


def _written(home: Path, sides: Sides, pairs: Sequence[tuple[Task, Shot, Shot]], seed: int) -> Comparison:
    """Key, page and films side by side.

    Raises:
        StarringError: if two films differ in length, rate or size, or there is another comparison.
    """
    for _, one, other in pairs:
        kinds = [f"{s.load().shape[2]}x{s.load().shape[1]}x{s.count} at {s.fps:g} fps" for s in (one, other)]
        if kinds[0] != kinds[1]:
            raise StarringError(
                f"'{one.prompt}' was filmed as {kinds[0]} by {one.run} and as {kinds[1]} by {other.run}: anybody would"
                " know them apart. Film both alike, with --frames, --height, --width and --fps."
            )
    dice = random.Random(seed)
    order = dice.sample(range(len(pairs)), len(pairs))
    lefts = [dice.randrange(2) for _ in pairs]
    digests = [[hashlib.sha256(shot.load().tobytes()).hexdigest() for shot in pair[1:]] for pair in pairs]
    values: dict[str, Any] = {
        "names": list(sides.names),
        "pairs": [
            {"prompt": pairs[i][1].prompt, "seed": pairs[i][1].seed, "runs": [s.run for s in pairs[i][1:]],
             "films": digests[i], "left": left}
            for i, left in zip(order, lefts, strict=True)
        ],
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    key, page = home / KEY, home / "vote.html"
    if key.is_file() and json.loads(key.read_text(encoding="utf-8")).get("comparison") != name:
        raise StarringError(f"{home} holds another comparison, for which people may have voted. Choose another --out.")
    home.mkdir(parents=True, exist_ok=True)
    duels = [_duel(*pairs[i], left) for i, left in zip(order, lefts, strict=True)]
    films = [_beside(home / "side-by-side", number, *pair) for number, pair in enumerate(pairs)]
    write_json(key, {"comparison": name, **values})
    write_text(page, ballot_page(name, duels))
    return Comparison(folder=home, page=page, films=films)


def _duel(task: Task, one: Shot, other: Shot, left: int) -> Duel:
    shown = (one, other) if left == 0 else (other, one)
    frames = one.load()
    return Duel(
        said=one.said, references=[photograph(image) for image in task.subject.images[:6]], size=frames.shape[2:0:-1],
        left=_anonymous(shown[0]), right=_anonymous(shown[1]),
    )  # fmt: skip


def _anonymous(shot: Shot) -> bytes:
    """The film without what it says about itself: an mp4 names the method that made it."""
    path = shot.film.with_suffix(".anonymous.mp4")
    if not path.is_file():
        write_video(path, as_pixels(shot.load()), fps=shot.fps)
    return path.read_bytes()


def _beside(folder: Path, number: int, task: Task, one: Shot, other: Shot) -> Path:
    """Both films in one, the first side on the left."""
    left, right = one.load(), other.load()
    width = max(2, round(left.shape[2] * GAP) // 2 * 2)
    gap = np.full((*left.shape[:2], width, 3), 255, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:03d}-{task.run.record.subject.name}-seed{one.seed}.mp4"
    if not path.is_file():
        write_video(path, as_pixels(np.concatenate([left, gap, right], axis=2)), fps=one.fps, title=one.prompt)
    return path
