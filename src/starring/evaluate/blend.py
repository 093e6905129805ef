"""What a run of identity and motion made of the two: how it weighs them, and whether one leaked into the other.

The curves are the paper's Fig. 7 (DualReal, arXiv 2505.02192): the identity's share in each group of blocks over the
denoising steps. The leak report films the same prompts and noise with both adapters, with each alone, and without: an
identity adapter alone should bring none of the motion, and a motion adapter alone none of the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Sample, to_json
from starring.data.files import write_image, write_json
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.evaluate.moves import films_of
from starring.evaluate.shots import as_pixels
from starring.evaluate.wishes import find_judge, settings_of
from starring.generate import generate
from starring.generate.ask import prepared
from starring.generate.films import Progress, film
from starring.methods import find
from starring.metrics.look import Look
from starring.metrics.motion import course, course_likeness, trail
from starring.metrics.suite import Judge
from starring.metrics.table import Table
from starring.perception.encoders import DINO
from starring.perception.flow import DIS, Flow
from starring.perception.segment import Segmenter, suiting
from starring.perception.transforms import to_unit
from starring.run import Run

ROWS: Mapping[str, str | None] = {"both": "both", "identity alone": "identity", "motion alone": "motion",
                                  "without": None}  # fmt: skip
"""Whose adapters act in each row of the leak report."""
WIDTH, HEIGHT, EDGE = 720, 420, 56
"""Of the curves' picture, and of its margin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """The controller's weights over a film."""

    times: tuple[float, ...]
    """Timesteps, the noisiest first."""
    shares: tuple[tuple[float, ...], ...]
    """The identity's share in [0, 1] by step and group, the shallowest group first."""
    picture: Path
    """The same, drawn."""
    data: Path
    """The same, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaks:
    """Scores by row of :data:`ROWS`."""

    scores: Mapping[str, Mapping[str, float]]
    """Of each row ``identity`` (DINO-I with the photographs), ``motion`` (correlation of courses with the clips), and
    ``trajectory`` (the same of trails), if it was said who moves in the clips."""
    kept: Mapping[str, Mapping[str, float | None]]
    """How much of what both gain over none each side has alone; ``None`` where both gain nothing."""
    table: Table
    """The same as text."""
    data: Path
    """The same, as JSON."""


def curves(
    run: Run, prompt: str, *, seed: int = 0, backbone: Backbone | None = None,
    sample: Sample | Mapping[str, Any] | None = None, folder: str | Path | None = None,
) -> Curves:  # fmt: skip
    """Film a prompt and write down how the two sides were weighed, for the conditional branch.

    Args:
        run: a finished run with a controller.
        prompt: with ``<*>``.
        seed: of the film.
        backbone: the run's own by default.
        sample: as in :func:`starring.generate.generate`.
        folder: where ``blend.png`` and ``blend.json`` go; the run's ``blend`` by default.

    Raises:
        StarringError: if the run has no controller.
    """
    _require(run)
    if not run.record.recipe.options.get("controller", False):
        raise StarringError(f"{run.folder} was learned without a controller, so its weights never change.")
    shared = prepared(run, backbone=backbone, sample=sample)
    method: Any = shared.method
    method.tape = {}
    film(shared, Progress(film=1, films=1, step=0, steps=shared.sample.steps, prompt=prompt, seed=seed), None)
    tape: dict[float, Tensor] = method.tape
    times = tuple(sorted(tape, reverse=True))
    shares = tuple(tuple(float(each) for each in tape[t][-1]) for t in times)
    home = Path(folder).expanduser() if folder is not None else run.folder / "blend"
    home.mkdir(parents=True, exist_ok=True)
    picture, data = home / "blend.png", home / "blend.json"
    write_image(picture, drawn(shares))
    write_json(data, {"prompt": prompt, "seed": seed, "times": times, "identity_share": shares})
    return Curves(times=times, shares=shares, picture=picture, data=data)


def leaks(
    run: Run, subject: Subject, motion: Motion, prompts: Sequence[str], *, seeds: Sequence[int] = (0,),
    backbone: Backbone | None = None, sample: Sample | Mapping[str, Any] | None = None,
    judge: Judge | str | None = None, flow: Flow | None = None, mover: str = "",
    segmenter: Segmenter | str | None = None, folder: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Leaks:  # fmt: skip
    """Film prompts with both sides, each alone, and none, and score subject and motion.

    Args:
        run: a finished run.
        subject: its photographs.
        motion: its clips.
        prompts: with ``<*>``; they should name the motion.
        seeds: one film for each prompt and seed.
        backbone: the run's own by default.
        sample: as in :func:`starring.generate.generate`.
        judge: whose DINO compares; by default the one that suits the run's backbone.
        flow: measures motion; DIS by default.
        mover: what moves in the clips, such as ``person``. With it, the way of the subject's middle is compared with
            that of the mover's.
        segmenter: cuts out both for that; by default the one that suits the backbone.
        folder: where ``leaks.json`` goes; the run's ``blend`` by default.
        on_progress: called with (films done, films in all).

    Raises:
        StarringError: if the run has no two sides, or no clip shows the mover.
    """
    _require(run)
    loaded = backbone or load_backbone(**run.record.origin)
    known = settings_of(sample)
    whole = known if isinstance(known, Sample) else replace(run.record.recipe.sample or loaded.sample, **known)
    scale = _scale(run, subject, motion, whole, find_judge(judge, run, loaded).dino, flow or DIS())
    if mover:
        scale = _with_trails(scale, motion, run, whole, mover, suiting(segmenter, loaded.name, loaded.device))
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in ROWS}
    total, done = len(ROWS) * len(prompts) * len(seeds), 0
    for name, sides in ROWS.items():
        seen = _sided(run, sides) if sides is not None else run
        for prompt in prompts:
            for seed in seeds:
                (made,) = generate(
                    seen, prompt, seed=seed, backbone=loaded, sample=whole, customized=sides is not None, write=False
                )
                found[name].append(scale.scores(to_unit(as_pixels(made.frames)).transpose(0, 1)))
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
    home = Path(folder).expanduser() if folder is not None else run.folder / "blend"
    return _told(found, home, {"prompts": list(prompts), "seeds": list(seeds), "sample": to_json(whole),
                               "judge": scale.dino.protocol, "flow": scale.flow.protocol})  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scale:
    """What films are held against."""

    dino: DINO
    photographs: Tensor
    flow: Flow
    courses: Sequence[Tensor]
    trails: Sequence[Tensor] = ()
    masks: Callable[[Tensor], Sequence[Tensor]] | None = None

    def scores(self, frames: Tensor) -> dict[str, float]:
        """Of a film ``f 3 H W`` in [0, 1]; a film that does not show its subject goes no way."""
        with torch.no_grad():
            found = {"identity": float((self.dino.images(frames) @ self.photographs.T).mean())}
        own = course(self.flow(frames))
        found["motion"] = float(np.mean([course_likeness(own, each) for each in self.courses]))
        if self.masks is not None:
            way = trail(self.masks(frames))
            alike = [course_likeness(way, each) for each in self.trails] if way is not None else [0.0]
            found["trajectory"] = float(np.mean(alike))
        return found


def _scale(run: Run, subject: Subject, motion: Motion, sample: Sample, dino: DINO, flow: Flow) -> _Scale:
    courses = [course(flow(clip)) for clip in films_of(motion, run.record.recipe.data, sample)]
    return _Scale(dino=dino, photographs=dino.pictures(subject.images), flow=flow, courses=courses)


def _with_trails(scale: _Scale, motion: Motion, run: Run, sample: Sample, mover: str, segmenter: Segmenter) -> _Scale:
    def masks(frames: Tensor, word: str = run.record.subject.class_word) -> Sequence[Tensor]:
        return Look(frames, sample.fps).masks(segmenter, word)

    ways = [trail(masks(clip, mover)) for clip in films_of(motion, run.record.recipe.data, sample)]
    found = [way for way in ways if way is not None]
    if not found:
        raise StarringError(f"No clip in {motion.place} shows a {mover}. Name what moves there: --mover WORD.")
    return replace(scale, trails=found, masks=masks)


def _told(found: Mapping[str, Sequence[Mapping[str, float]]], home: Path, about: Mapping[str, Any]) -> Leaks:
    scores = {
        name: {key: float(np.mean([each[key] for each in values])) for key in values[0]}
        for name, values in found.items()
    }
    kept = {name: {key: _kept(scores, name, key) for key in scores[name]} for name in list(ROWS)[1:3]}
    rows = tuple((name, *(f"{value:.3f}" for value in each.values())) for name, each in scores.items())
    count = len(next(iter(found.values())))
    titles = {"identity": "identity (DINO-I)", "motion": "motion (course)", "trajectory": "trajectory (centroid)"}
    table = Table(
        title="What each side brings alone", columns=("adapters", *(titles[key] for key in scores["both"])), rows=rows,
        notes=(f"Mean of {count} films a row, of equal prompts and noise.",),
    )  # fmt: skip
    home.mkdir(parents=True, exist_ok=True)
    data = home / "leaks.json"
    write_json(data, {**about, "scores": scores, "kept": kept})
    return Leaks(scores=scores, kept=kept, table=table, data=data)


def _kept(scores: Mapping[str, Mapping[str, float]], name: str, key: str) -> float | None:
    gain = scores["both"][key] - scores["without"][key]
    return (scores[name][key] - scores["without"][key]) / gain if gain > 0 else None


def _require(run: Run) -> None:
    method = run.record.recipe.method
    if not find(method).moving:
        raise StarringError(f"{run.folder} was learned by {method}, which has no motion to weigh. dualreal has.")


def _sided(run: Run, sides: str) -> Run:
    recipe = run.record.recipe
    options = {**recipe.options, "sides": sides}
    return replace(run, record=replace(run.record, recipe=replace(recipe, options=options)))


def drawn(shares: Sequence[Sequence[float]]) -> Image.Image:
    """The identity's share over the steps: shallow groups in blue, the deepest in red, their mean dashed in orange."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen: Any = ImageDraw.Draw(image)
    steps, groups = len(shares), len(shares[0])

    def at(step: float, value: float) -> tuple[float, float]:
        x = EDGE + (WIDTH - 2 * EDGE) * step / max(1, steps - 1)
        return x, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * value

    for tick in range(6):
        value = tick / 5
        pen.line([at(0, value), at(max(1, steps - 1), value)], fill="#dddddd")
        pen.text((EDGE - 30, at(0, value)[1] - 6), f"{value:.1f}", fill="black")
        step = round((steps - 1) * value)
        pen.text((at(step, 0)[0] - 6, HEIGHT - EDGE + 8), str(step), fill="black")
    pen.text((WIDTH // 2 - 40, HEIGHT - 24), "denoising step", fill="black")
    pen.text((8, 16), "identity share of the adapters' weight, by group of blocks", fill="black")
    for group in range(groups):
        deep = group == groups - 1 and groups > 1
        tint = 60 + 130 * group // max(1, groups - 1)
        colour = (214, 39, 40) if deep else (180 - tint, 200 - tint // 2, 255 - tint // 4)
        pen.line([at(i, row[group]) for i, row in enumerate(shares)], fill=colour, width=2)
        pen.text((WIDTH - EDGE + 6, at(steps - 1, shares[-1][group])[1] - 6), f"{group + 1}", fill=colour)
    mean = [sum(row) / groups for row in shares]
    for i in range(0, steps - 1, 2):
        pen.line([at(i, mean[i]), at(i + 1, mean[i + 1])], fill=(255, 127, 14), width=3)
    return image
