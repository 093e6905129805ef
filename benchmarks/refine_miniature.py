"""Face VCD and Tiled VCD on held-out people of the miniature: what do they contribute?

    python benchmarks/refine_miniature.py --count 6 --films 2

For each person, photographs are rendered and VCD is learned. Three tables follow, with standard errors over people:

* faces of changed clips: a clip of somebody else far away becomes a film of the person by VCD (video to video), and the
  segmenter looks for the face, as a user would have it. Faces are compared where they were in the clip.
* faces of rendered films: the person really rendered far away and passed through the VAE, which blurs a face of less
  than 12 pixels. Such a face is right already, so this asks what is lost; and what the face really looks like is known,
  so the error of the pixels that were drawn again is measured too.
* tiles: the person filmed at normal distance, enlarged by Lanczos alone and with Tiled VCD on top.

A face is compared, by DINO, with the faces on the photographs: crops of twice the face's size, at equal places before
and after. ``--development`` takes the people that settings may be chosen on, and several strengths are compared on the
same films. Goes on where it was stopped, and starts afresh where weights have changed; the tables are printed and kept
as JSON, with a picture of every film before and after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from vcd_miniature import learned

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.files import write_image, write_json
from starring.data.subject import Subject
from starring.data.video import to_uint8, write_video
from starring.generate import generate
from starring.generate.ask import prepared
from starring.generate.films import fingerprint
from starring.methods import recipe
from starring.metrics.identity import image_similarity
from starring.metrics.statistics import estimate
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS
from starring.miniature.gates import held_out_identity
from starring.miniature.shapes import PEOPLE
from starring.perception.encoders import CLIP, DINO, load_clip, load_dino
from starring.perception.segment import Segmenter, load_segmenter
from starring.refine import FaceOptions, TileOptions, comparison
from starring.refine.draw import Scene, face_vcd, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import as_pixels
from starring.refine.find import BySegmenter, Face, Finder, within
from starring.run import Run

Frames = NDArray[np.uint8]
Row = dict[str, float]
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

    count: int = 6
    """How many people."""
    films: int = 2
    """How many films of each."""
    steps: int = 25
    """Denoising steps of a whole schedule."""
    learning_steps: int | None = None
    """Instead of the recipe's own."""
    face_strengths: tuple[float, ...] = (0.8,)
    """Shares of the schedule that faces go through, compared with each other."""
    change: float = 0.6
    """Share of the schedule that a clip of somebody else goes through."""
    tile_strengths: tuple[float, ...] = (0.2,)
    """Shares of the schedule that tiles go through, compared with each other."""
    close: bool = True
    """Say "close up" of regions, instead of the film's prompt, which says "far away"."""
    development: bool = False
    """Take the people that settings may be chosen on, not the held-out ones."""
    parts: tuple[str, ...] = ("changed", "rendered", "tiles")
    """Which of the tables."""
    out: Path = Path("build/refine-miniature")
    """Where everything goes."""

    @property
    def drawn(self) -> str:
        """What films depend on, for their names."""
        return f"{self.steps}" if self.learning_steps is None else f"{self.steps}-{self.learning_steps}"


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The networks."""

    backbone: Backbone
    segmenter: Segmenter
    clip: CLIP
    dino: DINO

    @property
    def id(self) -> str:
        """Other weights give other films and other scores."""
        eyes = (self.segmenter.id, self.clip.id, self.dino.id)
        return hashlib.sha256("\n".join((fingerprint(self.backbone), *eyes)).encode()).hexdigest()[:10]


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with photographs, and what was learned from them."""

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


def person(plan: Plan, number: int, crew: Crew, folder: Path) -> Person:
    """Somebody that no training saw, learned now unless it was done before."""
    chosen = recipe("vcd-miniature")
    if plan.learning_steps is not None:
        stages = tuple(replace(s, train=replace(s.train, steps=plan.learning_steps)) for s in chosen.stages)
        chosen = replace(chosen, stages=stages)
    who = held_out_identity(number, PEOPLE[number % len(PEOPLE)])
    if plan.development:
        who = world.identity(who.seed + 1, who.kind)
    name = f"{who.kind}-{who.seed}"
    place = folder / "photographs" / name
    if not (place / "subject.json").exists():
        album.write(place, who)
    subject = Subject.from_folder(place, class_word=who.kind)
    run = learned(subject, chosen, crew.backbone, folder / f"runs-{plan.learning_steps or 'recipe'}", name)
    frames = [world.render(shot, 256) for shot in album.shots(who)]
    crops = [square(within(f.face).box, f.image) for f in frames if f.face.any()]
    return Person(who=who, run=run, photographs=subject.images, faces=crew.dino.pictures(crops))


