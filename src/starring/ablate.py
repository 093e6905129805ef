"""A paper's component table on one's own subjects: learn each once, film it with every component on or off, score.

The rows are data that a method declares (:attr:`starring.methods.base.Method.ablation`): options, sampling and reward.
What was learned is shared by all rows, but for those with options on which learning itself depends
(:attr:`~starring.methods.base.Method.shaping`). All share prompts, seeds and initial noise, so they are compared in
pairs.

The films of a subject and their scores are kept in its run, in a ledger of their own. So several processes can make one
table in one folder, each with other subjects; the call with all of them then finds everything made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, Reward, Sample, to_json
from starring.data import prompts as suites
from starring.data.files import write_json, write_text
from starring.data.masks import Segmenter
from starring.data.motion import Motion
from starring.data.subject import Subject, slug
from starring.errors import Interrupted, StarringError
from starring.evaluate.page import png, strip
from starring.evaluate.shots import RESULTS, Ledger, Order, Shot, Studio, unrolled
from starring.evaluate.wishes import Task, default_suite, find_judge, settings_of, tasks_of
from starring.generate import Progress as FilmProgress
from starring.learn import Progress as LearnProgress
from starring.learn import learn, resume
from starring.methods import METHODS, build, find, recipe_for
from starring.metrics.report import Picture, Report, Section, html
from starring.metrics.statistics import Estimate, estimate, one_protocol
from starring.metrics.suite import METRICS, Judge
from starring.metrics.table import Table, as_markdown, plus_minus
from starring.perception.encoders import ImageEncoder
from starring.reward import Eyes, eyes_for, options_of
from starring.run import Run

VERSION = 1
"""Of the results' layout."""
FILMS = "ablation"
"""Where a subject's films are, in its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a component table."""

    name: str
    """Which components are on."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it changes in the run's options; if learning depends on any of them, it is learned for itself."""
    sample: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it changes in how films are drawn."""
    reward: Reward | None = None
    """How its films are optimised afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the work stands."""

    part: str
    """``learn`` or ``film``."""
    done: float
    """Steps learned, or films made (with the part of the one at work)."""
    total: float
    """Of this subject's learning, or of all films."""
    what: str
    """The subject, or row, subject and prompt at work."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """What came out."""

    folder: Path
    """Holds everything: ``runs/`` with a subject's films in each, ``results.json``, ``table.md``, ``report.html``."""
    rows: tuple[Row, ...]
    """The first is the baseline."""
    scores: Mapping[str, Mapping[str, Estimate]]
    """Mean and standard error by row and score. The error is that of the subjects' means, since films of one subject
    depend on each other; of a single subject, that of its films."""
    gains: Mapping[str, Mapping[str, Estimate]]
    """The same of the difference from the baseline's film of equal subject, prompt and seed."""
    tables: tuple[Table, Table]
    """Both as text."""
    shots: Mapping[str, list[Shot]]
    """Every film, by row."""
    results: Path
    """``results.json``."""
    markdown: Path
    """``table.md``."""
    report: Path
    """``report.html``."""


def rows_of(
    method: str, recipe: Recipe | None = None, reward: Reward | Mapping[str, Any] | bool = True
) -> tuple[Row, ...]:
    """The component table that a method declares.

    Args:
        method: its name.
        recipe: has the reward's defaults.
        reward: of the rows that have one: the defaults, or other options.

    Raises:
        StarringError: for an unknown method, for one that declares none, and for an unknown option of a reward.
    """
    declared = find(method).ablation
    if not declared:
        some = ", ".join(name for name, kind in METHODS.items() if kind.ablation)
        raise StarringError(f"'{method}' declares no component table. These do: {some or 'none'}.")
    return tuple(
        Row(
            name=name, options=changes.get("options", {}), sample=changes.get("sample", {}),
            reward=options_of(reward, recipe.reward if recipe else None) if changes.get("reward") else None,
        )
        for name, changes in declared.items()
    )  # fmt: skip


