"""DualReal on held-out subjects of the miniature: do they move as the clips do, and are they still themselves?

    python benchmarks/dualreal_miniature.py --subjects 6 --seeds 2

Each subject is learned from six photographs together with each motion, which others show in six clips: three motions
that the miniature knows, and a zigzag, which it never saw. Filmed are DualReal, its two sides learned apart and
blended, and the base model, with the same prompts and seeds. A film's *trajectory* is the correlation of the way that
the subject's middle takes, cut out by the segmenter, with the ways in the clips, whose masks are exact. Runs are
finished one after the other, and what was made is kept, so that it goes on where it was stopped and the table holds
whoever is finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from personalvideo_miniature import learned
from rich.console import Console
from rich.table import Table
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe
from starring.data.files import write_json
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.data.video import write_video
from starring.evaluate.shots import as_pixels
from starring.generate import generate
from starring.generate.films import fingerprint
from starring.methods import recipe_for
from starring.metrics.identity import image_similarity, leave_one_out
from starring.metrics.look import Look
from starring.metrics.motion import course_likeness, flow_magnitude_top, trail
from starring.metrics.statistics import estimate
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS
from starring.miniature.scenes import SCENES
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.perception.encoders import DINO, load_dino
from starring.perception.flow import DIS
from starring.perception.segment import Segmenter, load_segmenter
from starring.perception.transforms import to_unit
from starring.run import Run

MOTIONS = ("right", "left", "jumping", *world.UNSEEN_MOTIONS)
FLOOR, OWN, APART = "base model", "DualReal", "learned apart, blended"
SCORES = ("trajectory", "DINO-I", "motion")
CLIPS, SHOWN_IN = 6, ("meadow", "desert")
console = Console()


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What shows a motion."""

    motion: Motion
    ways: Sequence[Tensor]
    speed: float


def phrase(motion: str) -> str:
    """How a prompt names it; for what nobody knows, by a word that means nothing to the miniature."""
    return MOTION_WORDS[motion][0] if motion in MOTION_WORDS else f"moving in {motion}"


def clips_of(motion: str, folder: Path, backbone: Backbone) -> Clips:
    """Six clips of others, each of another class in another scene, and the ways of their middles."""
    frames, place = backbone.sample.frames, folder / "clips" / motion
    place.mkdir(parents=True, exist_ok=True)
    prompts, ways, speeds = list[str](), list[Tensor](), list[float]()
    for i in range(CLIPS):
        rng = np.random.default_rng([i, MOTIONS.index(motion)])
        who = world.identity(world.training_seed(rng), tuple(CLASSES)[i])
        film = world.film(world.stage(who, tuple(SCENES)[i], motion, "normal", 1, i), frames)
        pixels = torch.from_numpy(np.stack([frame.image for frame in film])).permute(3, 0, 1, 2)[None] / 127.5 - 1
        if not (path := place / f"{i}.mp4").exists():
            write_video(path, pixels, fps=backbone.sample.fps)
        way = trail([torch.from_numpy(frame.mask) for frame in film])
        assert way is not None
        prompts.append(f"a {who.kind} {phrase(motion)}")
        ways.append(way)
        speeds.append(flow_magnitude_top(DIS()(to_unit(pixels)[0].transpose(0, 1))))
    (place / "prompts.txt").write_text("\n".join(prompts) + "\n")
    return Clips(motion=Motion.read(place), ways=ways, speed=float(np.mean(speeds)))


