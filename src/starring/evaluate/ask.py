"""All films made and scored; the table and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Sample, to_json
from starring.data.files import write_text
from starring.data.masks import Segmenter
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.evaluate.board import Board, judged, real_films
from starring.evaluate.page import page
from starring.evaluate.shots import Ledger, Order, Shot, Studio
from starring.evaluate.taught import unfair
from starring.evaluate.wishes import Task, find_judge, find_runs, home_of, settings_of, tasks_of
from starring.generate import Progress as FilmProgress
from starring.methods import build
from starring.metrics.catalogue import IDENTITY, legend, short
from starring.metrics.report import Section, html
from starring.metrics.statistics import estimate, one_protocol
from starring.metrics.suite import Judge, References
from starring.metrics.table import Ceiling, Measured, Row, Table, all_rows, as_table, comparable
from starring.run import Run

Renders = Mapping[str, Sequence[tuple[str, Tensor]]]
"""Real films of each run's subject, by the run's name: a prompt and pixels ``3 F H W`` in [-1, 1]."""
Origin = tuple[tuple[str, str], ...]
"""What a backbone is loaded with, in a form that can be a key."""
Loader = Callable[[Mapping[str, str]], Backbone]
"""Loads a backbone from the arguments of ``load_backbone``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the work stands."""

    done: int
    """Films made and scored."""
    total: int
    """Films in all."""
    step: int
    """Denoising steps done of the film at work."""
    steps: int
    """Its denoising steps."""
    what: str
    """The run and the prompt at work."""

    @property
    def share(self) -> float:
        """How much is done, in [0, 1]."""
        return (self.done + (self.step / self.steps if self.steps else 0)) / max(1, self.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What came out."""

    folder: Path
    """Holds everything: ``films/``, ``results.json``, ``report.html``."""
    rows: list[Row]
    """The table as numbers: groups of runs first, then every run."""
    table: Table
    """The table as text."""
    shots: list[Shot]
    """Every film with its scores: for each run, prompt and seed the customized one and then the floor."""
    notes: tuple[str, ...]
    """What a reader must know to judge the numbers."""
    board: Board
    """Methods side by side, motion that was kept, cost, distances from real films."""
    results: Path
    """``results.json``."""
    report: Path
    """``report.html``, one file that shows everything."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Run -> what it is averaged with, by default its method."""