def ablate(
    method: str, subjects: Sequence[Subject], backbone: Backbone | None = None, recipe: Recipe | None = None, *,
    motion: Motion | None = None, tokens: str | Path | None = None, rows: Sequence[Row] | None = None,
    suite: str | Path | Sequence[str] | None = None, seeds: Sequence[int] = (0,),
    sample: Sample | Mapping[str, Any] | None = None, judge: Judge | str | None = None,
    segmenter: Segmenter | str | None = None, encoder: ImageEncoder | str | None = None,
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
        suite: as in :func:`starring.evaluate.evaluate`; by default the method's own suite, where it has one.
        seeds: one film for each row, subject, prompt and seed.
        sample: a whole ``Sample``, or single settings that replace the recipe's, in all rows.
        judge: who scores; by default the one that suits the backbone.
        segmenter: who looks for the subject, in learning and for rewards; by default the one that suits the backbone.
        encoder: who looks for rewards, likewise.
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
    _check_results(home)
    backbone, tell = backbone or load_backbone(), on_progress or _nobody
    if rows is None:
        chosen = rows_of(method, recipe or recipe_for(method, backbone))
    given = {"motion": motion, "tokens": tokens, "segmenter": segmenter}
    runs = {
        row.name: [_learned(home / "runs", method, s, backbone, recipe, row, given, tell) for s in subjects]
        for row in chosen
    }
    first = next(iter(runs.values()))
    seen = dict(zip([run.name for run in first], subjects, strict=True))
    tasks = tasks_of(first, suite if suite is not None else _own_suite(method, first[0]), seen, names)
    looking = [
        eyes_for(task.subject, backbone, segmenter, encoder) if any(row.reward is not None for row in chosen) else None
        for task in tasks
    ]
    scorer = find_judge(judge, first[0], backbone)
    ledgers = {run.name: Ledger.open(run.folder / FILMS) for each in runs.values() for run in each}
    owners = {run.name: name for each in runs.values() for run, name in zip(each, names, strict=True)}
    orders = [
        (row, own, order)
        for i, task in enumerate(tasks)
        for row in chosen
        for own in [replace(task, run=runs[row.name][i])]
        for order in _orders(row, own, backbone, settings, seeds, looking[i])
    ]
    shots = _filmed(orders, chosen, backbone, ledgers, scorer, tell)
    return _told(method, chosen, tasks, owners, shots, home, scorer)


def _check_results(home: Path) -> None:
    """Refuse to write over a file that is no component table.

    Raises:
        StarringError: if there is one.
    """
    path = home / RESULTS
    try:
        ours = not path.is_file() or json.loads(path.read_text(encoding="utf-8"))["version"] == VERSION
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        ours = False
    if not ours:
        raise StarringError(f"{path} holds no component table of this layout. Move it away, then try again.")


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
    if own:
        begun, recipe = begun.with_name(f"{begun.name}-{slug(row.name)}"), recipe or recipe_for(method, backbone)
        recipe = replace(recipe, options={**recipe.options, **{key: row.options[key] for key in own}})
    if not (begun / "config.json").is_file():
        return learn(method, subject, backbone, recipe, runs, name=begun.name, **more)
    if recipe is not None and more["tokens"] is None:
        return learn(method, subject, backbone, recipe, resume=begun, **more)
    return resume(begun, backbone, subject, **{key: value for key, value in more.items() if key != "tokens"})


def _own_suite(method: str, run: Run) -> str:
    """The prompts that a method's paper was evaluated with, in the words of the run's backbone."""
    usual = default_suite(run)
    own = f"{method}-miniature" if usual == "miniature" else method
    return own if own in suites.suites() else usual


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
    ledgers: Mapping[str, Ledger], judge: Judge, tell: OnProgress,
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
    references = {
        task.run.name: judge.references(task.subject.images) for task in {id(t): t for _, t, _ in orders}.values()
    }
    try:
        for row, task, order in orders:
            now = f"{row.name}, {task.label}: {order.prompt}"
            shots[row.name].append(studios[task.run.name].shot(order, backbone, references[task.run.name]))
            done += 1
            tell(Progress(part="film", done=done, total=len(orders), what=now))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped after {done} of {len(orders)} films, which are kept. The same command goes on from there."
        ) from error
    return shots


