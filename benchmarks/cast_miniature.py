"""Two learned subjects in one film of the miniature: what does the company of a second do to each?

    python benchmarks/cast_miniature.py --count 4 --seeds 2

Held-out subjects are learned by VCD one by one, then filmed in pairs ("a <dog> dog and a <robot> robot"), which is
beyond the paper. Four films share each seed: each subject alone; both; both unlearned, as the floor; and each subject
learned beside an unlearned one. The bundled segmenter finds each subject by its class word, and DINO compares what it
cut out with what it cuts out of the photographs. Means over pairs with standard errors; the last columns are how like
the *other* subject a subject looks, and on how many frames it was found at all. Goes on where it was stopped, and
starts afresh where weights have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from vcd_miniature import learned, subjects

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.files import write_image, write_json
from starring.data.subject import Subject
from starring.data.video import contact_sheet
from starring.generate import generate
from starring.generate.films import fingerprint
from starring.methods import recipe
from starring.metrics.identity import image_similarity
from starring.metrics.statistics import estimate
from starring.miniature.captions import SCENE_WORDS
from starring.perception.clipseg import CLIPSeg
from starring.perception.encoders import DINO, load_dino
from starring.perception.segment import SPECKS, load_segmenter, pieces, tidy
from starring.refine.find import within
from starring.run import Run

console = Console()
PAIRS = ((0, 6), (1, 7), (2, 5), (3, 4))
"""Who meets, by the place among the classes: dog and robot, cat and teapot, bird and car, fish and turtle."""
SCENES = ("beach", "meadow", "room", "forest")
"""Where, one after the other."""
KINDS = ("alone", "both", "beside a stranger", "neither learned")
"""The films, named from the view of one subject."""
SMALLEST = 0.005
"""Pieces of a smaller share of the picture are no subject."""
GREY = 128
"""What stands around a subject that was cut out."""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The networks."""

    backbone: Backbone
    segmenter: CLIPSeg
    dino: DINO

    @property
    def id(self) -> str:
        """Other weights give other films and other scores."""
        parts = (fingerprint(self.backbone), self.segmenter.id, self.dino.id)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


@dataclass(frozen=True, kw_only=True)
class Star:
    """A learned subject."""

    kind: str
    run: Run
    looks: Tensor
    """DINO's vectors of what was cut out of the photographs."""


def cut_out(pictures: Sequence[Image.Image], word: str, rival: str | None, segmenter: CLIPSeg) -> list[Image.Image]:
    """What ``word`` names in each picture, on grey, as squares; pictures in which nothing was found are left out.

    A pixel that ``rival`` names with more certainty is the rival's: asked for one of two subjects alone, the segmenter
    may well point at the other.
    """
    found: list[Image.Image] = []
    own = segmenter.scores(pictures, word)
    others = segmenter.scores(pictures, rival) if rival is not None else [None] * len(own)
    for picture, score, other in zip(pictures, own, others, strict=True):
        certain = score > segmenter.threshold
        all_pieces = pieces(tidy(certain if other is None else certain & (score > other), SPECKS))
        inside = max((piece.numpy() for piece in all_pieces), key=np.sum, default=np.zeros(1, dtype=np.bool_))
        if inside.sum() < SMALLEST * score.numel():
            continue
        left, top, right, bottom = within(inside).box
        half, x, y = 0.55 * max(right - left, bottom - top), (left + right) / 2, (top + bottom) / 2
        shown = np.where(inside[..., None], np.asarray(picture.convert("RGB")), np.uint8(GREY))
        side = max(1, round(2 * half))
        canvas = Image.new("RGB", (side, side), (GREY, GREY, GREY))
        canvas.paste(Image.fromarray(shown), (round(half - x), round(half - y)))
        found.append(canvas.resize((64, 64), Image.Resampling.BICUBIC))
    return found


def star(subject: Subject, crew: Crew, folder: Path) -> Star:
    """The subject learned, now or before."""
    run = learned(subject, recipe("vcd-miniature"), crew.backbone, folder / "runs", subject.name)
    cut = cut_out(subject.images, subject.class_word, None, crew.segmenter)
    return Star(kind=subject.class_word, run=run, looks=crew.dino.pictures(cut))


