"""What came out of a component table: numbers, tables, and a report with the films."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from starring.ablate.rows import Row
from starring.config import to_json
from starring.data.files import write_json, write_text
from starring.errors import StarringError
from starring.evaluate.page import png, strip
from starring.evaluate.shots import RESULTS, Shot, unrolled
from starring.evaluate.wishes import Task
from starring.methods import find
from starring.metrics.catalogue import METRICS, legend, short
from starring.metrics.report import Picture, Report, Section, html
from starring.metrics.statistics import Estimate, estimate, one_protocol
from starring.metrics.suite import Judge
from starring.metrics.table import Table, as_markdown, plus_minus

VERSION = 1
"""Of the results' layout."""


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


def check_results(home: Path) -> None:
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


def told(
    method: str, rows: tuple[Row, ...], same: Mapping[str, str], tasks: Sequence[Task], owners: Mapping[str, str],
    shots: dict[str, list[Shot]], home: Path, judge: Judge,
) -> Ablation:  # fmt: skip
    """Write results, table and report."""
    baseline = shots[rows[0].name]
    paper = find(method).title.split(":")[0]
    every = [shot for films in shots.values() for shot in films]
    known = [key for key in find(method).columns if any(key in shot.scores for shot in every)]
    shown = [k for k in known if all(any(s.value(k) is not None for s in films) for films in shots.values())]
    by = {key: one_protocol([shot.scores[key] for shot in every if key in shot.scores]) for key in shown}
    scores = {name: {key: mean(films, key) for key in shown} for name, films in shots.items()}
    others = {name: films for name, films in shots.items() if films is not baseline}
    gains = {name: {key: mean(films, key, baseline) for key in shown} for name, films in others.items()}
    over = "subjects" if len(tasks) > 1 else "films"
    numbers = {"subject": len(tasks), "prompt": len(tasks[0].prompts), "seed": len({s.seed for s in baseline})}
    count = ", ".join(f"{number} {what}{'s' if number > 1 else ''}" for what, number in numbers.items())
    equal = "".join(f" '{name}' is '{other}' on this backbone." for name, other in same.items())
    tables = (
        _table(f"The components of {paper}", by, scores, f"Mean ± one standard error over {over}; {count}.{equal}"),
        _table(f"Difference from {rows[0].name}", by, gains, "Of films with equal subject, prompt and seed."),
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
            "judge": judge.protocol, "protocols": {short(each): each for each in by.values()}, "films": films,
        },
    )  # fmt: skip
    protocols = legend(by.items())
    meant = "\n".join(f"- {name}: {protocol}" for name, protocol in protocols.items())
    write_text(markdown, "\n\n".join([*(as_markdown(table) for table in tables), meant]) + "\n")
    page = Report(
        title=tables[0].title, lead=f"{count}: {sum(map(len, shots.values()))} films.", rows=(), tables=tables,
        sections=_sections(tasks, owners, shots), facts={"Judge": judge.protocol}, protocols=protocols,
    )  # fmt: skip
    write_text(report, html(page))
    return Ablation(
        folder=home, rows=rows, scores=scores, gains=gains, tables=tables, shots=shots, results=results,
        markdown=markdown, report=report,
    )  # fmt: skip


def mean(films: Sequence[Shot], key: str, baseline: Sequence[Shot] = ()) -> Estimate:
    """A score, or its difference from the baseline's films in the same order: mean over each subject, then over all."""
    values: dict[str, list[float]] = {}
    for i, shot in enumerate(films):
        value, base = shot.value(key), baseline[i].value(key) if baseline else 0.0
        if value is not None and base is not None:
            values.setdefault(shot.run, []).append(value - base)
    subjects = list(values.values())
    return estimate(subjects[0] if len(subjects) == 1 else [estimate(each).mean for each in subjects])


def _table(title: str, by: Mapping[str, str], numbers: Mapping[str, Mapping[str, Estimate]], note: str) -> Table:
    """A table of the scores that were measured by these protocols."""
    cells = [(name, *(plus_minus(v[key], METRICS[key].digits) for key in by)) for name, v in numbers.items()]
    columns = ("row", *(f"{METRICS[key].title} {short(protocol)}" for key, protocol in by.items()))
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
