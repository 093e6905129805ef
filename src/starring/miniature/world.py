"""A small universe to film: subjects with an exact identity, scenes, motions, captions and masks, all from seeds.

A subject's identity (its exact shades, where its marks sit, how it is built) is beyond any caption, so only
customization can bring one particular subject back. Some subjects and some pairs of scene and motion are held out by
rule and never seen in any training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from starring.miniature.colours import scaled, shade
from starring.miniature.scenes import SCENES, Colour, Image, paint
from starring.miniature.shapes import CLASSES, PEOPLE, Figure, Points, Proportions, box, ellipse, polygon

SIZE = 64
"""Side of a frame in pixels."""
OVERSAMPLE = 4
"""Frames are drawn this many times larger and reduced."""
FRAMES = 16
"""Frames of a film."""
MOTIONS = ("left", "right", "jumping", "turning", "growing", "still")
UNSEEN_MOTIONS = {"circling": "moving around"}
"""Motions that no training and no caption shows: they can only be learned from clips. Each with words for it, which the
miniatures read but which name no motion that they know."""
PATTERNS = ("plain", "spots", "stripes", "patch", "belly")
UNIT = {"close": 0.44, "normal": 0.34, "far": 0.17}
"""Half the size of a subject, as a share of the frame, in each view."""
_ROLES = (
    "none", "body", "dark", "second", "skin", "hair", "mouth", "black", "white", "glass", "yellow", "orange", "green",
    "pink", "red", "trim", "mark",
)  # fmt: skip
_FIXED: dict[str, Colour] = {
    "none": (0, 0, 0),
    "mouth": (190, 70, 80),
    "black": (26, 24, 30),
    "white": (250, 250, 250),
    "glass": (190, 226, 240),
    "yellow": (255, 222, 90),
    "orange": (246, 150, 40),
    "green": (60, 190, 96),
    "pink": (244, 150, 170),
    "red": (226, 56, 52),
}
_SKINS: tuple[Colour, ...] = ((252, 218, 190), (238, 190, 152), (206, 150, 108), (158, 104, 70), (104, 66, 46))
_HAIRS: tuple[Colour, ...] = (
    (34, 26, 26),
    (88, 54, 34),
    (170, 110, 50),
    (232, 196, 104),
    (196, 84, 40),
    (150, 150, 156),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One particular subject."""

    seed: int
    kind: str
    body: Colour
    mark: Colour
    second: Colour
    trim: Colour
    skin: Colour
    hair: Colour
    pattern: str
    accessory: str
    proportions: Proportions
    marks: tuple[Points, ...]
    """Polygons of the pattern, in the subject's unit box; only what falls on the body is seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """A subject in a frame: where its middle is (0 to 1), half its size (0 to 1), and its width factor (-1 to 1)."""

    identity: Identity
    x: float
    y: float
    unit: float
    squash: float
    """1 faces right, -1 faces left, values between are turned away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """All that a caption can be about, and all that a frame needs."""

    actors: tuple[Actor, ...]
    scene: str
    scene_seed: int
    motion: str
    view: str
    facing: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A rendered shot: ``image`` H W 3 uint8; ``mask`` (all subjects), ``face``, ``first`` (first actor) H W bool."""

    image: Image
    mask: NDArray[np.bool_]
    face: NDArray[np.bool_]
    first: NDArray[np.bool_]


def held_out(seed: int) -> bool:
    """Whether a subject is kept from all training; quality is judged on these."""
    return seed % 10 == 0


def development(seed: int) -> bool:
    """Whether a subject is kept from training for choosing settings; never used for judging."""
    return seed % 10 == 1


def held_out_pair(scene: str, motion: str) -> bool:
    """Whether this motion is never shown in this scene during training."""
    return (3 * tuple(SCENES).index(scene) + MOTIONS.index(motion)) % 8 == 0


def training_seed(rng: np.random.Generator) -> int:
    """A subject's seed that training may use."""
    seed = int(rng.integers(1 << 40))
    return seed if not (held_out(seed) or development(seed)) else seed + 2 + int(rng.integers(0, 7))


def _marks(pattern: str, rng: np.random.Generator) -> tuple[Points, ...]:
    if pattern == "spots":
        places = [(x, y) for x in (-0.42, 0.0, 0.42) for y in (-0.32, 0.12, 0.5)]
        chosen = [places[i] for i in rng.permutation(len(places))[: int(rng.integers(5, 9))]]
        jitter = rng.uniform(-0.1, 0.1, (len(chosen), 2))
        sizes = rng.uniform(0.1, 0.17, len(chosen))
        return tuple(ellipse(x + j[0], y + j[1], s, s) for (x, y), j, s in zip(chosen, jitter, sizes, strict=True))
    if pattern == "stripes":
        width, gap, lean = rng.uniform(0.07, 0.12), rng.uniform(0.32, 0.44), rng.uniform(-0.5, 0.5)
        starts = np.arange(-1.2 + rng.uniform(0, gap), 1.4, gap)
        return tuple(
            polygon((s + lean, -1), (s + 2 * width + lean, -1), (s + 2 * width - lean, 1), (s - lean, 1))
            for s in starts
        )
    if pattern == "patch":
        return (
            ellipse(rng.uniform(-0.4, 0.3), rng.uniform(-0.15, 0.4), rng.uniform(0.22, 0.36), rng.uniform(0.2, 0.32)),
            ellipse(rng.uniform(0.3, 0.7), rng.uniform(-0.55, -0.3), rng.uniform(0.12, 0.2), rng.uniform(0.12, 0.2)),
        )
    if pattern == "belly":
        y = rng.uniform(0.12, 0.32)
        return (box(-1.2, y, 1.2, 1.2),)
    return ()


