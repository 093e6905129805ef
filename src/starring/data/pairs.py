"""Pairs of a picture and a clip, from which zero-shot customization is learned: a folder with ``metadata.jsonl``.

::

    pairs/
      metadata.jsonl     {"reference": "references/0.png", "clip": "clips/0.mp4",
                          "caption": "a red toy on the beach", "entity": "toy"}     one line for each pair
      references/        each subject cut out: transparent around it, or on a plain background
      clips/             anything that FFmpeg reads, or folders of frames

Names are relative to the folder. docs/methods/customvideox.md has the details.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from starring.data.captions import json_lines
from starring.data.footage import paced, reel
from starring.data.prompts import mentions
from starring.data.subject import Complaint, slug
from starring.errors import StarringError

FILE = "metadata.jsonl"
KEYS = ("reference", "clip", "caption", "entity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One line of ``metadata.jsonl``."""

    reference: Path
    """The subject, cut out."""
    clip: Path
    """A clip in which it appears."""
    caption: str
    """What the clip shows."""
    entity: str
    """The word for the subject in the caption."""

    def frames(self, count: int, fps: float, pace: str) -> list[Image.Image]:
        """Frames of the clip, upright, from its beginning.

        Args:
            count: how many.
            fps: frames per second of a film.
            pace: ``first`` or ``film`` (:attr:`starring.config.Data.pace`).

        Raises:
            StarringError: if it cannot be decoded so far, or is too short, with its length and the need.
        """
        there, wanted, kept = 0, set[int](), dict[int, Image.Image]()
        with reel(self.clip) as opened:
            numbers = paced(count, (opened.fps or fps) / fps if pace == "film" else 1.0)
            wanted = set(numbers)
            for number, frame in enumerate(opened.frames):
                there = number + 1
                if number in wanted:
                    kept[number] = Image.fromarray(np.asarray(frame.upright()))
                if number >= numbers[-1]:
                    return [kept[each] for each in numbers]
        raise StarringError(
            f"it has {there} frames, and {count} frames of a film need {numbers[-1] + 1} of them. Take a longer clip,"
            " or learn shorter films with --frames."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """A corpus of pairs, of many subjects."""

    rows: list[Pair]
    """Those that can be used, as far as that is known without decoding anything."""
    place: Path
    """The folder."""
    name: str
    """Names the corpus."""
    digest: str
    """SHA-256 of what the lines say and of how long the files are that they name."""
    skipped: list[Complaint] = field(default_factory=list[Complaint])
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, place: str | Path) -> Pairs:
        """The corpus in a folder. Pairs that cannot be used are left out and told in ``skipped``.

        Raises:
            StarringError: if there is no ``metadata.jsonl``, a line of it is no JSON object with the four keys (with
                its number), or no pair can be used (with the first reason).
        """
        place = Path(place).expanduser()
        listed = place / FILE
        if not listed.is_file():
            raise StarringError(
                f"{place} holds no {FILE}, which names a reference, a clip, its caption and the entity in each line:"
                ' {"reference": "toy.png", "clip": "toy.mp4", "caption": "a toy on the beach", "entity": "toy"}.'
            )
        kept, skipped, digest = list[Pair](), list[Complaint](), hashlib.sha256()
        for number, pair in _lines(listed):
            reason, advice = _objection(pair)
            if reason:
                message = f"line {number} was left out: {reason}"
                skipped.append(Complaint(path=listed, kind="pair", message=message, advice=advice))
                continue
            kept.append(pair)
            names = [os.path.relpath(path, place) for path in (pair.reference, pair.clip)]
            sizes = [_size(path) for path in (pair.reference, pair.clip)]
            digest.update(json.dumps([*names, pair.caption, pair.entity, *sizes]).encode())
        if not kept:
            raise StarringError(f"No pair in {place} can be used. {skipped[0] if skipped else f'{FILE} is empty.'}")
        return cls(
            rows=kept, place=place, name=slug(place.resolve().name), digest=digest.hexdigest(), skipped=skipped
        )  # fmt: skip


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder of frames."""
    return sum(file.stat().st_size for file in sorted(path.iterdir())) if path.is_dir() else path.stat().st_size


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsRecord:
    """The corpus of a run, as far as it must be known again."""

    name: str
    """The corpus's name."""
    place: str
    """The folder; empty if it is nobody's business."""
    digest: str
    """See :attr:`Pairs.digest`."""
    count: int
    """How many pairs."""

    @classmethod
    def of(cls, pairs: Pairs) -> PairsRecord:
        """The record of a corpus."""
        return cls(name=pairs.name, place=str(pairs.place.resolve()), digest=pairs.digest, count=len(pairs))


def _lines(listed: Path) -> Iterator[tuple[int, Pair]]:
    for number, row in json_lines(listed):
        values = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
        missing = [key for key in KEYS if not isinstance(values.get(key), str) or not values[key].strip()]
        if missing:
            raise StarringError(
                f"Line {number} of {listed} lacks {', '.join(missing)}. Each line has {', '.join(KEYS)}, as text."
            )
        pair = Pair(
            reference=listed.parent / values["reference"], clip=listed.parent / values["clip"],
            caption=" ".join(values["caption"].split()), entity=" ".join(values["entity"].split()),
        )  # fmt: skip
        yield number, pair


def _objection(pair: Pair) -> tuple[str, str]:
    """Why a pair cannot be used, and what to do; both empty if nothing is known against it."""
    if not pair.reference.is_file():
        return f"there is no {pair.reference}.", "Correct the name, or remove the line."
    if not pair.clip.exists():
        return f"there is no {pair.clip}.", "Correct the name, or remove the line."
    if not mentions(pair.caption, pair.entity):
        return (
            f"its caption does not name the entity '{pair.entity}': {pair.caption}.",
            "Name it there, or give the word that the caption has for it.",
        )
    return "", ""
