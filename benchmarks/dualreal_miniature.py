"""DualReal on held-out subjects of the miniature: do they move as the clips do, and are they still themselves?

    python benchmarks/dualreal_miniature.py --subjects 6 --seeds 2
    python benchmarks/dualreal_miniature.py --motions circling     # only the one that it never saw

Each subject is learned from six photographs together with each motion, which others show in clips: three motions that
the miniature knows, and moving in a circle, which it never saw. Nothing of a film's prompt was shown together: the
clips show other classes than the subject's, and both clips and photographs other scenes than the films'. Filmed are
DualReal, its sides learned apart and blended half and half, and the base model with the class word, all with the same
prompts and seeds.

A film's *trajectory* is the correlation of the way that the subject's middle takes, cut out by the segmenter, with the
ways in the clips, whose masks are exact. Identity is told against six photographs that nobody learned from, and what of
it is *recovered* between the base model and the ceiling, the subject really rendered doing what the prompt says. *Both*
is the product of the two, below by zero cut off. Runs are finished one after the other, and what was made is kept, so
that it goes on where it was stopped and the table holds whoever is finished. The scores of all films lie in
``benchmarks/scores``: whoever is found there is not learned again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from crew import Crew, Scores, cell, learned, mean, photographed, told, unseen
from rich.console import Console
from rich.table import Table
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, to_json
from starring.data.motion import Motion
from starring.data.prompts import plain
from starring.errors import unknown
from starring.evaluate.shots import Ledger, Order, Studio, as_pixels
from starring.generate.films import fingerprint
from starring.methods import recipe
from starring.metrics.motion import course_likeness, flow_magnitude_top, trail
from starring.metrics.protocols import Protocol
from starring.metrics.statistics import estimate
from starring.metrics.suite import Judge, References, load_judge
from starring.miniature import album, showing, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS
from starring.miniature.scenes import SCENES
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.perception.flow import DIS
from starring.perception.transforms import to_unit
from starring.run import Run

MOTIONS = ("right", "left", "jumping", *world.UNSEEN_MOTIONS)
FLOOR, CEILING, OWN = "base model", "the subject itself", "DualReal"
APART = "learned apart, half and half"
SCORES = ("identity", "dino_i", "clip_t", "motion_top")
TRAJECTORY, RECOVERED, MAGNITUDE = 0.7, 0.4, 0.15
"""What shall be reached: the held-out motion's trajectory, the recovered identity, how far the motion may be off."""
Films = list[dict[str, float]]
console = Console()


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What shows a motion."""

    motion: Motion
    ways: Sequence[Tensor]
    speed: float


def phrase(motion: str) -> str:
    """How a prompt names it; what the miniature never saw, by words that mean no motion to it."""
    return MOTION_WORDS[motion][0] if motion in MOTION_WORDS else world.UNSEEN_MOTIONS[motion]


def unseen_scenes(who: world.Identity) -> list[str]:
    """The scenes that none of a subject's photographs shows."""
    shown = {shot.scene for shot in album.shots(who)}
    return [scene for scene in SCENES if scene not in shown]


def clips_of(who: world.Identity, motion: str, folder: Path, backbone: Backbone) -> Clips:
    """Clips of others, none of the subject's class, in scenes that are not filmed."""
    place, words, sample = folder / "clips" / f"{who.kind}-{who.seed}-{motion}", phrase(motion), backbone.sample
    ways, speeds = list[Tensor](), list[float]()
    for _, film in showing.films(who.kind, who.seed, words, sample.frames):
        way = trail([torch.from_numpy(frame.mask) for frame in film])
        assert way is not None  # whoever is rendered is seen
        ways.append(way)
        speeds.append(flow_magnitude_top(DIS()(to_unit(showing.pixels(film))[0].transpose(0, 1))))
    showing.kept(place, who.kind, who.seed, words, sample.frames, sample.fps)
    return Clips(motion=Motion.read(place), ways=ways, speed=float(np.mean(speeds)))


def rows_of(train_steps: int | None) -> dict[str, Recipe]:
    """What is learned, by row."""
    own = recipe("dualreal-miniature")
    if train_steps is not None:
        own = replace(own, stages=tuple(replace(s, train=replace(s.train, steps=train_steps)) for s in own.stages))
    return {OWN: own, APART: replace(own, options={**own.options, "controller": False, "joint": False})}


def cast(count: int, development: bool) -> list[world.Identity]:
    """Subjects that no training saw; classes in turn, but people."""
    kinds = [kind for kind in CLASSES if kind not in PEOPLE]
    return [
        world.identity(10 * (41 + i) + (1 if development else 0), kinds[i % len(kinds)])
        for i in range(count)
    ]  # fmt: skip