def evaluate(
    runs: Run | str | Path | Sequence[Run | str | Path], *, suite: str | Path | Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1), backbone: Backbone | str | Path | None = None,
    sample: Sample | Mapping[str, Any] | None = None, correlation: float | None = None,
    judge: Judge | str | None = None, protocol: str | None = None, eyes: Mapping[str, str] | None = None,
    real: str | Path | None = None, subjects: Mapping[str, Subject] | None = None, renders: Renders | None = None,
    load: Loader | None = None, labels: Sequence[str] | None = None, folder: str | Path | None = None,
    title: str | None = None, sections: Sequence[Section] = (), remarks: Sequence[str] = (),
    segmenter: Segmenter | str | None = None, on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:  # fmt: skip
    """Film a suite of prompts with and without what runs have learned, and score all films.

    The floor films the same prompts with the class word, the same seeds and the same initial noise. Films and scores
    are kept by what they depend on: the same call goes on where it was stopped, and repeats only what has changed.

    Args:
        runs: finished runs or their folders.
        suite: a suite's name, a file of prompts, or the prompts themselves; ``{class_word}`` is filled in. By default
            ``miniature`` or ``vcd``, whichever suits the first run's backbone.
        seeds: one film for each prompt and seed.
        backbone: one of the runs' family; each run's own by default.
        sample: a whole ``Sample``, or single settings that replace the run's own.
        correlation: gamma of the noise prior for both; the run's own by default.
        judge: who scores, or a judge's name (``miniature``, ``paper``, a folder); by default the one that suits the
            first run's backbone.
        protocol: how a paper measures, a name in :data:`starring.metrics.protocols.PROTOCOLS`; by default every score
            that the eyes at hand can give.
        eyes: what a person brings besides, such as ``{"aesthetic": "sa_0_4_vit_l_14_linear.pth"}``; see
            :func:`starring.metrics.suite.load_judge`.
        real: a folder of real films for FVD, which needs ``eyes={"films": "i3d_torchscript.pt"}``.
        subjects: the photographs by the run's name, where the run's own folder is gone.
        renders: real films of the subjects, which then are the ceiling instead of the photographs.
        load: loads the runs' own backbones; says where they compute.
        labels: one for each run: runs of one label are averaged; the method's name by default.
        folder: where films, results and report go; in the run by default, beside the runs for several.
        title: the report's heading.
        sections: further parts of the report.
        remarks: what a reader must know besides.
        segmenter: cuts the subject out for methods that film beside its photographs; by default whoever suits the
            backbone.
        on_progress: told about every denoising step.

    Raises:
        StarringError: for anything that cannot be done as asked, before the first film is begun.
        Interrupted: on Ctrl-C; everything done so far is kept.
        OSError: if the disk is full; everything done so far is kept.
    """
    opened = find_runs(runs)
    tasks = tasks_of(opened, suite, subjects or {}, labels)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise StarringError(f"Seeds must be different whole numbers from 0, at least one; not {list(seeds)}.")
    settings = settings_of(sample)
    chosen = find_judge(judge, opened, backbone, protocol, eyes)
    if real is not None:
        require_real(real, chosen)
    ledger = Ledger.open(home_of(opened, suite, folder))
    wish = Wish(
        seeds=seeds, backbone=backbone, sample=settings, correlation=correlation, renders=renders or {}, load=load,
        segmenter=segmenter,
    )  # fmt: skip
    found = carried_out(tasks, wish, chosen, ledger, on_progress)
    found.notes[:0] = remarks
    return told(tasks, found, chosen, ledger, title or _title(tasks), sections, real)


def require_real(real: str | Path, judge: Judge) -> None:
    """Refuse to promise an FVD without real films or without a network that encodes films.

    Raises:
        StarringError: in that case.
    """
    real_films(real)
    if judge.films is None:
        raise StarringError("FVD needs a video network by path: eyes films=i3d_torchscript.pt (StyleGAN-V's export).")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Wish:
    """How all runs are filmed; see :func:`evaluate`."""

    seeds: Sequence[int]
    """One film for each prompt and seed."""
    backbone: Backbone | str | Path | None
    """Instead of each run's own."""
    sample: Sample | dict[str, Any]
    """Instead of each run's own, or settings that replace some of it."""
    correlation: float | None
    """Instead of each run's own."""
    renders: Renders
    """Real films, by the run's name."""
    load: Loader | None = None
    """Instead of ``load_backbone``."""
    segmenter: Segmenter | str | None = None
    """Cuts the subject out where films are made beside its photographs."""


@dataclass(kw_only=True, slots=True)
class Found:
    """What filming and scoring gave."""

    measured: list[Measured] = field(default_factory=list[Measured])
    """All scores, run by run."""
    shots: list[Shot] = field(default_factory=list[Shot])
    """All films."""
    notes: list[str] = field(default_factory=list[str])
    """What a reader must know."""


def carried_out(
    tasks: Sequence[Task], wish: Wish, judge: Judge, ledger: Ledger, on_progress: Callable[[Progress], None] | None
) -> Found:
    """Film and score everything.

    Raises:
        Interrupted: on Ctrl-C; everything done so far is kept.
    """
    watch = Watch(total=2 * len(wish.seeds) * sum(len(task.prompts) for task in tasks), tell=on_progress)
    studio = Studio(ledger, judge, watch.step)
    found = Found()
    loaded: dict[Origin, Backbone] = {}
    try:
        for task in tasks:
            backbone = backbone_of(wish, task.run, loaded)
            references = judge.references(task.subject.images)
            orders = orders_of(task, backbone, wish)
            films = wish.renders.get(task.run.name, ())
            ceilings = _ceilings(judge, task, references, films, orders[0].sample.fps)
            if not ceilings and len(references) == 1:
                found.notes.append(f"{task.run.name} has a single photograph, so its films have no ceiling.")
            if judge.faceless(references):
                found.notes.append(f"No photograph of {task.run.name} shows a face, so it has no face similarity.")
            shots = [watch.count(studio.shot(order, backbone, references)) for order in orders]
            found.measured.append(_measured(task, shots, ceilings))
            found.shots += shots
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped after {watch.done} of {watch.total} films, which are kept in {ledger.folder}. "
            "The same command goes on from there."
        ) from error
    return found