def _told(
    method: str, rows: tuple[Row, ...], tasks: Sequence[Task], owners: Mapping[str, str],
    shots: dict[str, list[Shot]], home: Path, judge: Judge,
) -> Ablation:  # fmt: skip
    """Write results, table and report."""
    baseline = shots[rows[0].name]
    paper = find(method).title.split(":")[0]
    every = [shot for films in shots.values() for shot in films]
    known = [key for key in find(method).columns if any(key in shot.scores for shot in every)]
    shown = [k for k in known if all(any(s.value(k) is not None for s in films) for films in shots.values())]
    for key in shown:
        one_protocol([shot.scores[key] for shot in every if key in shot.scores])
    scores = {name: {key: _mean(films, key) for key in shown} for name, films in shots.items()}
    others = {name: films for name, films in shots.items() if films is not baseline}
    gains = {name: {key: _mean(films, key, baseline) for key in shown} for name, films in others.items()}
    over = "subjects" if len(tasks) > 1 else "films"
    numbers = {"subject": len(tasks), "prompt": len(tasks[0].prompts), "seed": len({s.seed for s in baseline})}
    count = ", ".join(f"{number} {what}{'s' if number > 1 else ''}" for what, number in numbers.items())
    tables = (
        _table(f"The components of {paper}", shown, scores, f"Mean ± one standard error over {over}; {count}."),
        _table(f"Difference from {rows[0].name}", shown, gains, "Of films with equal subject, prompt and seed."),
    )
    results, markdown, report = home / RESULTS, home / "table.md", home / "report.html"
    films = {
        name: [
            {"subject": f"{owners[s.run]}-{method}", "prompt": s.prompt, "seed": s.seed, "seconds": s.seconds,
             "scores": {key: s.scores[key].value for key in shown if key in s.scores}}
            for s in each
        ]
        for name, each in shots.items()
    }  # fmt: skip
    write_json(
        results,
        {
            "version": VERSION, "method": method, "rows": [to_json(row) for row in rows],
            "subjects": [task.label for task in tasks], "estimates": to_json(scores), "gains": to_json(gains),
            "judge": judge.protocol, "films": films,
        },
    )  # fmt: skip
    write_text(markdown, "\n\n".join(as_markdown(table) for table in tables) + "\n")
    page = Report(
        title=tables[0].title, lead=f"{count}: {sum(map(len, shots.values()))} films.", rows=(), tables=tables,
        sections=_sections(tasks, owners, shots), facts={"Judge": judge.protocol},
    )  # fmt: skip
    write_text(report, html(page))
    return Ablation(
        folder=home, rows=rows, scores=scores, gains=gains, tables=tables, shots=shots, results=results,
        markdown=markdown, report=report,
    )  # fmt: skip


def _mean(films: Sequence[Shot], key: str, baseline: Sequence[Shot] = ()) -> Estimate:
    """A score, or its difference from the baseline's films in the same order: mean over each subject, then over all."""
    values: dict[str, list[float]] = {}
    for i, shot in enumerate(films):
        value, base = shot.value(key), baseline[i].value(key) if baseline else 0.0
        if value is not None and base is not None:
            values.setdefault(shot.run, []).append(value - base)
    subjects = list(values.values())
    return estimate(subjects[0] if len(subjects) == 1 else [estimate(each).mean for each in subjects])


def _table(title: str, shown: Sequence[str], numbers: Mapping[str, Mapping[str, Estimate]], note: str) -> Table:
    cells = [(name, *(plus_minus(v[key], METRICS[key].digits) for key in shown)) for name, v in numbers.items()]
    columns = ("row", *(METRICS[key].title for key in shown))
    return Table(title=title, columns=columns, rows=tuple(cells), notes=(note,))


def _sections(tasks: Sequence[Task], owners: Mapping[str, str], shots: Mapping[str, list[Shot]]) -> list[Section]:
    """For each subject, frames of every row's film of the same prompt and seed, below each other."""
    found: list[Section] = []
    for task in tasks:
        for prompt in task.prompts:
            pictures: list[Picture] = []
            for name, films in shots.items():
                shot = next(s for s in films if (owners[s.run], s.prompt) == (task.label, prompt))
                with Image.open(shot.frames) as sheet:
                    frames = [Image.fromarray(frame) for frame in unrolled(sheet, shot.count)]
                pictures.append(Picture(png=png(strip(frames)), caption=name, pixels=True))
            found.append(Section(title=f"{task.label}: {prompt}", wide=True, pictures=pictures))
    return found


def _nobody(_: Progress) -> None:
    """Nobody listens."""