def films(one: Star, other: Star, scene: str, seed: int, steps: int, crew: Crew) -> dict[str, NDArray[np.uint8]]:
    """One subject's four films."""
    where = f"standing still {SCENE_WORDS[scene][0]}"
    both = f"a <{one.kind}> {one.kind} and a <{other.kind}> {other.kind} {where}"
    stranger = f"a <*> {one.kind} and a {other.kind} {where}"
    wishes = {
        "alone": (one.run, f"a <*> {one.kind} {where}", []),
        "both": (one.run, both, [other.run]),
        "beside a stranger": (one.run, stranger, []),
        "neither learned": (None, stranger.replace("<*> ", ""), []),
    }
    sample = {"steps": steps}
    return {
        name: generate(
            run, prompt, seed=seed, backbone=crew.backbone, others=others, sample=sample, write=False, correlation=0.15
        )[0].frames
        for name, (run, prompt, others) in wishes.items()
    }  # fmt: skip


def measured(one: Star, other: Star, made: dict[str, NDArray[np.uint8]], crew: Crew) -> dict[str, dict[str, float]]:
    """How like itself, and how like the other, a subject looks in each of its films."""
    scores: dict[str, dict[str, float]] = {}
    for name, frames in made.items():
        cut = cut_out([Image.fromarray(frame) for frame in frames], one.kind, other.kind, crew.segmenter)
        scores[name] = {"found": len(cut) / len(frames)}
        if cut:
            seen = crew.dino.pictures(cut)
            scores[name] |= {
                "itself": image_similarity(seen, one.looks), "the other": image_similarity(seen, other.looks)
            }  # fmt: skip
    return scores


def sheet(made: dict[str, NDArray[np.uint8]], file: Path) -> None:
    """Four frames of each film."""
    chosen = [(name, frames[i]) for name, frames in made.items() for i in (0, 5, 10, 15)]
    pictures = [Image.fromarray(frame) for _, frame in chosen]
    write_image(file, contact_sheet(pictures, columns=4, side=128, labels=[name for name, _ in chosen]))


def table(rows: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Means over films of a pair, then over pairs."""
    shown = Table("film", "like itself (DINO)", "like the other", "found", "subjects and seeds scored")
    for kind in KINDS:
        cells: list[str] = []
        scored = 0
        for key in ("itself", "the other", "found"):
            each = [[row[kind][key] for row in own if key in row[kind]] for own in rows.values()]
            scored = sum(map(len, each)) if key == "itself" else scored
            value = estimate([float(np.mean(own)) for own in each if own])
            cells.append(f"{value.mean:.3f}" + (f" ± {value.error:.3f}" if value.error is not None else ""))
        shown.add_row(kind, *cells, str(scored))
    console.print(shown)


def main(
    count: int = 4, seeds: int = 2, steps: int = 25, development: bool = False, out: Path = Path("build/cast-miniature")
) -> None:
    """Run the comparison.

    Args:
        count: how many pairs.
        seeds: films of each kind for each subject.
        steps: denoising steps of each film.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        out: where everything goes.
    """
    eye = load_segmenter("miniature")
    assert isinstance(eye, CLIPSeg)
    crew = Crew(backbone=load_backbone("miniature"), segmenter=eye, dino=load_dino("miniature"))
    folder = out / crew.id
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    everybody = subjects(8, folder / "photographs", development)
    rows: dict[str, list[dict[str, dict[str, float]]]] = {}
    for number, pair in enumerate(PAIRS[:count]):
        two = [star(everybody[i][1], crew, folder) for i in pair]
        for (one, other), seed in ((order, seed) for order in (two, two[::-1]) for seed in range(seeds)):
            stem = folder / "rows" / f"{one.run.name}-beside-{other.run.name}-{seed}-{steps}"
            if not stem.with_suffix(".json").exists():
                made = films(one, other, SCENES[(number + seed) % len(SCENES)], seed, steps, crew)
                sheet(made, stem.with_suffix(".png"))
                write_json(stem.with_suffix(".json"), measured(one, other, made, crew))
            row = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            console.print(f"{stem.name}: {row}")
            rows.setdefault(f"{pair}", []).append(row)
    table(rows)
    write_json(folder / "results.json", {"seeds": seeds, "steps": steps, "rows": rows})


if __name__ == "__main__":
    tyro.cli(main)
