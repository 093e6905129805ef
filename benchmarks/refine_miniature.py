"""Face VCD and Tiled VCD on held-out people of the miniature: what do they contribute?

    python benchmarks/refine_miniature.py --count 2 --films 2

For each person, photographs are rendered and VCD is learned. Three tables follow, with standard errors over films:

* faces of rendered films: the person really rendered far away and passed through the VAE, which blurs a face of less
  than 12 pixels. Where the face is, is known, so this looks at the drawing alone.
* faces of filmed films: VCD films the person far away, and the segmenter looks for the face, as a user would.
* tiles: the person filmed at normal distance, enlarged by Lanczos alone and with Tiled VCD on top.

A face is compared, by DINO, with the faces on the photographs: crops of twice the face's size, at equal places before
and after. Goes on where it was stopped; the tables are printed and kept as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.files import write_image, write_json
from starring.data.subject import Subject
from starring.data.video import to_uint8
from starring.generate import generate
from starring.generate.ask import prepared
from starring.learn import learn, resume
from starring.methods import recipe
from starring.metrics.identity import image_similarity
from starring.metrics.statistics import estimate
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS
from starring.miniature.gates import held_out_identity
from starring.miniature.shapes import PEOPLE
from starring.perception.encoders import CLIP, DINO, load_clip, load_dino
from starring.perception.segment import load_segmenter
from starring.refine import FaceOptions, TileOptions, comparison
from starring.refine.draw import Scene, face_vcd, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import Faces, as_pixels
from starring.refine.find import BySegmenter, Face, Finder, within
from starring.run import Run

Frames = NDArray[np.uint8]
console = Console()
AROUND = 2.0
"""Side of a compared crop, in sizes of the face."""
SMALL = 12
"""Faces of fewer pixels count as small."""
MOVES = (("left", "forest"), ("right", "desert"), ("still", "beach"), ("jumping", "meadow"))
"""What the films show, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    count: int = 2
    """How many people."""
    films: int = 2
    """How many films of each."""
    steps: int = 25
    """Denoising steps of a whole schedule."""
    learning_steps: int | None = None
    """Instead of the recipe's own."""
    face_strength: float = 0.8
    """Share of the schedule that faces go through (the paper's)."""
    tile_strength: float = 0.2
    """Share of the schedule that tiles go through (the paper's)."""
    close: bool = True
    """Say "close up" of regions, instead of the film's prompt, which says "far away"."""
    parts: tuple[str, ...] = ("rendered", "filmed", "tiles")
    """Which of the tables."""
    out: Path = Path("build/refine-miniature")
    """Where everything goes."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The encoders that compare."""

    clip: CLIP
    dino: DINO


@dataclass(frozen=True, kw_only=True)
class Person:
    """A held-out person with photographs, and what was learned from them."""

    who: world.Identity
    run: Run
    photographs: list[Image.Image]
    faces: torch.Tensor
    """DINO's vectors of the faces on the photographs."""


class Rendered:
    """Knows where the face is, since it was rendered there."""

    id = "rendered"

    def __init__(self, masks: Sequence[NDArray[np.bool_]]) -> None:
        self.masks = masks

    def find(self, frames: Frames) -> list[list[Face]]:
        """The rendered face of each frame."""
        return [[within(mask)] if mask.any() else [] for mask in self.masks[: len(frames)]]


def square(box: tuple[float, float, float, float], picture: NDArray[np.uint8]) -> Image.Image:
    """A face with its surroundings, as a square of 64 pixels."""
    left, top, right, bottom = box
    half = AROUND * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    region = (round(x - half), round(y - half), round(x + half), round(y + half))
    return Image.fromarray(picture).crop(region).resize((64, 64), Image.Resampling.BICUBIC)


