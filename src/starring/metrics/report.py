"""One HTML file that shows everything: the photographs, the films, the frames, the numbers and how they were measured.

The file stands alone: pictures and films are embedded, style and script are inside, nothing is fetched.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

from starring.metrics.catalogue import METRICS, legend, short
from starring.metrics.statistics import Estimate, Score
from starring.metrics.table import Row, Table, named, share

SMALL = 256
"""Films narrower than this are enlarged without smoothing."""
STAR = "M12 1.8l3.1 6.6 7.1.9-5.2 5 1.3 7.1L12 17.9l-6.3 3.5L7 14.3l-5.2-5 7.1-.9z"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture with a line of text."""

    png: bytes
    """The file's content."""
    caption: str = ""
    """What it is."""
    pixels: bool = False
    """Whether it is small and should be enlarged without smoothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page that a caller adds: a heading, text and pictures."""

    title: str
    """Heading."""
    text: str = ""
    """Plain text; empty lines part paragraphs."""
    pictures: Sequence[Picture] = ()
    """Shown side by side."""
    wide: bool = False
    """Pictures at their own width instead of as thumbnails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """One film on the page."""

    label: str
    """Such as ``vcd`` or ``without``."""
    mp4: bytes
    """The film."""
    poster: bytes
    """Its first frame, PNG, seen until the film plays and where a browser lacks the codec."""
    sheet: bytes
    """Its frames, PNG."""
    size: tuple[int, int]
    """Width and height of the film."""
    scores: Mapping[str, Score]
    """Its own scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The same prompt and seed with and without customization."""

    prompt: str
    """As it was asked, with the placeholder."""
    seed: int
    """The seed of both."""
    custom: Screen
    """With."""
    plain: Screen
    """Without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """One run: its subject and its films."""

    name: str
    """The run's name."""
    about: str
    """One line: method, class word, backbone."""
    references: Sequence[Picture]
    """The subject's photographs."""
    pairs: Sequence[Pair]
    """Its films."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything on the page."""

    title: str
    """Heading."""
    lead: str
    """A sentence or two below it."""
    rows: Sequence[Row]
    """The table."""
    chapters: Sequence[Chapter] = ()
    """Runs."""
    tables: Sequence[Table] = ()
    """Further tables, below the first."""
    sections: Sequence[Section] = ()
    """What the caller adds, between numbers and films."""
    notes: Sequence[str] = ()
    """What a reader must know to judge the numbers."""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """How it was made: names and values."""
    protocols: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the digits beside numbers stand for, by :func:`starring.metrics.catalogue.legend`; rows add their own."""


def html(report: Report) -> str:
    """The page as one string."""
    parts = [
        _header(report),
        "<main>",
        _bars(report.rows),
        _table(report.rows),
        *(_other(table) for table in report.tables),
        _notes(report.notes),
        *(_section(section) for section in report.sections),
        *(_chapter(chapter) for chapter in report.chapters),
        _protocols(report),
        "</main>",
        "<footer>Made with Starring. Everything on this page is inside this one file.</footer>",
        '<dialog id="large" aria-label="Frames, enlarged"><img src="data:," alt="" class="pixels"></dialog>',
        f"<script>{asset('report.js')}</script>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Without an icon of its own, a browser asks the server for one and reports that it is missing.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(report.title)}</title>\n<style>{asset('report.css')}</style>\n</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def _header(report: Report) -> str:
    return (
        '<header class="top"><div class="brand">'
        f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{STAR}"/></svg><span>Starring</span>'
        '<button id="theme" type="button" hidden>Dark</button></div>'
        f'<h1>{escape(report.title)}</h1><p class="lead">{escape(report.lead)}</p></header>'
    )


def _bars(rows: Sequence[Row]) -> str:
    """How far the first name of the table came between floor and ceiling."""
    first = [row for row in rows if (row.name, row.subjects) == (rows[0].name, rows[0].subjects)] if rows else []
    bars = [_bar(row, row.recovered, row.ceiling) for row in first if row.recovered and row.ceiling]
    if not bars:
        return ""
    return (
        f'<section><h2>How much of the subject came across</h2><p class="soft">{escape(named(first[0]))}. '
        "Left: the same prompts and seeds without customization. Right: the subject itself.</p>"
        f'<div class="panel bars">{"".join(bars)}</div></section>'
    )


def _bar(row: Row, recovered: Estimate, ceiling: Estimate) -> str:
    metric = METRICS[row.metric]
    at = _percent(recovered.mean)
    error = recovered.error or 0.0
    low, high = _percent(recovered.mean - error), _percent(recovered.mean + error)
    whisker = f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u>' if error else ""
    plus = "" if recovered.error is None else f" <small>± {100 * recovered.error:.0f}</small>"
    return (
        f'<div class="bar"><div class="head"><h3>{escape(metric.title)}</h3>'
        f"<small>{row.score.mean:.{metric.digits}f}</small><b>{100 * recovered.mean:.0f} %{plus}</b></div>"
        f'<div class="track"><i style="width:{at:.1f}%"></i>{whisker}<s style="left:{at:.1f}%"></s></div>'
        f'<div class="ends"><span>without {row.floor.mean:.{metric.digits}f}</span>'
        f"<span>{escape(row.source or 'ceiling')} {ceiling.mean:.{metric.digits}f}</span></div></div>"
    )


def _percent(value: float) -> float:
    """A share as a place on the bar."""
    return 100 * min(1.0, max(0.0, value))


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    several = len({(row.name, row.subjects) for row in rows}) > 1
    heads = ["Score", "Customized", "Floor", "Ceiling", "Recovered", "Protocol"]
    cells = "".join(
        f'<th scope="col"{" class=word" if index < several + 1 else ""}>{head}</th>'
        for index, head in enumerate([*(["Run"] if several else []), *heads])
    )
    lines: list[str] = []
    before = None
    for row in rows:
        now = (row.name, row.subjects)
        opening = now != before
        lines.append(_line(row, several, opening and before is not None, opening))
        before = now
    count = rows[0].score.count
    unit = "subjects" if rows[0].subjects > 1 else "films"
    return (
        '<section><h2>The numbers</h2><p class="soft">Mean ± one standard error of the mean, over '
        f"{count} {unit}{' in the first rows and over films below' if unit == 'subjects' else ''}. "
        "Floor: the same prompts with the class word, the same seeds, nothing learned. "
        "Recovered = (customized − floor) / (ceiling − floor).</p>"
        f'<div class="panel scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _other(table: Table) -> str:
    """A table of text cells: words first, then numbers."""
    heads = "".join(f'<th scope="col"{" class=word" * (not i)}>{escape(c)}</th>' for i, c in enumerate(table.columns))
    lines = "".join(
        "<tr>" + "".join(f"<td{' class=word' * (not i)}>{escape(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in table.notes)
    return (
        f'<section><h2>{escape(table.title)}</h2>{notes}<div class="panel scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _line(row: Row, several: bool, first: bool, opening: bool) -> str:
    metric = METRICS[row.metric]
    style = " ".join(["first"] * first + ["other"] * (metric.better == "context"))
    name = f'<td class="word">{escape(named(row)) if opening else ""}</td>' if several else ""
    best = ' class="best"' if metric.better == "higher" and _clear(row) else ""
    return (
        f'<tr class="{style}">{name}<td class="word">{escape(metric.title)}<small>{escape(metric.meaning)}</small></td>'
        f"<td{best}>{_value(row.score, metric.digits)}</td><td>{_value(row.floor, metric.digits)}</td>"
        f"<td>{_value(row.ceiling, metric.digits)}</td><td>{escape(share(row))}</td>"
        f'<td class="code">{short(row.protocol)}</td></tr>'
    )


def _clear(row: Row) -> bool:
    """Whether the score lies above the floor by more than two standard errors of an unpaired difference."""
    error = math.hypot(row.score.error or 0.0, row.floor.error or 0.0)
    return row.score.mean - row.floor.mean > 2 * error


def _value(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "–"
    error = "" if value.error is None else f' <span class="error">± {value.error:.{digits}f}</span>'
    return f"{value.mean:.{digits}f}{error}"


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes soft">{items}</ul>' if items else ""


def _section(section: Section) -> str:
    paragraphs = "".join(f"<p>{escape(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip())
    wide = " wide" if section.wide else ""
    return f"<section><h2>{escape(section.title)}</h2>{paragraphs}{_strip(section.pictures, wide)}</section>"


def _strip(pictures: Sequence[Picture], wide: str = "") -> str:
    if not pictures:
        return ""
    items = "".join(f"<li><figure>{_picture(picture)}</figure></li>" for picture in pictures)
    return f'<ul class="strip{wide}">{items}</ul>'


def _picture(picture: Picture) -> str:
    sharp = ' class="pixels"' if picture.pixels else ""
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f'<img{sharp} src="{embedded(picture.png, "image/png")}" alt="{escape(picture.caption)}">{caption}'


def _chapter(chapter: Chapter) -> str:
    pairs = "".join(_pair(pair) for pair in chapter.pairs)
    return (
        f'<section><h2>{escape(chapter.name)}</h2><p class="soft">{escape(chapter.about)}</p>'
        f"{_strip(chapter.references)}{pairs}</section>"
    )


def _pair(pair: Pair) -> str:
    prompt = escape(pair.prompt).replace("&lt;*&gt;", "<mark>&lt;*&gt;</mark>")
    return (
        f'<article class="panel pair"><header><h3>{prompt}</h3><span class="soft">seed {pair.seed}</span></header>'
        f'<div class="sides">{_screen(pair.custom, "custom", pair)}{_screen(pair.plain, "plain", pair)}</div></article>'
    )


def _screen(screen: Screen, kind: str, pair: Pair) -> str:
    width, height = screen.size
    sharp = " pixels" if width < SMALL else ""
    words = escape(f"{screen.label}: {pair.prompt}")
    chips = "".join(
        f"<span>{escape(METRICS[key].title)} <b>{score.value:.{METRICS[key].digits}f}</b></span>"
        for key, score in screen.scores.items()
    )
    return (
        f'<div class="side {kind}"><div class="label">{escape(screen.label)}</div>'
        f'<video class="film{sharp}" style="--shape:{width}/{height}" width="{width}" height="{height}" loop muted '
        f'playsinline preload="auto" poster="{embedded(screen.poster, "image/png")}" aria-label="{words}" '
        f'src="{embedded(screen.mp4, "video/mp4")}"></video>'
        f'<img class="sheet{sharp}" tabindex="0" role="button" alt="Frames of {words}" '
        f'src="{embedded(screen.sheet, "image/png")}"><div class="chips">{chips}</div></div>'
    )


def _protocols(report: Report) -> str:
    protocols = {**report.protocols, **legend((row.metric, row.protocol) for row in report.rows)}
    measured = "".join(f'<dt>{escape(k)}</dt><dd class="code">{escape(v)}</dd>' for k, v in protocols.items())
    made = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    return (
        '<section><h2>How it was measured</h2><p class="soft">'
        "Numbers may be compared only where their protocols are equal.</p>"
        f"<details><summary>Protocols</summary><dl>{measured}</dl></details>"
        f"<details open><summary>How it was made</summary><dl>{made}</dl></details></section>"
    )


def embedded(content: bytes, kind: str) -> str:
    """A file's content as an address, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def asset(name: str) -> str:
    """A style or script that ships beside this file."""
    return (resources.files("starring.metrics") / name).read_text(encoding="utf-8").strip()
