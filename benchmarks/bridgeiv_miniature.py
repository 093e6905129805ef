"""BridgeIV on held-out subjects of the miniature: its component table, and what decides whether propagation helps.

    python benchmarks/bridgeiv_miniature.py --count 8 --seeds 2

The table is `starring ablate bridgeiv` on one subject of each class but the people. Then the reference image beside
which each film of the first seed was made is compared with the subject, as its film without propagation is: where the
image is the better likeness propagation should help, where it is the worse one it should harm. With --watch-rises the
ascent is watched as well, in which no step is taken back. Goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from starring.ablate import Ablation, ablate
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Reward
from starring.data.files import write_json
from starring.data.prompts import plain
from starring.data.subject import Subject
from starring.data.video import to_uint8
from starring.evaluate.shots import as_pixels
from starring.methods import build
from starring.methods.base import Method, Request
from starring.methods.bridgeiv import BridgeIV
from starring.metrics.statistics import estimate
from starring.metrics.suite import Judge, load_judge
from starring.miniature import album, world
from starring.reward import eyes_for, optimise
from starring.run import Run

console = Console()
KINDS = ("dog", "cat", "bird", "fish", "turtle", "car", "robot", "teapot")
PROMPTS = (
    "a <*> {class_word} moving right on the beach", "a <*> {class_word} moving left in the city",
    "a <*> {class_word} and a robot standing still in the forest", "a <*> {class_word} turning around in the snow",
    "a close up of a <*> {class_word} on the meadow", "a <*> {class_word} wearing a hat in the desert",
)  # fmt: skip
"""Displacement, occlusion, view and outfit, as the paper's own are."""
ROWS = ("SPM", "TPM", "SPM + TPM")
ABOUT = 0.02
"""Image and film are about as like the subject if their DINO-I differs by no more."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One film and the image that it was made beside."""

    subject: str
    prompt: str
    image: float
    """DINO-I of the reference image."""
    film: float
    """DINO-I of the film without propagation."""
    gains: dict[str, float]
    """What each row changed in it."""


def subjects(count: int, folder: Path, development: bool) -> list[Subject]:
    """Subjects that no training saw, one of each class but the people."""
    found: list[Subject] = []
    for i, kind in enumerate(KINDS[:count]):
        who = world.identity(310 + 10 * i + (1 if development else 0), kind)
        place = folder / "photographs" / f"{kind}-{who.seed}"
        if not (place / "subject.json").exists():
            album.write(place, who)
        found.append(Subject.from_folder(place, class_word=kind))
    return found


def method_of(run: Run, backbone: Backbone, **options: object) -> Method:
    """What a run learned, with other options."""
    method = build("bridgeiv", backbone, {**run.record.recipe.options, **options})
    method.load_state_dict(run.load_weights(), strict=False)
    return method


def compared(table: Ablation, who: Sequence[Subject], backbone: Backbone, judge: Judge, steps: int) -> list[Beside]:
    """Every film of the first seed, and its reference image."""
    base, *_ = table.rows
    scored = {
        (name, shot.run, shot.prompt): shot.scores["dino_i"].value
        for name, shots in table.shots.items()
        for shot in shots
        if shot.seed == 0
    }
    found: list[Beside] = []
    for subject in who:
        run = Run.open(table.folder / "runs" / f"{subject.name}-bridgeiv")
        method, known = method_of(run, backbone), judge.references(subject.images)
        assert isinstance(method, BridgeIV)
        for prompt in (each.replace("{class_word}", subject.class_word) for each in PROMPTS):
            sample = replace(backbone.sample, steps=steps)
            made = method.bridged(backbone, Request(prompt=prompt, sample=sample, generator=seeded()))
            with torch.no_grad():
                frame = to_uint8(backbone.decode_video(made.reference).float().cpu())
            pixels = as_pixels(np.repeat(frame, 2, axis=0))
            said = plain(prompt, subject.class_word)
            image = judge.score(pixels, said, known, class_word=subject.class_word)["dino_i"].value
            film = scored[base.name, run.name, prompt]
            gains = {row: scored[row, run.name, prompt] - film for row in ROWS}
            found.append(Beside(subject=subject.name, prompt=prompt, image=image, film=film, gains=gains))
    return found


def seeded() -> torch.Generator:
    """That of every first film."""
    return torch.Generator().manual_seed(0)


def told(films: Sequence[Beside]) -> None:
    """Gains by whether the image is the better likeness; errors are those of films."""
    shown = Table("the reference image is", "films", *ROWS, title="what propagation follows")
    gaps = {id(each): each.image - each.film for each in films}
    groups = {
        "more like the subject than the film": [each for each in films if gaps[id(each)] > ABOUT],
        "about as like": [each for each in films if abs(gaps[id(each)]) <= ABOUT],
        "less like": [each for each in films if gaps[id(each)] < -ABOUT],
    }
    for name, group in groups.items():
        cells = [_cell([each.gains[row] for each in group]) for row in ROWS]
        shown.add_row(name, str(len(group)), *cells)
    console.print(shown)
    console.print(f"image less film in the mean: {sum(gaps.values()) / len(gaps):+.3f}")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    value = estimate(values)
    return f"{value.mean:+.3f}" + (f" ± {value.error:.3f}" if value.error is not None else "")


def rises(table: Ablation, who: Sequence[Subject], backbone: Backbone, steps: int) -> None:
    """How often the reward falls from one iteration to the next, with the default step and none taken back."""
    for latent in ("mean", "sum"):
        falls, films = list[str](), 0
        for subject in who:
            run = Run.open(table.folder / "runs" / f"{subject.name}-bridgeiv")
            method, looking = method_of(run, backbone), eyes_for(subject, backbone)
            assert isinstance(method, BridgeIV)
            for prompt in (PROMPTS[0], PROMPTS[4]):
                request = Request(
                    prompt=prompt.replace("{class_word}", subject.class_word), generator=seeded(),
                    sample=replace(backbone.sample, steps=steps),
                )  # fmt: skip
                made = method.bridged(backbone, request)
                options = Reward(latent=latent, guarded=False)
                result = optimise(
                    backbone, method, made.film, made.reference, replace(request, generator=seeded()), looking, options
                )
                totals = [each.total for each in result.history]
                films += 1
                falls += [subject.name] if any(b < a for a, b in pairwise(totals)) else []
        console.print(f"latent={latent}: falls on {len(falls)} of {films} films ({', '.join(falls) or 'none'})")


def main(
    count: int = 8, seeds: int = 2, steps: int = 12, watch_rises: bool = False, development: bool = False,
    out: Path = Path("build/bridgeiv-miniature"),
) -> None:  # fmt: skip
    """Run the comparison.

    Args:
        count: how many subjects.
        seeds: films of each prompt.
        steps: denoising steps of each film.
        watch_rises: also tell how often the reward falls.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        out: where everything goes.
    """
    backbone, judge = load_backbone("miniature"), load_judge("miniature")
    who = subjects(count, out, development)
    table = ablate(
        "bridgeiv",
        who,
        backbone,
        suite=PROMPTS,
        seeds=tuple(range(seeds)),
        sample={"steps": steps},
        folder=out,
        judge=judge,
    )
    console.print(Path(table.markdown).read_text(encoding="utf-8"))
    films = compared(table, who, backbone, judge, steps)
    write_json(
        out / "beside.json",
        [{"subject": f.subject, "prompt": f.prompt, "image": f.image, "film": f.film, **f.gains} for f in films],
    )
    told(films)
    if watch_rises:
        rises(table, who, backbone, steps)


if __name__ == "__main__":
    tyro.cli(main)
