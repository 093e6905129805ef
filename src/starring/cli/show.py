"""What the command line looks like: lines, tables, progress bars with the remaining time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from starring.data.subject import Complaint


@cache
def out() -> Console:
    """Results go to the standard output."""
    return Console(highlight=False)


@cache
def err() -> Console:
    """Progress, remarks and errors go to the error stream."""
    return Console(stderr=True, highlight=False)


def one_line(message: str) -> str:
    """The message on one line, however it was wrapped."""
    return " ".join(message.split())


def complain(message: str) -> None:
    """One line about what was wrong."""
    err().print(Text.assemble(("starring: ", "bold red"), one_line(message)), soft_wrap=True)


def first() -> bool:
    """Whether this is the first of several processes that share a piece of work: the one that talks."""
    return os.environ.get("RANK", "0") == "0"


def remark(message: str) -> None:
    """One line that a person should know while work goes on."""
    if not first():
        return
    err().print(Text(one_line(message), style="yellow"), soft_wrap=True)


def result(message: str) -> None:
    """One line of result."""
    out().print(Text(message), soft_wrap=True)


def written(what: str, path: Path) -> None:
    """Where something was written. The path stands alone at the end, never wrapped, so that it can be copied."""
    if not first():
        return
    out().print(Text.assemble((f"{what}: ", "dim"), str(path)), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> None:
    """A table of plain strings, numbers set to the right, and notes below it."""
    body = [list(row) for row in rows]
    shown = Table(title=Text(title, style="bold"), title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(body) and all(_numeric(row[index]) for row in body)
        shown.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in body:
        shown.add_row(*(Text(cell) for cell in row))
    out().print(shown)
    for note in notes:
        out().print(Text(note, style="dim"))


def _numeric(cell: str) -> bool:
    return cell[:1] in {*"0123456789-+.", "–"}


def complaints(found: Sequence[Complaint], photographs: int) -> None:
    """What the reference doctor found, one row each, with what to do."""
    if not found:
        result(f"{photographs} photographs, nothing to complain about.")
        return
    rows = [(c.path.name, c.kind, one_line(c.message), one_line(c.advice)) for c in found]
    files = len({c.path for c in found})
    remarks = "1 remark" if len(found) == 1 else f"{len(found)} remarks"
    note = f"{remarks} about {files} of {photographs + sum(c.kind == 'unreadable' for c in found)} files"
    table("What the photographs lack", ("file", "what", "found", "to do"), rows, note)


class Bars:
    """Progress bars, one for each piece of work, made when the piece is first heard of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def move(self, key: str, done: float, total: float, what: str = "", note: str = "") -> None:
        """Set a bar.

        Args:
            key: which bar.
            done: how much of it is done.
            total: how much there is; 0 shows a bar without an end.
            what: its description, by default the key.
            note: shown behind the remaining time, such as the loss.
        """
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(what or key, total=total or None, note=note)
        self._progress.update(self._tasks[key], completed=done, total=total or None, note=note, description=what or key)

    def say(self, message: str) -> None:
        """A remark above the bars."""
        self._progress.console.print(Text(one_line(message), style="yellow"), soft_wrap=True)

    def show(self, what: str, path: Path) -> None:
        """A picture or film that is ready, above the bars."""
        self._progress.console.print(Text.assemble((f"{what}: ", "dim"), str(path)), soft_wrap=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on the error stream for the length of the context; where that is no terminal, their last state."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=err(), refresh_per_second=4) as progress:
        yield Bars(progress)