def people(plan: Plan, backbone: Backbone, judge: Judge) -> list[Person]:
    """Held-out people, learned now unless they were before."""
    chosen, folder, steps = recipe("vcd-miniature"), plan.out, plan.learning_steps
    if steps is not None:
        stages = tuple(replace(s, train=replace(s.train, steps=steps)) for s in chosen.stages)
        chosen = replace(chosen, stages=stages)
    found: list[Person] = []
    for i in range(plan.count):
        who = held_out_identity(i, PEOPLE[i % len(PEOPLE)])
        place, name = folder / "photographs" / f"{who.kind}-{who.seed}", f"{who.kind}-{who.seed}"
        if not (place / "subject.json").exists():
            album.write(place, who)
        subject = Subject.from_folder(place, class_word=who.kind)
        if (folder / "runs" / name).exists():
            run = Run.open(folder / "runs" / name)
            run = run if run.finished else resume(run.folder, backbone)
        else:
            run = learn("vcd", subject, backbone, chosen, folder / "runs", name=name)
        frames = [world.render(shot, 256) for shot in album.shots(who)]
        crops = [square(within(f.face).box, f.image) for f in frames if f.face.any()]
        faces = judge.dino.pictures(crops)
        found.append(Person(who=who, run=run, photographs=subject.images, faces=faces))
    return found


def face_similarity(frames: Frames, boxes: Mapping[int, Face], person: Person, judge: Judge) -> float:
    """Mean cosine of the faces in a film with those on the photographs."""
    crops = [square(face.box, frames[number]) for number, face in boxes.items()]
    return image_similarity(judge.dino.pictures(crops), person.faces)


def compared(
    scene: Scene, frames: Frames, finder: Finder, person: Person, judge: Judge, picture: Path, options: FaceOptions
) -> dict[str, float] | None:
    """Face similarity before and after Face VCD; ``None`` if there is no small face."""
    found = finder.find(frames)
    made: Faces = face_vcd(scene, frames, finder, options)
    boxes = {
        number: max(faces, key=lambda face: face.mask.sum())
        for number, faces in enumerate(found)
        if faces and any(region.present[number] for region in made.regions)
    }
    boxes = {number: face for number, face in boxes.items() if min(face.size) >= 2 and face.size[0] < SMALL}
    if not boxes:
        return None
    kept = np.ones(frames.shape[:3], dtype=np.bool_)
    for region in made.regions:
        for number in np.flatnonzero(region.present):
            top, left = region.corners[number]
            kept[number, top : top + region.size[0], left : left + region.size[1]] &= region.alpha <= 0
    assert np.array_equal(made.frames[kept], frames[kept])
    write_image(picture, comparison(frames, made.frames))
    before, after = (face_similarity(film, boxes, person, judge) for film in (frames, made.frames))
    pixels = float(np.mean([face.size[0] for face in boxes.values()]))
    return {"pixels": pixels, "before": before, "after": after, "gain": after - before, "untouched": float(kept.mean())}


def scene_of(person: Person, backbone: Backbone, prompt: str, seed: int, steps: int) -> Scene:
    """What pieces of this person's films are drawn with."""
    shared = prepared(person.run, backbone=backbone, sample={"steps": steps})
    return Scene(shared=shared, prompt=prompt, seed=seed, tell=lambda what, step, total: None)


def through_vae(frames: Frames, backbone: Backbone) -> Frames:
    """What the backbone's VAE leaves of a film."""
    with torch.no_grad():
        return to_uint8(backbone.decode_video(backbone.encode_video(as_pixels(frames).to(backbone.device))))


def prompt_of(person: Person, move: tuple[str, str], far: bool) -> str:
    """What a film of this person shows, in words."""
    distance = "a far away" if far else "a"
    return f"{distance} <*> {person.who.kind} {MOTION_WORDS[move[0]][0]} {SCENE_WORDS[move[1]][0]}"