def moves(frames: Tensor, word: str, clips: Clips, judge: Judge) -> dict[str, float]:
    """How a film ``1 3 F H W`` in [-1, 1] moves: its way against the clips', its motion as a share of theirs."""
    segmenter = judge.eyes.segmenter
    assert segmenter is not None  # the judge is loaded with one
    look = judge.look(frames)
    way = trail(look.masks(segmenter, word))
    alike = [course_likeness(way, each) for each in clips.ways] if way is not None else [0.0]
    speed = flow_magnitude_top(look.flow(DIS()))
    return {"trajectory": float(np.mean(alike)), "magnitude": speed / clips.speed}


def filmed(run: Run, customized: bool, studio: Studio, known: References, clips: Clips, prompts: Sequence[str],
           crew: Crew) -> Films:  # fmt: skip
    """Scores of a run's films of all prompts and seeds, or of the base model's."""
    record = run.record
    word = record.subject.class_word
    weights = hashlib.sha256(run.weights.read_bytes()).hexdigest() if customized else None
    sample = replace(record.recipe.sample or crew.backbone.sample, steps=crew.steps)
    found: Films = []
    for prompt in prompts:
        for seed in range(crew.seeds):
            order = Order(
                run=run, customized=customized, prompt=prompt, said=plain(prompt, word), seed=seed, sample=sample,
                correlation=0.0, weights=weights,
            )  # fmt: skip
            shot = studio.shot(order, crew.backbone, known)
            found.append(told(shot) | moves(as_pixels(shot.load()), word, clips, crew.judge))
    return found


def really(who: world.Identity, motion: str, known: References, clips: Clips, crew: Crew) -> Films:
    """Scores of the subject itself doing it where it is filmed, which no film can be expected to exceed."""
    found: Films = []
    for i, scene in enumerate(unseen_scenes(who)):
        shot = world.stage(who, scene, motion, "normal", 1, 1000 + i)
        pixels = showing.pixels(world.film(shot, crew.backbone.sample.frames))
        said = f"a {who.kind} {phrase(motion)} {SCENE_WORDS[scene][0]}"
        scores = crew.judge.score(pixels[0], said, known, class_word=who.kind)
        found.append({key: score.value for key, score in scores.items()} | moves(pixels, who.kind, clips, crew.judge))
    return found


def subject_rows(
    who: world.Identity, folder: Path, crew: Crew, recipes: Mapping[str, Recipe], motions: Sequence[str] = MOTIONS
) -> dict[str, dict[str, Films]]:
    """Scores of all films of one subject, by motion and row; learned and filmed now unless they were before."""
    subject = photographed(who, folder / "photographs")
    name, known = subject.name, crew.judge.references(unseen(who))
    found: dict[str, dict[str, Films]] = {}
    for motion in motions:
        clips = clips_of(who, motion, folder, crew.backbone)
        studio = Studio(Ledger.open(folder / "films" / f"{name}-{motion}"), crew.judge, lambda *_: None)
        prompts = [f"a <*> {who.kind} {phrase(motion)} {SCENE_WORDS[scene][0]}" for scene in unseen_scenes(who)]
        rows: dict[str, Films] = {}
        for label, chosen in recipes.items():
            title = "-".join((name, motion, *label.replace(",", "").split()))
            run = learned(subject, chosen, crew.backbone, folder / "runs", title, motion=clips.motion)
            if FLOOR not in rows:
                rows[FLOOR] = filmed(run, False, studio, known, clips, prompts, crew)
            rows[label] = filmed(run, True, studio, known, clips, prompts, crew)
            means = {key: round(mean(rows[label], key), 3) for key in ("trajectory", *SCORES, "magnitude")}
            console.print(f"{name}, {motion}, {label}: {means}")
        rows[CEILING] = really(who, motion, known, clips, crew)
        found[motion] = rows
    return found


def recovered(rows: Mapping[str, Films], label: str, key: str) -> float:
    """The share of the way from the base model to the subject itself."""
    floor, ceiling = mean(rows[FLOOR], key), mean(rows[CEILING], key)
    return (mean(rows[label], key) - floor) / (ceiling - floor)


def both(rows: Mapping[str, Films], label: str) -> float:
    """Trajectory times recovered identity, each at least 0."""
    return max(mean(rows[label], "trajectory"), 0.0) * max(recovered(rows, label, "identity"), 0.0)