def identity(seed: int, kind: str | None = None) -> Identity:
    """The subject of a seed; ``kind`` asks for a class instead of the seed's own."""
    rng = np.random.default_rng(seed)
    own = tuple(CLASSES)[int(rng.integers(len(CLASSES)))]
    kind = kind or own
    body, mark = shade(rng), shade(rng)
    while np.abs(np.array(body) - np.array(mark)).sum() < 150:
        mark = shade(rng)
    pattern = PATTERNS[int(rng.choice(5, p=[0.2, 0.25, 0.25, 0.15, 0.15]))]
    worn = ("none", "hat", "scarf", "glasses") if kind in PEOPLE else ("none", "none", "hat", "scarf")
    accessory = worn[int(rng.integers(4))]
    if kind in ("car", "fish") and accessory == "scarf":
        accessory = "hat"
    p = Proportions(
        width=float(rng.uniform(0.84, 1.16)),
        height=float(rng.uniform(0.86, 1.14)),
        head=float(rng.uniform(0.84, 1.16)),
        limb=float(rng.uniform(0.75, 1.25)),
    )
    jitter = rng.uniform(-10, 10, (2, 3))
    skin = np.array(_SKINS[int(rng.integers(len(_SKINS)))]) + jitter[0]
    hair = np.array(_HAIRS[int(rng.integers(len(_HAIRS)))]) + jitter[1]
    r, g, b = (int(v) for v in np.clip(skin, 0, 255))
    hr, hg, hb = (int(v) for v in np.clip(hair, 0, 255))
    return Identity(
        seed=seed,
        kind=kind,
        body=body,
        mark=mark,
        second=shade(rng),
        trim=shade(rng),
        skin=(r, g, b),
        hair=(hr, hg, hb),
        pattern=pattern,
        accessory=accessory,
        proportions=p,
        marks=_marks(pattern, rng),
    )


def _accessory(who: Identity, figure: Figure) -> tuple[Points, ...]:
    x, y, w = figure.top
    if who.accessory == "hat":
        return (
            box(x - w * 1.25, y - 0.03, x + w * 1.25, y + 0.09),
            polygon((x - w * 0.8, y), (x - w * 0.6, y - 0.3), (x + w * 0.6, y - 0.3), (x + w * 0.8, y)),
        )
    if who.accessory == "scarf":
        x, y, w = figure.neck
        return (ellipse(x, y, w * 1.15, 0.12), box(x - w * 0.9, y, x - w * 0.35, y + 0.36))
    if who.accessory == "glasses":
        x, y, d = figure.eyes
        return (ellipse(x - d, y, 0.13, 0.12), ellipse(x + d, y, 0.13, 0.12), box(x - d, y - 0.03, x + d, y + 0.03))
    return ()