def told(
    tasks: Sequence[Task], found: Found, judge: Judge, ledger: Ledger, title: str, sections: Sequence[Section],
    real: str | Path | None = None,
) -> Evaluation:  # fmt: skip
    """Write results and report."""
    measured, apart = comparable(found.measured)
    rows = all_rows(measured)
    together = judged(tasks, found.shots, judge, ledger, real)
    notes = (
        *together.notes, *found.notes, *apart, *unlike(found.shots), *_unseen(judge), *_warnings(judge, tasks, rows),
        *unfair(judge, [task.run for task in tasks]),
    )  # fmt: skip
    shown = [*((row.metric, row.protocol) for row in rows), *together.columns]
    runs = [{"name": task.run.name, "label": task.label, "prompts": task.prompts} for task in tasks]
    table = {
        "rows": [to_json(row) for row in rows], "notes": list(notes), "judge": judge.protocol, "runs": runs,
        "protocol": to_json(judge.preset), "protocols": {short(protocol): protocol for _, protocol in shown},
        "board": to_json(together),
    }  # fmt: skip
    results = ledger.save(table)
    report = ledger.folder / "report.html"
    subjects = [(task.run, task.subject) for task in tasks]
    tables = together.tables()
    write_text(report, html(page(title, rows, subjects, found.shots, notes, sections, tables, legend(shown))))
    return Evaluation(
        folder=ledger.folder, rows=rows, table=as_table(rows, title, notes), shots=found.shots, notes=notes,
        board=together, results=results, report=report, labels={task.run.name: task.label for task in tasks},
    )  # fmt: skip


class Watch:
    """Counts films and tells about steps."""

    def __init__(self, total: int, tell: Callable[[Progress], None] | None) -> None:
        """So many films; ``tell`` is told."""
        self.done, self.total, self.tell, self.steps = 0, total, tell, 0

    def step(self, run: str, film: FilmProgress) -> None:
        """A denoising step of a film of ``run`` is done."""
        if self.tell is not None and film.done is None:
            what = f"{run}: {film.prompt}"
            self.tell(Progress(done=self.done, total=self.total, step=film.step, steps=film.steps, what=what))

    def count(self, shot: Shot) -> Shot:
        """A film is done."""
        self.done += 1
        if self.tell is not None:
            what = f"{shot.run}: {shot.prompt}"
            self.tell(Progress(done=self.done, total=self.total, step=0, steps=0, what=what))
        return shot


def backbone_of(wish: Wish, run: Run, loaded: dict[Origin, Backbone]) -> Backbone:
    """The given backbone or the run's own, loaded once for all runs that share it."""
    given = wish.backbone
    if isinstance(given, Backbone):
        return given
    origin = run.record.origin if given is None else {"name_or_path": str(given)}
    key = tuple(sorted(origin.items()))
    if key not in loaded:
        loaded.clear()  # one at a time: a real one fills the memory
        loaded[key] = wish.load(origin) if wish.load is not None else load_backbone(**origin)
    return loaded[key]


