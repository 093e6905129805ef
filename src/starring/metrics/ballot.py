"""A page on which a person picks the better of two films, without knowing whose they are.

The file stands alone: films are embedded, nothing is fetched, and the votes leave it as a file that the person saves.
Which side is which is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from starring.metrics.preference import CHOICES, FORMAT, QUESTIONS
from starring.metrics.report import SMALL, STAR, Picture, asset, embedded


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """Two films of one prompt and seed."""

    said: str
    """The prompt in words that somebody who does not know the subject understands."""
    references: Sequence[Picture]
    """The subject's photographs."""
    left: bytes
    """An mp4."""
    right: bytes
    """The other."""
    size: tuple[int, int]
    """Width and height of both."""


def ballot_page(comparison: str, duels: Sequence[Duel]) -> str:
    """The page as one string.

    Args:
        comparison: names the comparison that the votes belong to.
        duels: in the order in which they are shown.
    """
    about = json.dumps({"format": FORMAT, "comparison": comparison, "pairs": len(duels)})
    parts = [
        _header(len(duels)),
        f"<main>{''.join(_round(number, duel, len(duels)) for number, duel in enumerate(duels))}</main>",
        '<footer><button id="back" type="button">Back</button><button id="next" type="button">Next</button></footer>',
        f'<script type="application/json" id="about">{about}</script>',
        f"<script>{asset('ballot.js')}</script>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>Which film is better?</title>\n<style>{asset('report.css')}\n{asset('ballot.css')}</style>",
            "</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def _header(count: int) -> str:
    return (
        '<header class="top"><div class="brand">'
        f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{STAR}"/></svg><span>Starring</span></div>'
        f'<h1>Which film is better?</h1><p class="lead">{count} pairs of films, each of one prompt. '
        "Keys: 1 left, 2 same, 3 right. Answers stay in this browser until you save them.</p>"
        '<p><label>Your name or a pseudonym <input id="rater" autocomplete="off" maxlength="60"></label> '
        '<button id="save" type="button" disabled>Save the votes</button> '
        '<span id="state" aria-live="polite"></span></p></header>'
    )


def _round(number: int, duel: Duel, count: int) -> str:
    pictures = "".join(
        f'<li><img{" class=pixels" * picture.pixels} src="{embedded(picture.png, "image/png")}" '
        f'alt="Photograph of the subject"></li>'
        for picture in duel.references
    )
    sides = "".join(_film(side, content, duel) for side, content in (("left", duel.left), ("right", duel.right)))
    questions = "".join(_question(number, key, text) for key, text in QUESTIONS.items())
    return (
        f'<section class="round" data-pair="{number}" hidden><p class="soft">Pair {number + 1} of {count}</p>'
        f'<h2>{escape(duel.said)}</h2><ul class="strip">{pictures}</ul>'
        f'<div class="sides">{sides}</div>{questions}</section>'
    )


def _film(side: str, content: bytes, duel: Duel) -> str:
    width, height = duel.size
    sharp = " pixels" if width < SMALL else ""
    return (
        f'<div class="side"><div class="label">{side.capitalize()}</div><video class="film{sharp}" '
        f'style="--shape:{width}/{height}" width="{width}" height="{height}" loop muted playsinline preload="auto" '
        f'aria-label="The film on the {side}" src="{embedded(content, "video/mp4")}"></video></div>'
    )


def _question(number: int, key: str, text: str) -> str:
    name = f"{number}-{key}"
    answers = "".join(
        f'<label><input type="radio" name="{name}" data-question="{key}" value="{choice}"> {choice.capitalize()}'
        "</label>"
        for choice in CHOICES
    )
    return f'<fieldset><legend>{escape(text)}</legend><div class="answers">{answers}</div></fieldset>'