def face_similarity(frames: Frames, boxes: Mapping[int, Face], person: Person, crew: Crew) -> float:
    """Mean cosine of the faces in a film with those on the photographs."""
    crops = [square(face.box, frames[number]) for number, face in boxes.items()]
    return image_similarity(crew.dino.pictures(crops), person.faces)


def redrawn(
    scene: Scene, frames: Frames, finder: Finder, shown: Rendered, person: Person, crew: Crew, options: FaceOptions,
    picture: Path, truth: Frames | None = None,
) -> Row | None:  # fmt: skip
    """Face similarity before and after Face VCD; ``None`` if there is no small face.

    Faces are compared where they are ``shown``. With ``truth``, the film as it was before it was blurred, also its
    similarity, and the mean error (0 to 255) of the pixels that were drawn again.
    """
    found = shown.find(frames)
    made = face_vcd(scene, frames, finder, options)
    boxes = {number: max(faces, key=lambda face: face.mask.sum()) for number, faces in enumerate(found) if faces}
    boxes = {number: face for number, face in boxes.items() if min(face.size) >= 2 and max(face.size) < SMALL}
    if not boxes:
        return None
    drawn = np.zeros(len(frames), dtype=np.bool_)
    for region in made.regions:
        drawn |= region.present
    kept = np.ones(frames.shape[:3], dtype=np.bool_)
    for region in made.regions:
        for number in np.flatnonzero(region.present):
            top, left = region.corners[number]
            kept[number, top : top + region.size[0], left : left + region.size[1]] &= region.alpha <= 0
    if not np.array_equal(made.frames[kept], frames[kept]):
        raise AssertionError("something outside the feather has changed")
    write_image(picture, comparison(frames, made.frames))
    before, after = (face_similarity(film, boxes, person, crew) for film in (frames, made.frames))
    pixels = float(np.mean([max(face.size) for face in boxes.values()]))
    row = {"pixels across": pixels, "before": before, "after": after, "gain": after - before}
    row |= {"share of frames": float(np.mean(drawn[list(boxes)]))}
    if truth is not None:
        errors = [float(np.abs(film[~kept].astype(float) - truth[~kept]).mean()) for film in (frames, made.frames)]
        row |= {"unblurred": face_similarity(truth, boxes, person, crew)}
        row |= {"error before": errors[0], "error after": errors[1]}
    return row | {"share untouched": float(kept.mean())}


def scene_of(plan: Plan, person: Person, crew: Crew, number: int, far: bool) -> Scene:
    """What a film of this person shows, and what pieces of it are drawn with."""
    motion, place = MOVES[number % len(MOVES)]
    distance = "a far away" if far else "a"
    prompt = f"{distance} <*> {person.who.kind} {MOTION_WORDS[motion][0]} {SCENE_WORDS[place][0]}"
    shared = prepared(person.run, backbone=crew.backbone, sample={"steps": plan.steps})
    return Scene(shared=shared, prompt=prompt, seed=number, tell=lambda what, step, total: None)


def film(scene: Scene, person: Person, keep: Path, clip: Path | None = None, change: float | None = None) -> Frames:
    """A new film of a person, or a clip changed into one, kept for the other settings."""
    if keep.exists():
        return np.load(keep)
    shared = scene.shared
    (made,) = generate(
        person.run, scene.prompt, seed=scene.seed, backbone=shared.backbone, sample=shared.sample, write=False,
        video=clip, strength=change,
    )  # fmt: skip
    part = keep.with_suffix(".part.npy")
    np.save(part, made.frames)
    part.replace(keep)
    return made.frames


def through_vae(frames: Frames, backbone: Backbone) -> Frames:
    """What the backbone's VAE leaves of a film."""
    with torch.no_grad():
        return to_uint8(backbone.decode_video(backbone.encode_video(as_pixels(frames).to(backbone.device))))


