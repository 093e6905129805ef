"""What the comparisons in the miniature share: who looks on, who is photographed, and what is learned only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.files import write_json, write_text
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.evaluate.shots import Shot
from starring.learn import learn, resume
from starring.metrics.statistics import estimate
from starring.metrics.suite import Judge
from starring.miniature import album, world
from starring.run import Run


@dataclass(frozen=True, kw_only=True)
class Crew:
    """What all subjects share."""

    backbone: Backbone
    judge: Judge
    steps: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The published scores of every film of a table, a file for each finished subject.

    So a table can be checked and gone on with by others, who take what is there and film who is missing.
    """

    folder: Path

    @classmethod
    def under(cls, folder: Path, state: str, settings: Mapping[str, Any]) -> Scores:
        """Where the scores of these settings lie, below a table's folder; those of others stay beside them.

        Args:
            folder: the table's.
            state: whatever else the films depend on: weights and recipes.
            settings: what a reader should know; written beside the scores.
        """
        digest = hashlib.sha256((state + json.dumps(settings, sort_keys=True)).encode()).hexdigest()[:12]
        (folder / digest).mkdir(parents=True, exist_ok=True)
        write_json(folder / digest / "settings.json", settings)
        return cls(folder=folder / digest)

    def of(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A subject's, made now unless they are there."""
        place = self.folder / f"{name}.json"
        if not place.exists():
            # Rows keep their order, so the keys are not sorted.
            write_text(place, json.dumps(make(), indent=1) + "\n")
        return json.loads(place.read_text())


def photographed(who: world.Identity, folder: Path) -> Subject:
    """Six photographs of somebody in a folder of its own, taken now unless they were before."""
    place = folder / f"{who.kind}-{who.seed}"
    if not (place / "subject.json").exists():
        album.write(place, who)
    return Subject.from_folder(place, class_word=who.kind)


def unseen(who: world.Identity) -> list[Image.Image]:
    """Six other photographs, in scenes of another order, which nobody learns from."""
    return [Image.fromarray(world.render(shot, 256).image) for shot in album.shots(who, 6, seed=1)]


def learned(
    subject: Subject, chosen: Recipe, backbone: Backbone, folder: Path, name: str, motion: Motion | None = None,
    tokens: Path | None = None,
) -> Run:  # fmt: skip
    """The finished run, learned now unless it was before."""
    place = folder / name
    if not place.exists():
        return learn(chosen.method, subject, backbone, chosen, folder, name=name, motion=motion, tokens=tokens)
    run = Run.open(place)
    return run if run.finished else resume(place, backbone, subject, motion=motion)


def told(shot: Shot) -> dict[str, float]:
    """A film's scores; where the subject was not found, it is unlike itself."""
    return {"identity": 0.0} | {key: score.value for key, score in shot.scores.items()}


def mean(films: Sequence[Mapping[str, float]], key: str) -> float:
    """Of one score over films."""
    return float(np.mean([film[key] for film in films]))


def cell(values: Sequence[float], digits: int = 3) -> str:
    """A mean with its standard error."""
    value = estimate(values)
    return f"{value.mean:.{digits}f}" + (f" ± {value.error:.{digits}f}" if value.error is not None else "")