def orders_of(task: Task, backbone: Backbone, wish: Wish) -> list[Order]:
    """For every prompt and seed the customized film and the floor."""
    recipe, sample = task.run.record.recipe, wish.sample
    if not isinstance(sample, Sample):
        sample = replace(recipe.sample or backbone.sample, **sample)
    gamma = wish.correlation
    if gamma is None:
        gamma = build(recipe.method, backbone, dict(recipe.options)).correlation
    weights = hashlib.sha256(task.run.weights.read_bytes()).hexdigest()
    return [
        Order(
            run=task.run, customized=customized, prompt=prompt, said=task.said(prompt), seed=seed, sample=sample,
            correlation=gamma, weights=weights if customized else None, segmenter=wish.segmenter,
        )
        for prompt in task.prompts
        for seed in wish.seeds
        for customized in (True, False)
    ]  # fmt: skip


def _ceilings(
    judge: Judge, task: Task, references: References, films: Sequence[tuple[str, Tensor]], fps: float
) -> dict[str, Ceiling]:
    """What the subject itself reaches: in real films where there are some, otherwise photograph against photograph."""
    if not films:
        found = judge.ceilings(references)
        return {key: Ceiling(estimate=e, protocol=p, source="references") for key, (e, p) in found.items()}
    word = task.class_word
    scored = [judge.score(pixels, task.said(prompt), references, fps=fps, class_word=word) for prompt, pixels in films]
    return {
        key: Ceiling(
            estimate=estimate([scores[key].value for scores in scored]),
            protocol=one_protocol([scores[key] for scores in scored]),
            source="renders",
        )
        for key in scored[0]
        if all(key in scores for scores in scored)
    }


def _measured(task: Task, shots: Sequence[Shot], ceilings: Mapping[str, Ceiling]) -> Measured:
    return Measured(
        run=task.run.name,
        group=task.label,
        scores=[shot.scores for shot in shots if shot.customized],
        floors=[shot.scores for shot in shots if not shot.customized],
        ceilings=ceilings,
    )


def _unseen(judge: Judge) -> list[str]:
    """Scores of a paper's protocol that nobody can give, and what they take."""
    unseen = judge.unseen if judge.preset.name != "starring" else {}
    reasons = unseen or dict(judge.missing)
    found = [f"{title} is left out. It takes {reason}" for title, reason in reasons.items()]
    return [*found, judge.preset.unsaid] if judge.preset.unsaid else found


def unlike(shots: Sequence[Shot]) -> list[str]:
    """A sentence, where films differ in length or rate."""
    kinds = {f"{shot.count} frames at {shot.fps:g} fps": shot.run for shot in shots}
    if len(kinds) < 2:
        return []
    listed = ", ".join(f"{kind} ({run})" for kind, run in kinds.items())
    return [f"Films differ in length or rate: {listed}. Scores over time compare only roughly between them."]


def _warnings(judge: Judge, tasks: Sequence[Task], rows: Sequence[Row]) -> list[str]:
    """What a reader must know to judge the numbers."""
    found: list[str] = []
    said = {task.said(prompt) for task in tasks for prompt in task.prompts}
    long = judge.clip.too_long(sorted(said)) if judge.eyes.clip is not None else []
    if long:
        many = "1 prompt exceeds" if len(long) == 1 else f"{len(long)} prompts exceed"
        found.append(f"{many} CLIP's {judge.clip.context} tokens; only the beginning was compared.")
    if any(row.ceiling is not None and row.recovered is None and row.metric in IDENTITY for row in rows):
        found.append(
            "A dash under 'recovered': the ceiling lies no higher than the floor, so nothing can be recovered; means "
            "over subjects leave such subjects out."
        )
    if any(row.source == "references" for row in rows):
        found.append(
            "The ceiling is how alike the photographs are to each other. Films show the subject in other places and "
            "poses, so a perfect film may lie below it, and a film that copies a photograph may lie above."
        )
    if "miniature" in {task.run.record.recipe.backbone.split("-")[0] for task in tasks}:
        found.append("Scores by the bundled encoders compare films of the miniature with each other, and nothing else.")
    return found


def _title(tasks: Sequence[Task]) -> str:
    methods = " and ".join(dict.fromkeys(task.run.record.recipe.method.upper() for task in tasks))
    subject = tasks[0].run.record.subject.name if len(tasks) == 1 else f"{len(tasks)} subjects"
    return f"{methods} on {subject}"