def one(
    plan: Plan, person: Person, number: int, backbone: Backbone, judge: Judge
) -> dict[str, dict[str, float] | None]:
    """All measurements of one film's worth."""
    move = MOVES[number % len(MOVES)]
    name = f"{person.run.name}-{number}"
    near = f"close up <*> {person.who.kind} {SCENE_WORDS[move[1]][0]}" if plan.close else None
    options = FaceOptions(strength=plan.face_strength, prompt=near)
    far = scene_of(person, backbone, prompt_of(person, move, True), number, plan.steps)
    answers: dict[str, dict[str, float] | None] = {}
    if "rendered" in plan.parts:
        shots = world.film(world.stage(person.who, move[1], move[0], "far", 1, 500 + number))
        frames = through_vae(np.stack([shot.image for shot in shots]), backbone)
        known = Rendered([shot.face for shot in shots])
        answers["rendered"] = compared(far, frames, known, person, judge, plan.out / f"{name}-rendered.png", options)
        sharp = np.stack([shot.image for shot in shots])
        boxes = {i: faces[0] for i, faces in enumerate(known.find(sharp)) if faces}
        if answers["rendered"] is not None:
            answers["rendered"]["unblurred"] = face_similarity(sharp, boxes, person, judge)
    if "filmed" in plan.parts:
        eye = BySegmenter(load_segmenter("miniature"))
        answers["filmed"] = compared(
            far, filmed(far, person), eye, person, judge, plan.out / f"{name}-filmed.png", options
        )
    if "tiles" in plan.parts:
        scene = replace(far, prompt=prompt_of(person, move, False))
        answers["tiles"] = tiled(plan, scene, filmed(scene, person), person, judge, plan.out / f"{name}-tiles.png")
    return answers


def filmed(scene: Scene, person: Person) -> Frames:
    """A new film of a person."""
    shared = scene.shared
    (film,) = generate(
        person.run, scene.prompt, seed=scene.seed, backbone=shared.backbone, sample=shared.sample, write=False
    )
    return film.frames


def tiled(plan: Plan, scene: Scene, frames: Frames, person: Person, judge: Judge, picture: Path) -> dict[str, float]:
    """CLIP-I and DINO-I of a film, enlarged in either way."""
    height, width = (2 * length for length in frames.shape[1:3])
    films = {
        "small": frames,
        "lanczos": Lanczos().enlarge(frames, height, width),
        "tiled": tiled_vcd(scene, frames, Lanczos(), TileOptions(strength=plan.tile_strength)),
    }
    write_image(picture, comparison(films["lanczos"], films["tiled"], count=4, side=256))
    answers: dict[str, float] = {}
    for metric, encoder in (("DINO-I", judge.dino), ("CLIP-I", judge.clip)):
        references = encoder.pictures(person.photographs)
        for name, film in films.items():
            seen = torch.from_numpy(film).movedim(-1, 1).float() / 255
            answers[f"{metric} {name}"] = image_similarity(encoder.images(seen), references)
        answers[f"{metric} gain"] = answers[f"{metric} tiled"] - answers[f"{metric} lanczos"]
    return answers


def table(title: str, rows: Sequence[dict[str, float]], asked: int) -> None:
    """Means and standard errors of a part."""
    shown = Table("", "mean", "standard error", title=f"{title}: {len(rows)} of {asked} films", title_justify="left")
    for key in rows[0] if rows else ():
        value = estimate([row[key] for row in rows])
        shown.add_row(key, f"{value.mean:.3f}", "-" if value.error is None else f"{value.error:.3f}")
    console.print(shown)


def main(plan: Plan) -> None:
    """Measure."""
    backbone, judge = load_backbone("miniature"), Judge(clip=load_clip("miniature"), dino=load_dino("miniature"))
    plan.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {part: [] for part in plan.parts}
    for person in people(plan, backbone, judge):
        for number in range(plan.films):
            for part, answer in one(plan, person, number, backbone, judge).items():
                if answer is not None:
                    rows[part].append(answer)
                console.print(f"{person.run.name} film {number} {part}: {answer or 'no small face was found'}")
    for part in plan.parts:
        table(part, rows[part], plan.count * plan.films)
    write_json(plan.out / "results.json", {"plan": asdict(plan) | {"out": plan.out.name}, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Plan))