def faces(plan: Plan, part: str, strength: float, person: Person, crew: Crew, number: int, stem: Path) -> Row | None:
    """Face VCD on one film: a changed clip, or the person rendered."""
    motion, place = MOVES[number % len(MOVES)]
    near = f"close up <*> {person.who.kind} {SCENE_WORDS[place][0]}" if plan.close else None
    options = FaceOptions(strength=strength, prompt=near)
    scene, picture = scene_of(plan, person, crew, number, True), stem.with_suffix(".png")
    if part == "changed":
        other = world.identity(person.who.seed + 500 + 10 * number, person.who.kind)
        shots = world.film(world.stage(other, place, motion, "far", 1, 900 + number))
        clip = stem.with_name(f"{person.run.name}-{number}-clip.mp4")
        write_video(clip, as_pixels(np.stack([shot.image for shot in shots])), crf=4)
        frames = film(scene, person, stem.with_name(f"{clip.stem}-{plan.drawn}.npy"), clip, plan.change)
        shown = Rendered([shot.face for shot in shots])
        return redrawn(scene, frames, BySegmenter(crew.segmenter), shown, person, crew, options, picture)
    shots = world.film(world.stage(person.who, place, motion, "far", 1, 500 + number))
    sharp = np.stack([shot.image for shot in shots])
    frames, shown = through_vae(sharp, crew.backbone), Rendered([shot.face for shot in shots])
    return redrawn(scene, frames, shown, shown, person, crew, options, picture, truth=sharp)


def tiles(plan: Plan, strength: float, person: Person, crew: Crew, number: int, stem: Path) -> Row:
    """CLIP-I and DINO-I of a film, enlarged in either way."""
    scene = scene_of(plan, person, crew, number, False)
    frames = film(scene, person, stem.with_name(f"{person.run.name}-{number}-near-{plan.drawn}.npy"))
    height, width = (2 * length for length in frames.shape[1:3])
    films = {
        "Lanczos": Lanczos().enlarge(frames, height, width),
        "tiled": tiled_vcd(scene, frames, Lanczos(), TileOptions(strength=strength)),
    }
    write_image(stem.with_suffix(".png"), comparison(films["Lanczos"], films["tiled"], count=4, side=256))
    row: Row = {}
    for metric, encoder in (("DINO-I", crew.dino), ("CLIP-I", crew.clip)):
        references = encoder.pictures(person.photographs)
        for name, each in films.items():
            seen = torch.from_numpy(each).movedim(-1, 1).float() / 255
            row[f"{metric} {name}"] = image_similarity(encoder.images(seen), references)
        row[f"{metric} gain"] = row[f"{metric} tiled"] - row[f"{metric} Lanczos"]
    return row


def measured(plan: Plan, person: Person, crew: Crew, number: int, folder: Path) -> Iterator[tuple[str, Row | None]]:
    """All measurements of one film's worth, each with its name; those made before are read."""
    strengths = {"changed": plan.face_strengths, "rendered": plan.face_strengths, "tiles": plan.tile_strengths}
    for part in plan.parts:
        for strength in strengths[part]:
            how = f"{part}-{strength:.2f}" + ("" if plan.close or part == "tiles" else "-film's-prompt")
            learning = plan.learning_steps or "recipe"
            stem = folder / f"{person.run.name}-{number}-{how}-{plan.steps}-{learning}.json"
            if not stem.exists():
                if part == "tiles":
                    row = tiles(plan, strength, person, crew, number, stem)
                else:
                    row = faces(plan, part, strength, person, crew, number, stem)
                write_json(stem, {"row": row})
            row = json.loads(stem.read_text(encoding="utf-8"))["row"]
            console.print(f"{stem.stem}: {row or 'no small face was found'}")
            yield how, row


def table(title: str, rows: Mapping[str, Sequence[Row]], asked: int) -> None:
    """Means over a person's films, and over people, with the standard errors of these."""
    films = sum(len(own) for own in rows.values())
    people = [own for own in rows.values() if own]
    caption = f"{title}: {films} of {asked} films, {len(people)} people"
    shown = Table("", "mean", "standard error", "films", title=caption, title_justify="left")
    for key in people[0][0] if people else ():
        value = estimate([float(np.mean([row[key] for row in own])) for own in people])
        error = "-" if value.error is None else f"{value.error:.3f}"
        each = " ".join(f"{row[key]:.2f}" for own in people for row in own)
        shown.add_row(key, f"{value.mean:.3f}", error, each)
    console.print(shown)


def main(plan: Plan) -> None:
    """Measure."""
    crew = Crew(
        backbone=load_backbone("miniature"), segmenter=load_segmenter("miniature"), clip=load_clip("miniature"),
        dino=load_dino("miniature"),
    )  # fmt: skip
    folder = plan.out / crew.id
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[Row]]] = {}
    for index in range(plan.count):
        one = person(plan, index, crew, folder)
        for number in range(plan.films):
            for how, row in measured(plan, one, crew, number, folder / "rows"):
                found.setdefault(how, {}).setdefault(one.run.name, []).extend([row] if row else [])
    for how, rows in found.items():
        table(how, rows, plan.count * plan.films)
    write_json(folder / "results.json", {"plan": asdict(plan) | {"out": plan.out.name}, "rows": found})


if __name__ == "__main__":
    main(tyro.cli(Plan))