def table(title: str, subjects: Sequence[Sequence[Mapping[str, Films]]]) -> None:
    """Means over a subject's films and motions, then over subjects with their standard error."""
    shown = Table(
        "", "trajectory", "identity", "recovered", "DINO-I recovered", "CLIP-T", "motion of the clips'", "both",
        "less DualReal's", title=title,
    )  # fmt: skip
    for label in subjects[0][0]:
        tells = label not in (FLOOR, CEILING)

        def over(score, label: str = label) -> list[float]:  # pyright: ignore
            return [float(np.mean([score(rows, label) for rows in motions])) for motions in subjects]

        behind = [a - b for a, b in zip(over(both), over(lambda rows, _: both(rows, OWN)), strict=True)]
        shown.add_row(
            label,
            *(cell(over(lambda rows, which, key=key: mean(rows[which], key))) for key in ("trajectory", "identity")),
            *(cell(over(lambda r, which, key=key: recovered(r, which, key))) if tells else "" for key in SCORES[:2]),
            *(cell(over(lambda rows, which, key=key: mean(rows[which], key))) for key in ("clip_t", "magnitude")),
            cell(over(both)) if tells else "",
            cell(behind) if tells and label != OWN else "",
        )
    console.print(shown)


def main(
    subjects: int = 6, seeds: int = 2, steps: int = 25, train_steps: int | None = None, development: bool = False,
    backbone: str = "miniature-dit", out: Path = Path("build/dualreal-miniature"),
    scores: Path = Path("benchmarks/scores/dualreal"), skip: int = 0, motions: tuple[str, ...] = MOTIONS,
) -> None:  # fmt: skip
    """Run the comparison.

    Args:
        subjects: how many.
        seeds: films of each prompt.
        steps: denoising steps of each film.
        train_steps: instead of the recipe's own.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        backbone: the second miniature, or a folder with one.
        out: where everything goes.
        scores: where the scores of the finished subjects lie.
        skip: leave out so many of the first subjects, which another process makes; without it all are found made.
        motions: which; scores of some are kept beside those of all.
    """
    for motion in motions:
        if motion not in MOTIONS:
            raise unknown("motion", motion, MOTIONS)
    loaded = load_backbone(backbone)
    protocol = Protocol(name="dualreal-miniature", source="DualReal, section 4, in small", metrics=SCORES)
    judge = load_judge("miniature", protocol=protocol, eyes={"identity": "miniature-score", "segmenter": "miniature"})
    crew = Crew(backbone=loaded, judge=judge, steps=steps, seeds=seeds)
    recipes = rows_of(train_steps)
    state = f"{fingerprint(loaded)} {to_json(dict(recipes))}"
    folder = out / hashlib.sha256(state.encode()).hexdigest()[:12]
    found: dict[str, dict[str, dict[str, Films]]] = {}
    settings = {"seeds": seeds, "steps": steps, "judge": judge.protocol, "development": development}
    if motions != MOTIONS:
        settings["motions"] = list(motions)
    published = Scores.under(scores, state, settings)
    for who in cast(subjects, development)[skip:]:
        name = f"{who.kind}-{who.seed}"
        found[name] = published.of(name, lambda who=who: subject_rows(who, folder, crew, recipes, motions))
        for motion in motions:
            table(f"{motion}: {len(found)}", [[rows[motion]] for rows in found.values()])
        if len(motions) > 1:
            table(f"all motions: {len(found)}", [list(rows.values()) for rows in found.values()])
    unseen = next(iter(world.UNSEEN_MOTIONS))
    if unseen in motions:
        verdict([rows[unseen] for rows in found.values()], [list(rows.values()) for rows in found.values()])


def verdict(unseen: Sequence[Mapping[str, Films]], every: Sequence[Sequence[Mapping[str, Films]]]) -> None:
    """What was to be reached, and whether it was."""
    trajectory = float(np.mean([mean(rows[OWN], "trajectory") for rows in unseen]))
    base = float(np.mean([mean(rows[FLOOR], "trajectory") for rows in unseen]))
    identity = float(np.mean([recovered(rows, OWN, "identity") for motions in every for rows in motions]))
    magnitude = float(np.mean([mean(rows[OWN], "magnitude") for motions in every for rows in motions]))
    apart = estimate([float(np.mean([both(r, OWN) - both(r, APART) for r in motions])) for motions in every])
    for line, met in (
        (f"trajectory of the unseen motion {trajectory:.2f}, at least {TRAJECTORY}", trajectory >= TRAJECTORY),
        (f"the base model's {base:.2f}, within 0.2 of 0", abs(base) <= 0.2),
        (f"identity recovered {identity:.2f}, at least {RECOVERED}", identity >= RECOVERED),
        (f"motion {magnitude:.2f} of the clips', within {MAGNITUDE} of 1", abs(magnitude - 1) <= MAGNITUDE),
        (
            f"both, more than learned apart by {apart.mean:.2f} ± {apart.error or 0:.2f}",
            apart.mean > (apart.error or 0),
        ),
    ):
        console.print(f"{'reached' if met else 'not reached'}: {line}")


if __name__ == "__main__":
    tyro.cli(main)