def rows_of(backbone: Backbone, train_steps: int | None) -> dict[str, Recipe]:
    """What is learned, by row."""
    own = recipe_for("dualreal", backbone)
    if train_steps is not None:
        own = replace(own, stages=tuple(replace(s, train=replace(s.train, steps=train_steps)) for s in own.stages))
    return {OWN: own, APART: replace(own, options={**own.options, "joint": False, "controller": False})}


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What all films share."""

    backbone: Backbone
    dino: DINO
    segmenter: Segmenter
    seeds: int
    steps: int
    folder: Path

    def scores(self, run: Run, customized: bool, subject: Subject, clips: Clips, motion: str) -> list[dict[str, float]]:
        """Of every prompt and seed, filmed now unless they were before."""
        which = "own" if customized else "base"
        file = self.folder / "scores" / f"{run.name}-{which}-{self.steps}-{self.seeds}.json"
        if file.exists():
            return json.loads(file.read_text())
        known, word = self.dino.pictures(subject.images), subject.class_word
        found: list[dict[str, float]] = []
        for scene in SHOWN_IN:
            prompt = f"a <*> {word} {phrase(motion)} {SCENE_WORDS[scene][0]}"
            for seed in range(self.seeds):
                (film,) = generate(
                    run, prompt, seed=seed, backbone=self.backbone, sample={"steps": self.steps},
                    customized=customized, folder=self.folder / "films" / run.name / which,
                )  # fmt: skip
                look = Look(to_unit(as_pixels(film.frames)).transpose(0, 1), self.backbone.sample.fps)
                way = trail(look.masks(self.segmenter, word))
                alike = [course_likeness(way, each) for each in clips.ways] if way is not None else [0.0]
                found.append({
                    "trajectory": float(np.mean(alike)),
                    "DINO-I": image_similarity(look.vectors(self.dino), known),
                    "motion": flow_magnitude_top(look.flow(DIS())) / clips.speed,
                })  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        return found


def cast(count: int, development: bool, folder: Path) -> list[Subject]:
    """Subjects that no training saw; classes in turn, but people."""
    kinds = [kind for kind in CLASSES if kind not in PEOPLE]
    found: list[Subject] = []
    for i in range(count):
        who = world.identity(10 * (41 + i) + (1 if development else 0), kinds[i % len(kinds)])
        place = folder / "photographs" / f"{who.kind}-{who.seed}"
        if not (place / "subject.json").exists():
            album.write(place, who)
        found.append(Subject.from_folder(place, class_word=who.kind))
    return found


def table(title: str, rows: dict[str, list[dict[str, list[dict[str, float]]]]], ceiling: float) -> None:
    """Means over a run's films, then over runs with their standard error."""
    shown = Table("", "trajectory", "DINO-I", "recovered", "motion of the clips'", title=title)
    films = [each for group in rows.values() for each in group]

    def means(label: str, key: str) -> list[float]:
        return [float(np.mean([film[key] for film in each[label]])) for each in films]

    floor = float(np.mean(means(FLOOR, "DINO-I")))
    for label in films[0]:
        cells: list[str] = []
        for key in SCORES:
            value = estimate(means(label, key))
            cells.append(f"{value.mean:.3f}" + (f" ± {value.error:.3f}" if value.error is not None else ""))
        share = (float(np.mean(means(label, "DINO-I"))) - floor) / (ceiling - floor)
        shown.add_row(label, cells[0], cells[1], "" if label == FLOOR else f"{100 * share:.0f} %", cells[2])
    console.print(shown)


def main(
    subjects: int = 6, seeds: int = 2, steps: int = 25, train_steps: int | None = None, development: bool = False,
    backbone: str = "miniature-dit", out: Path = Path("build/dualreal-miniature"),
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
    """
    loaded = load_backbone(backbone)
    folder = out / f"{fingerprint(loaded)[:10]}-{train_steps or 'recipe'}"
    dino, segmenter = load_dino("miniature"), load_segmenter("miniature")
    studio = Studio(backbone=loaded, dino=dino, segmenter=segmenter, seeds=seeds, steps=steps, folder=folder)
    who = cast(subjects, development, folder)
    ceilings = [float(leave_one_out(dino.pictures(subject.images)).mean()) for subject in who]
    found: dict[str, list[dict[str, list[dict[str, float]]]]] = {motion: [] for motion in MOTIONS}
    for i, subject in enumerate(who):
        for motion in MOTIONS:
            clips, films = clips_of(motion, folder, loaded), dict[str, list[dict[str, float]]]()
            for label, chosen in rows_of(loaded, train_steps).items():
                name = f"{subject.name}-{motion}-{'own' if label == OWN else 'apart'}"
                run = learned(subject, chosen, loaded, folder / "runs", name, motion=clips.motion)
                if FLOOR not in films:
                    films[FLOOR] = studio.scores(run, False, subject, clips, motion)
                films[label] = studio.scores(run, True, subject, clips, motion)
            found[motion].append(films)
            write_json(folder / "results.json", {"rows": found, "ceiling": float(np.mean(ceilings[: i + 1]))})
            table(f"{motion}: {len(found[motion])}", {motion: found[motion]}, float(np.mean(ceilings[: i + 1])))
    table("all motions", found, float(np.mean(ceilings)))


if __name__ == "__main__":
    tyro.cli(main)