def _labels(actor: Actor, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Which role covers each pixel (0: none), and the face as far as neither hair, hat nor scarf covers it."""
    who = actor.identity
    figure = CLASSES[who.kind](who.proportions)
    label, pattern, face = (np.zeros((side, side), np.uint8) for _ in range(3))
    squash = np.sign(actor.squash) * max(abs(actor.squash), 0.22)
    scale = np.array([actor.unit * squash, actor.unit])
    offset = np.array([actor.x, actor.y])

    def fill(target: NDArray[np.uint8], points: Points, value: int) -> None:
        fixed = np.rint((points * scale + offset) * side * 16).astype(np.int32)
        cv2.fillPoly(target, [fixed], (value,), shift=4)

    for role, points in figure.parts:
        fill(label, points, 0 if role == "hole" else _ROLES.index(role))
    for points in who.marks:
        fill(pattern, points, 1)
    label[(pattern > 0) & (label == _ROLES.index("body"))] = _ROLES.index("mark")
    for points in _accessory(who, figure):
        fill(label, points, _ROLES.index("trim"))
    if who.kind in PEOPLE:
        head = next(points for role, points in figure.parts if role == "skin" and len(points) > 4)
        fill(face, head, 1)
        over = ["hair"] if who.accessory == "glasses" else ["hair", "trim"]
        for role in over:
            face[label == _ROLES.index(role)] = 0
    return label, face


def render(shot: Shot, size: int = SIZE) -> Frame:
    """Draw a shot."""
    side = size * OVERSAMPLE
    canvas = paint(shot.scene, side, shot.scene_seed)
    mask, face, first = (np.zeros((side, side), np.uint8) for _ in range(3))
    for place, actor in enumerate(shot.actors):
        who = actor.identity
        shades = _FIXED | {
            "body": who.body,
            "dark": scaled(who.body, 0.72),
            "second": who.second,
            "skin": who.skin,
            "hair": who.hair,
            "trim": who.trim,
            "mark": who.mark,
        }
        palette = np.zeros((1, 256, 3), np.uint8)
        palette[0, : len(_ROLES)] = [shades[role] for role in _ROLES]
        label, own_face = _labels(actor, side)
        # A label is its own mask: zero where nothing covers the scene.
        cv2.copyTo(cv2.LUT(cv2.merge([label] * 3), palette), label, canvas)
        mask[label > 0] = 1
        cv2.copyTo(own_face, label, face)
        first[label > 0] = place == 0
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    covered = [cv2.resize(m * 255, (size, size), interpolation=cv2.INTER_AREA) > 127 for m in (mask, face, first)]
    return Frame(image=small.astype(np.uint8), mask=covered[0], face=covered[1], first=covered[2])


def at(start: Shot, moment: float, pace: float) -> Shot:
    """The shot of a film at a moment (0 to 1); ``pace`` near 1 is how far its motion goes."""
    first = start.actors[0]
    x, y, unit, squash = first.x, first.y, first.unit, first.squash
    facing = start.facing
    if start.motion in ("left", "right"):
        direction = 1 if start.motion == "right" else -1
        x = 0.5 + direction * pace * 0.3 * (2 * moment - 1)
        squash = float(direction)
    elif start.motion == "jumping":
        y -= 0.3 * pace * abs(np.sin(2 * np.pi * moment))
    elif start.motion == "circling":
        x = 0.5 + start.facing * pace * 0.15 * np.sin(2 * np.pi * moment)
        y -= 0.12 * pace * (1 - np.cos(2 * np.pi * moment))
    elif start.motion == "turning":
        squash = start.facing * float(np.cos(np.pi * moment))
        facing = 1 if squash > 0 else -1
    elif start.motion == "growing":
        size = unit * (0.5 + 0.75 * moment * pace)
        y += 0.85 * (unit - size)
        unit = size
    moved = replace(first, x=float(x), y=float(y), unit=float(unit), squash=float(squash))
    return replace(start, actors=(moved, *start.actors[1:]), facing=facing)


def stage(who: Identity, scene: str, motion: str, view: str, facing: int, seed: int) -> Shot:
    """The opening shot of a film of one subject; the seed settles the scene's details and where it stands."""
    rng = np.random.default_rng(seed)
    unit = UNIT[view] * float(rng.uniform(0.92, 1.08))
    feet = float(rng.uniform(0.84, 0.9)) if view != "close" else float(rng.uniform(0.9, 1.0))
    direction = {"left": -1, "right": 1}.get(motion, facing)
    x = 0.5 + float(rng.uniform(-1, 1)) * (0.5 - UNIT[view]) * 0.5
    actor = Actor(identity=who, x=x, y=feet - 0.85 * unit, unit=unit, squash=float(direction))
    return Shot(actors=(actor,), scene=scene, scene_seed=seed, motion=motion, view=view, facing=direction)


def film(shot: Shot, frames: int = FRAMES, pace: float = 1.0, size: int = SIZE) -> list[Frame]:
    """A film that starts with a shot, as ``frames`` rendered frames."""
    return [render(at(shot, i / max(frames - 1, 1), pace), size) for i in range(frames)]


def duet(shot: Shot, other: Identity, rng: np.random.Generator) -> Shot:
    """A shot's subject on the left, standing still, and another one on the right."""
    unit = 0.24
    left, right = 0.26 + float(rng.uniform(-0.03, 0.03)), 0.74 + float(rng.uniform(-0.03, 0.03))
    first = replace(shot.actors[0], x=left, unit=unit, y=0.86 - 0.85 * unit)
    second = replace(first, identity=other, x=right, squash=float(rng.choice([-1, 1])))
    return replace(shot, actors=(first, second), motion="still", view="normal")


def random_shot(rng: np.random.Generator, who: Identity | None = None, films: bool = False) -> Shot:
    """A training shot: any subject, scene, motion and view that training may see.

    With ``films`` it is an opening; otherwise a moment of a film, or (one in ten) two subjects standing side by side.
    """
    who = who or identity(training_seed(rng))
    while True:
        scene, motion = str(rng.choice(tuple(SCENES))), str(rng.choice(MOTIONS))
        if not held_out_pair(scene, motion):
            break
    view = str(rng.choice(("normal", "close", "far"), p=(0.7, 0.2, 0.1)))
    shot = stage(who, scene, motion, view, int(rng.choice((-1, 1))), int(rng.integers(1 << 40)))
    if films:
        return shot
    if rng.random() < 0.08 and not held_out_pair(scene, "still"):  # a duet stands still
        return duet(shot, identity(training_seed(rng)), rng)
    return at(shot, float(rng.random()), float(rng.uniform(0.8, 1.1)))
