"""Results on a page of text: what stands between two markers is written anew, everything else stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from starring.data.files import write_text
from starring.errors import StarringError
from starring.evaluate.ask import Evaluation
from starring.evaluate.board import ONCE, gigabytes
from starring.metrics.catalogue import WHO, legend, short
from starring.metrics.comparison import interval
from starring.metrics.leaderboard import Standing, board, duels
from starring.metrics.table import Table, as_markdown

SHOWN = (
    "identity", "face", "dino_i", "clip_i", "clip_t", "motion_top", "consistency_dino", "copied_pose",
    "copied_background",
)  # fmt: skip
"""Scores on the page: identity, text, motion, and whether photographs were copied."""


def markers(page: str | Path, suite: str) -> tuple[str, str, str]:
    """A page before, between and behind its markers for a suite.

    Raises:
        StarringError: if there is no such page, or it lacks the markers or has them more than once.
    """
    path = Path(page).expanduser()
    begin, end = f"<!-- RESULTS {suite}: begin -->", f"<!-- RESULTS {suite}: end -->"
    if not path.is_file():
        raise StarringError(f"There is no page {path}. Write one with the lines {begin} and {end}.")
    text = path.read_text(encoding="utf-8")
    found = re.fullmatch(f"(.*{re.escape(begin)}\n)(.*)({re.escape(end)}.*)", text, re.DOTALL)
    if found is None or text.count(begin) != 1 or text.count(end) != 1:
        raise StarringError(f"{path} needs the lines {begin} and {end}, each once and in this order.")
    return found[1], found[2], found[3]


def fill(page: str | Path, suite: str, evaluation: Evaluation) -> None:
    """Write an evaluation between the page's markers for a suite.

    Raises:
        StarringError: as :func:`markers`.
    """
    before, _, behind = markers(page, suite)
    write_text(Path(page).expanduser(), f"{before}\n{section(evaluation)}\n\n{behind}")


def section(evaluation: Evaluation) -> str:
    """An evaluation as Markdown: who took part, methods side by side, cost, what the differences are worth."""
    shots, found = evaluation.shots, evaluation.board
    standings = [each for each in found.standings if each.metric in SHOWN]
    subjects = max((each.subjects for each in standings), default=1)
    prompts, seeds = len({shot.prompt for shot in shots}), len({shot.seed for shot in shots})
    settings = "; ".join(dict.fromkeys(shot.setting for shot in shots))
    lead = f"Subjects: {subjects}. Prompts: {prompts}. Seeds: {seeds}. Films: {len(shots)}. {settings}."
    matches = [match for match in found.matches if match.metric in _primary(standings)]
    tables = [*([board(standings)] if standings else []), _spent(evaluation), *([duels(matches)] if matches else [])]
    notes = [f"- {note}" for note in evaluation.notes]
    shown = legend(column for column in found.columns if column[0] in SHOWN)
    notes += [f"- {name}: {protocol}" for name, protocol in shown.items()]
    return "\n\n".join([lead, *(as_markdown(table) for table in tables), *(["\n".join(notes)] if notes else [])])


def _primary(standings: Sequence[Standing]) -> set[str]:
    """The scores whose differences are tested on the page: the best one of identity, text and motion."""
    there = {each.metric for each in standings}
    return {*[key for key in WHO if key in there][:1], "clip_t", "motion_top"}


def _spent(evaluation: Evaluation) -> Table:
    """What a run of each method took on average, and the motion it kept."""
    kept = evaluation.board.kept
    rows: list[tuple[str, ...]] = []
    for label in dict.fromkeys(evaluation.labels.values()):
        own = [cost for cost in evaluation.board.costs if evaluation.labels[cost.run] == label]
        shares = [kept[cost.run].share for cost in own if cost.run in kept]
        by = dict.fromkeys(short(evaluation.board.kept_by[cost.run]) for cost in own if cost.run in kept)
        rows.append(
            (
                label, ONCE if all(c.once for c in own) else _mean([c.learning for c in own], " s"),
                gigabytes(max((c.learning_memory for c in own if c.learning_memory is not None), default=None)),
                _mean([c.filming for c in own], " s"), _mean([c.plain for c in own], " s"),
                _mean([c.slower for c in own], "", 2), _mean([c.size / 1024 for c in own], " KB"),
                " ".join([_share(shares), *by]),
            )
        )  # fmt: skip
    note = (
        "Means over runs, memory at most, motion with its 95 % bootstrap interval. Seconds by the clock of the machine "
        "that made them, of learning with all that is prepared for it; memory on a CPU is that of the process."
    )
    return Table(
        title="Cost, and motion that was kept",
        columns=(
            "method", "learning", "learning memory", "film", "film without", "ratio", "size", "motion kept",
        ),
        rows=tuple(rows), notes=(note,),
    )  # fmt: skip


def _mean(values: Sequence[float | None], unit: str, digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.{digits}f}{unit}" if known else "–"


def _share(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = interval([[value] for value in values])
    return f"{100 * sum(values) / len(values):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
