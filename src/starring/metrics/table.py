"""From single scores to a table: with and without customization, the ceiling, and how much of the way was covered.

Rows of one run average its films. Rows of a group of runs average the runs, each of which is one subject: films of one
subject are not independent, so the standard error is taken over subjects as soon as there are two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from starring.errors import StarringError
from starring.metrics.catalogue import METRICS, short
from starring.metrics.statistics import SMALLEST_GAP, Estimate, Score, estimate, one_protocol, recovered


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """What the subject itself reaches in one metric."""

    estimate: Estimate
    """Mean and standard error."""
    protocol: str
    """How it was measured."""
    source: str
    """``references`` (photographs against each other) or ``renders`` (real films of the subject)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All scores of one run."""

    run: str
    """The run's name."""
    group: str
    """What it is averaged with, such as the method's name."""
    scores: Sequence[Mapping[str, Score]]
    """One entry a film, with customization."""
    floors: Sequence[Mapping[str, Score]]
    """The same prompts and seeds in the same order, without."""
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict[str, Ceiling])
    """By metric, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    """The run, or the group."""
    subjects: int
    """How many runs it averages; 1 for a run's own row."""
    metric: str
    """Key of :data:`starring.metrics.catalogue.METRICS`."""
    score: Estimate
    """With customization."""
    floor: Estimate
    """Without."""
    ceiling: Estimate | None
    """What the subject itself reaches, where that is known."""
    source: str
    """Where the ceiling comes from; empty without one."""
    recovered: Estimate | None
    """(score - floor) / (ceiling - floor); ``None`` without a ceiling above the floor."""
    protocol: str
    """The one protocol of every number in the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Text cells for a terminal or a page."""

    title: str
    """One line."""
    columns: tuple[str, ...]
    """Headings."""
    rows: tuple[tuple[str, ...], ...]
    """Cells."""
    notes: tuple[str, ...] = ()
    """Sentences to print below."""


def rows_of(measured: Measured) -> list[Row]:
    """One row a metric for one run.

    Raises:
        StarringError: if numbers of one metric were measured by different protocols, or films and floors do not pair.
    """
    if len(measured.scores) != len(measured.floors):
        raise StarringError(
            f"Films with and without must pair up; of {measured.run} there are {len(measured.scores)} and "
            f"{len(measured.floors)}."
        )
    found: list[Row] = []
    for key, metric in METRICS.items():
        # A film without a number, as of a pose where nobody is seen, leaves with the film it is paired with.
        films = zip(measured.scores, measured.floors, strict=True)
        pairs = [(custom[key], floor[key]) for custom, floor in films if key in custom and key in floor]
        if not pairs:
            continue
        tops, bottoms = [top for top, _ in pairs], [bottom for _, bottom in pairs]
        ceiling = measured.ceilings.get(key)
        limit = [] if ceiling is None else [Score(value=ceiling.estimate.mean, protocol=ceiling.protocol)]
        protocol = one_protocol([*tops, *bottoms, *limit])
        values, floors = [score.value for score in tops], [score.value for score in bottoms]
        share = None
        if ceiling is not None and metric.better == "higher":
            share = recovered(values, floors, ceiling.estimate.mean)
        found.append(
            Row(
                name=measured.run,
                subjects=1,
                metric=key,
                score=estimate(values),
                floor=estimate(floors),
                ceiling=None if ceiling is None else ceiling.estimate,
                source="" if ceiling is None else ceiling.source,
                recovered=share,
                protocol=protocol,
            )
        )
    return found


def group_rows(group: str, runs: Sequence[Sequence[Row]]) -> list[Row]:
    """One row a metric for several runs: means and standard errors over runs.

    What was recovered is averaged over the runs whose ceiling is above their floor, and left out where the mean ceiling
    is not above the mean floor: a few runs would speak for all.

    Args:
        group: its name.
        runs: :func:`rows_of` each run.

    Raises:
        StarringError: if the runs were measured by different protocols.
    """
    found: list[Row] = []
    for key in METRICS:
        same = [row for rows in runs for row in rows if row.metric == key]
        if not same:
            continue
        protocol = one_protocol([Score(value=row.score.mean, protocol=row.protocol) for row in same])
        ceilings = [row.ceiling.mean for row in same if row.ceiling is not None]
        floor = estimate([row.floor.mean for row in same])
        shares = [row.recovered.mean for row in same if row.recovered is not None]
        above = bool(ceilings) and estimate(ceilings).mean - floor.mean >= SMALLEST_GAP
        found.append(
            Row(
                name=group,
                subjects=len(same),
                metric=key,
                score=estimate([row.score.mean for row in same]),
                floor=floor,
                ceiling=estimate(ceilings) if ceilings else None,
                source=" and ".join(sorted({row.source for row in same if row.source})),
                recovered=estimate(shares) if shares and above else None,
                protocol=protocol,
            )
        )
    return found


