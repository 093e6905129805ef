"""The report of an evaluation, put together from its films."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

from PIL import Image

from starring.data.subject import Subject
from starring.evaluate.shots import Shot, unrolled
from starring.metrics.report import SMALL, Chapter, Pair, Picture, Report, Screen, Section
from starring.metrics.table import Row, Table
from starring.run import Run

Item = TypeVar("Item")
FRAMES = 8
"""Frames on a contact sheet."""
SIDE = 160
"""Longest edge of a frame on a contact sheet, and of a photograph."""
SCREENS = 600
"""Films on a page at most: thousands, as some suites have, no browser opens."""
SHOWN = ("identity", "dino_i", "clip_i", "clip_t")
"""Scores below every film."""


def page(
    title: str,
    rows: Sequence[Row],
    runs: Sequence[tuple[Run, Subject]],
    shots: Sequence[Shot],
    notes: Sequence[str],
    sections: Sequence[Section],
    tables: Sequence[Table] = (),
    protocols: Mapping[str, str] | None = None,
) -> Report:
    """Everything on the page.

    Args:
        title: heading.
        rows: the table.
        runs: every run and its photographs.
        shots: for each run, prompt and seed the customized film and then the floor.
        notes: what a reader must know.
        sections: further parts.
        tables: further tables, below the first.
        protocols: what the digits in these stand for.
    """
    prompts, seeds = {shot.said for shot in shots}, {shot.seed for shot in shots}
    who = {subject.name for _, subject in runs}
    lead = (
        f"{_count(len(who), 'subject')}, {_count(len(prompts), 'prompt')}, {_count(len(seeds), 'seed')}: "
        f"{_count(len(shots), 'film')}, half of them with what was learned and half without."
    )
    pairs = {run.name: _pairs(run, shots) for run, _ in runs}
    most = max(1, SCREENS // 2 // max(1, len(runs)))
    chapters = [_chapter(run, subject, _spread(pairs[run.name], most)) for run, subject in runs]
    if any(len(each) > most for each in pairs.values()):
        hidden = (
            f"Of each run at most {_count(2 * most, 'film')} can be seen here; all of them lie in the folder films."
        )
        notes = [*notes, hidden]
    facts = {
        run.name: f"{run.record.recipe.method} on {run.record.recipe.backbone} ({run.record.family}), "
        f"class word '{run.record.subject.class_word}', {len(subject)} photographs. {run.record.recipe.source}".strip()
        for run, subject in runs
    }
    return Report(
        title=title, lead=lead, rows=rows, chapters=chapters, sections=sections, notes=notes, facts=facts,
        tables=tables, protocols=protocols or {},
    )  # fmt: skip


def _pairs(run: Run, shots: Sequence[Shot]) -> list[tuple[Shot, Shot]]:
    """A run's films, each with the floor of the same prompt and seed."""
    own = [shot for shot in shots if shot.run == run.name]
    return list(zip(own[::2], own[1::2], strict=True))


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly spread."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _chapter(run: Run, subject: Subject, shots: Sequence[tuple[Shot, Shot]]) -> Chapter:
    method, word = run.record.recipe.method, run.record.subject.class_word
    pairs = [
        Pair(
            prompt=custom.prompt,
            seed=custom.seed,
            custom=_screen(custom, method.upper()),
            plain=_screen(plain, f"Without: {plain.said}"),
        )
        for custom, plain in shots
    ]
    told = f"{method.upper()}, {word or 'no class word'}, on {run.record.recipe.backbone}."
    about = f"{told} The photographs it learned from:"
    return Chapter(name=run.name, about=about, references=[photograph(image) for image in subject.images], pairs=pairs)


def photograph(image: Image.Image) -> Picture:
    """A photograph as a page shows it: small."""
    small = max(image.size) < SMALL
    shown = image.copy()
    shown.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    return Picture(png=png(shown), pixels=small)


def _screen(shot: Shot, label: str) -> Screen:
    with Image.open(shot.frames) as sheet:
        frames = [Image.fromarray(frame) for frame in unrolled(sheet, shot.count)]
    return Screen(
        label=label,
        mp4=shot.film.read_bytes(),
        poster=png(frames[0]),
        sheet=png(strip(frames)),
        size=frames[0].size,
        scores={key: shot.scores[key] for key in SHOWN if key in shot.scores},
    )


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """At most eight frames of a film, evenly spread, side by side; what is between them is transparent."""
    picked = [frame.copy() for frame in _spread(frames, FRAMES)]
    count = len(picked)
    for frame in picked:
        if max(frame.size) >= SMALL:
            frame.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    width, height = picked[0].size
    gap = max(1, width // 32)
    sheet = Image.new("RGBA", (count * (width + gap) - gap, height), (0, 0, 0, 0))
    for i, frame in enumerate(picked):
        sheet.paste(frame, (i * (width + gap), 0))
    return sheet


def png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
