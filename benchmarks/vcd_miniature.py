"""VCD on held-out subjects of the miniature: does it bring them back, and what do its parts contribute?

    python benchmarks/vcd_miniature.py --count 8 --seeds 2

For each subject, six photographs are rendered, VCD is learned with and without masks, and four prompts are filmed with
two seeds; the floor films the class word. The ceiling is the subject really rendered doing what the prompt says. The
noise prior is varied at filming. Goes on where it was stopped; the table is printed and kept as JSON and HTML.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Data, Recipe
from starring.data.prompts import suite
from starring.data.subject import Subject
from starring.evaluate import evaluate
from starring.learn import learn, resume
from starring.methods import recipe
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS
from starring.miniature.shapes import CLASSES
from starring.run import Run

console = Console()


def subjects(count: int, folder: Path, development: bool) -> list[tuple[world.Identity, Subject]]:
    """Subjects that no training saw, classes in turn, with their photographs."""
    found: list[tuple[world.Identity, Subject]] = []
    for i in range(count):
        seed = 10 * (i + 31) + (1 if development else 0)
        kind = tuple(CLASSES)[i % len(CLASSES)]
        who = world.identity(seed, kind)
        place = folder / f"{kind}-{seed}"
        if not (place / "subject.json").exists():
            album.write(place, who)
        found.append((who, Subject.from_folder(place, class_word=kind)))
    return found


def real_films(who: world.Identity, prompts: list[str]) -> list[tuple[str, Tensor]]:
    """The subject really doing what each prompt says: the prompt and pixels 3 F H W in [-1, 1]."""
    films: list[tuple[str, Tensor]] = []
    for i, prompt in enumerate(prompts):
        motion = next(name for name, words in MOTION_WORDS.items() if words[0] in prompt)
        scene = next(name for name, words in SCENE_WORDS.items() if words[0] in prompt)
        shot = world.stage(who, scene, motion, "normal", 1, 1000 + i)
        frames = np.stack([frame.image for frame in world.film(shot)])
        films.append((prompt, torch.from_numpy(frames).movedim(-1, 0).float() / 127.5 - 1))
    return films


def learned(subject: Subject, chosen: Recipe, backbone: Backbone, folder: Path, name: str) -> Run:
    """The finished run, learned now unless it was before."""
    place = folder / name
    if place.exists():
        run = Run.open(place)
        return run if run.finished else resume(place, backbone)
    return learn("vcd", subject, backbone, chosen, folder, name=name)


def main(
    count: int = 8,
    seeds: int = 2,
    steps: int = 25,
    out: Path = Path("build/vcd-miniature"),
    development: bool = False,
    correlations: tuple[float, ...] = (0.0, 0.4),
    masks: bool = True,
) -> None:
    """Run the whole comparison.

    Args:
        count: how many subjects.
        seeds: films for each prompt.
        steps: denoising steps of each film.
        out: where everything goes.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        correlations: other values of the noise prior's gamma to film with.
        masks: also learn without masks.
    """
    backbone = load_backbone("miniature")
    base = recipe("vcd-miniature")
    bare = replace(base, data=replace(base.data or Data(), masks=False))
    cast = subjects(count, out / "photographs", development)
    labelled: list[tuple[str, Run]] = []
    with Progress(console=console) as bars:
        task = bars.add_task("learning", total=len(cast) * (1 + masks))
        for label, chosen in (("vcd", base), ("without masks", bare)) if masks else (("vcd", base),):
            for who, subject in cast:
                name = f"{who.kind}-{who.seed}-{label.replace(' ', '-')}"
                labelled.append((label, learned(subject, chosen, backbone, out / "runs", name)))
                bars.advance(task)
    prompts = {who.kind: suite("miniature", who.kind) for who, _ in cast}
    real = {who.kind + f"-{who.seed}": real_films(who, prompts[who.kind]) for who, _ in cast}
    filmed: list[tuple[str, list[tuple[str, Run]], float | None]] = [("gamma 0.15", labelled, None)]
    own = [(label, run) for label, run in labelled if label == "vcd"]
    filmed += [(f"gamma {gamma:g}", own, gamma) for gamma in correlations]
    for name, chosen_runs, gamma in filmed:
        with Progress(console=console) as bars:
            task = bars.add_task(f"filming, {name}", total=1.0)
            result = evaluate(
                [run for _, run in chosen_runs],
                suite="miniature",
                seeds=range(seeds),
                backbone=backbone,
                sample={"steps": steps},
                correlation=gamma,
                labels=[label for label, _ in chosen_runs],
                renders={run.name: real["-".join(run.name.split("-")[:2])] for _, run in chosen_runs},
                folder=out / name.replace(" ", "-"),
                on_progress=lambda p, task=task, bars=bars: bars.update(task, completed=p.share),
            )
        console.rule(name)
        shown = Table(*result.table.columns)
        for row in result.table.rows:
            shown.add_row(*row)
        console.print(shown)
        console.print(f"report: {result.report}")


if __name__ == "__main__":
    tyro.cli(main)