def comparable(measured: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """What may stand in one table: scores that not all films share a protocol of are left out, and that is told.

    Returns:
        The same runs without those scores, and a sentence for each score that was left out.
    """
    notes: list[str] = []
    dropped: set[str] = set()
    for key, metric in METRICS.items():
        films = [film for one in measured for film in (*one.scores, *one.floors)]
        protocols = sorted({film[key].protocol for film in films if key in film})
        if len(protocols) > 1:
            dropped.add(key)
            notes.append(
                f"{metric.title} is left out of the table of runs, since numbers of different protocols do not belong"
                f" in one column: {' | '.join(protocols)}. Film all runs with the same frames, size and rate."
            )
    return [_without(one, dropped) for one in measured], notes


def all_rows(measured: Sequence[Measured]) -> list[Row]:
    """Group rows first (for groups of at least two runs), then every run's own.

    Raises:
        StarringError: if numbers of one metric were measured by different protocols.
    """
    own = [rows_of(one) for one in measured]
    for key in METRICS:
        # Groups stand in one table, so all of them must agree, not only the runs within each.
        scores = [
            Score(value=row.score.mean, protocol=row.protocol) for rows in own for row in rows if row.metric == key
        ]
        if scores:
            one_protocol(scores)
    found: list[Row] = []
    for group in dict.fromkeys(one.group for one in measured):
        members = [rows for one, rows in zip(measured, own, strict=True) if one.group == group]
        if len(members) > 1:
            found += group_rows(group, members)
    return [*found, *(row for rows in own for row in rows)]


def _without(measured: Measured, dropped: set[str]) -> Measured:
    def kept(films: Sequence[Mapping[str, Score]]) -> list[dict[str, Score]]:
        return [{key: score for key, score in film.items() if key not in dropped} for film in films]

    ceilings = {key: ceiling for key, ceiling in measured.ceilings.items() if key not in dropped}
    return replace(measured, scores=kept(measured.scores), floors=kept(measured.floors), ceilings=ceilings)


def as_table(rows: Sequence[Row], title: str, notes: Sequence[str] = ()) -> Table:
    """Rows as text, for a terminal; the column of names appears only where there are several."""
    names = dict.fromkeys((row.name, row.subjects) for row in rows)
    several = len(names) > 1
    columns = ("score", "customized", "floor", "ceiling", "recovered", "protocol")
    cells = [
        (
            METRICS[row.metric].title,
            *(plus_minus(value, METRICS[row.metric].digits) for value in _numbers(row)),
            share(row),
            short(row.protocol),
        )
        for row in rows
    ]
    if several:
        columns = ("run", *columns)
        cells = [(named(row), *line) for row, line in zip(rows, cells, strict=True)]
    return Table(title=title, columns=columns, rows=tuple(cells), notes=tuple(notes))


def named(row: Row) -> str:
    """The row's name, and how many subjects it averages."""
    return row.name if row.subjects == 1 else f"{row.name} ({row.subjects} subjects)"


def plus_minus(value: Estimate | None, digits: int) -> str:
    """``0.755 ± 0.012``; a dash where there is nothing, no error for a single measurement."""
    if value is None:
        return "–"
    if value.error is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.error:.{digits}f}"


def share(row: Row) -> str:
    """``62 % ± 4``; a dash where nothing can be recovered."""
    if row.recovered is None:
        return "–"
    error = "" if row.recovered.error is None else f" ± {100 * row.recovered.error:.0f}"
    return f"{100 * row.recovered.mean:.0f} %{error}"


def as_markdown(table: Table) -> str:
    """A table as Markdown, with title and notes."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([f"**{table.title}**", body, *table.notes])


def _numbers(row: Row) -> tuple[Estimate, Estimate, Estimate | None]:
    return row.score, row.floor, row.ceiling
