"""Several methods side by side on shared subjects, prompts and seeds: intervals, and what the differences are worth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from starring.metrics.catalogue import METRICS, short
from starring.metrics.comparison import Difference, holm, interval, least, paired
from starring.metrics.statistics import Score
from starring.metrics.table import Table

Place = tuple[str, str, int]
"""Subject, prompt and seed."""
Films = Mapping[Place, Mapping[str, Score]]
"""The scores of one method's films."""
SURE = 0.05
"""p-values below this are marked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One method in one column."""

    method: str
    """The method."""
    metric: str
    """Key of :data:`starring.metrics.catalogue.METRICS`."""
    protocol: str
    """How it was measured: another protocol is another column."""
    mean: float
    """Mean over subjects of the mean of a subject's films."""
    low: float
    """Lower end of the 95 % bootstrap interval over subjects (over films, where there is one subject)."""
    high: float
    """Upper end."""
    films: int
    """How many films."""
    subjects: int
    """How many subjects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Two methods in one column."""

    method: str
    """The one."""
    baseline: str
    """The other."""
    metric: str
    """Key of :data:`starring.metrics.catalogue.METRICS`."""
    protocol: str
    """The protocol of both."""
    difference: Difference
    """The one minus the other on shared subjects, prompts and seeds; its ``p`` is corrected by Holm's method for all
    matches of the column."""
    least: float = 0.0
    """The smallest ``p`` that so many subjects and matches could have given."""

    @property
    def told(self) -> bool:
        """Whether there are enough subjects for the test to tell anything."""
        return self.least <= SURE


def standings(methods: Mapping[str, Films]) -> list[Standing]:
    """Every method in every column that it has numbers for, in the order of the scores."""
    found: list[Standing] = []
    for metric, protocol in columns(methods):
        for method, films in methods.items():
            groups = _by_subject(_column(films, metric, protocol))
            if not groups:
                continue
            low, high = interval(groups)
            means = [sum(group) / len(group) for group in groups]
            found.append(
                Standing(
                    method=method, metric=metric, protocol=protocol, mean=sum(means) / len(means), low=low, high=high,
                    films=sum(map(len, groups)), subjects=len(groups),
                )
            )  # fmt: skip
    return found


def matches(methods: Mapping[str, Films], floors: Mapping[str, Collection[str]] | None = None) -> list[Match]:
    """Every pair of methods in every column, and every method with its own floor, on what both have filmed.

    Args:
        methods: the films of each, and of each floor.
        floors: which of the names are films without customization, and whose. Floors are not compared with each other,
            nor with other methods: such differences are those of backbones.
    """
    own = floors or {}
    pairs = list(combinations([name for name in methods if name not in own], 2))
    pairs += [(name, floor) for floor, names in own.items() if floor in methods for name in names if name in methods]
    found: list[Match] = []
    for metric, protocol in columns(methods):
        column: list[Match] = []
        for method, baseline in pairs:
            one, other = (_column(methods[name], metric, protocol) for name in (method, baseline))
            difference = paired(one, other)
            if difference is not None:
                column.append(
                    Match(method=method, baseline=baseline, metric=metric, protocol=protocol, difference=difference)
                )
        found += _corrected(column)
    return found


def _corrected(column: Sequence[Match]) -> list[Match]:
    """A column's matches with p-values that allow for how many they are, and what these could have been at best."""
    corrected = holm([match.difference.p for match in column])
    units = [match.difference.subjects if match.difference.subjects > 1 else match.difference.films for match in column]
    return [
        replace(match, difference=replace(match.difference, p=p), least=min(1.0, len(column) * least(count)))
        for match, p, count in zip(column, corrected, units, strict=True)
    ]


def columns(methods: Mapping[str, Films]) -> list[tuple[str, str]]:
    """Metric and protocol of every column: numbers of different protocols are never in one."""
    films = [scores for some in methods.values() for scores in some.values()]
    seen = {(key, score.protocol) for scores in films for key, score in scores.items()}
    order = list(METRICS)
    return sorted(seen, key=lambda column: (order.index(column[0]), column[1]))


def board(found: Sequence[Standing]) -> Table:
    """Methods down, columns across."""
    across = list(dict.fromkeys((each.metric, each.protocol) for each in found))
    cells = {(each.method, each.metric, each.protocol): each for each in found}
    rows = [
        (method, *(_cell(cells.get((method, *column))) for column in across))
        for method in dict.fromkeys(each.method for each in found)
    ]
    note = (
        f"Mean over subjects, with its 95 % bootstrap interval. {'; '.join(_sizes(found))}. Of ten subjects and fewer "
        "such intervals are a little too narrow."
    )
    return Table(
        title="Methods side by side",
        columns=("method", *(f"{METRICS[metric].title} {short(protocol)}" for metric, protocol in across)),
        rows=tuple(rows),
        notes=(note,),
    )


def _sizes(found: Sequence[Standing]) -> list[str]:
    """How many films and subjects stand for a method, and in which columns fewer do."""
    said: list[str] = []
    for method in dict.fromkeys(each.method for each in found):
        own = [each for each in found if each.method == method]
        most, subjects = max(each.films for each in own), max(each.subjects for each in own)
        fewer = ", ".join(f"{METRICS[each.metric].title} {each.films}" for each in own if each.films < most)
        said.append(f"{method}: {most} films of {subjects} subjects{f' ({fewer})' if fewer else ''}")
    return said


def duels(found: Sequence[Match]) -> Table:
    """One line a pair of methods and column."""
    note = (
        "Intervals by bootstrap, p by the sign-flip test over subjects (over films, where there is one subject), "
        f"corrected for all lines of a column by Holm's method; * below {SURE}. A method's line against the films "
        "without it is what it adds; methods on different backbones are best compared by these."
    )
    notes = [note]
    if silent := [match for match in found if not match.told]:
        most = max(match.difference.subjects for match in silent)
        notes.append(f"A dash for p: with {most} subjects no difference, however large, can fall below {SURE}.")
    return Table(
        title="Differences on the same subjects, prompts and seeds",
        columns=("methods", "score", "difference", "95 %", "p", "films", "subjects", "protocol"),
        rows=tuple(_line(match) for match in found),
        notes=tuple(notes),
    )


def _line(match: Match) -> tuple[str, ...]:
    metric, found = METRICS[match.metric], match.difference
    mean, low, high = (f"{value:+.{metric.digits}f}" for value in (found.mean, found.low, found.high))
    sure = f"{found.p:.3f}{' *' if found.p < SURE else ''}" if match.told else "–"
    who = f"{match.method} − {match.baseline}"
    return (
        who,
        metric.title,
        mean,
        f"[{low}, {high}]",
        sure,
        f"{found.films}",
        f"{found.subjects}",
        short(match.protocol),
    )


def _column(films: Films, metric: str, protocol: str) -> dict[Place, float]:
    return {
        place: scores[metric].value
        for place, scores in films.items()
        if metric in scores and scores[metric].protocol == protocol
    }


def _by_subject(values: Mapping[Place, float]) -> list[list[float]]:
    subjects = dict.fromkeys(place[0] for place in values)
    return [[value for place, value in values.items() if place[0] == subject] for subject in subjects]


def _cell(each: Standing | None) -> str:
    if each is None:
        return "–"
    digits = METRICS[each.metric].digits
    return f"{each.mean:.{digits}f} [{each.low:.{digits}f}, {each.high:.{digits}f}]"
