"""Pairs of the bundled world: a subject cut out of one picture, and a film of it elsewhere, in the layout of a corpus.

Whose exact identity no caption can spell is then to be learned from the picture. Half of the captions name the class,
the motion and the scene alone, so that nothing but the picture says what the subject looks like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from starring.data.files import scratch, write_text
from starring.data.pairs import FILE
from starring.errors import unknown
from starring.miniature import world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS, caption
from starring.miniature.dit import FRAMES
from starring.miniature.scenes import SCENES

COUNT = 3000
"""Pairs of a corpus."""
SIDE = 128
"""Of the picture that a subject is cut out of, in pixels: cameras see more than the miniature's 64."""
PLAIN = 0.5
"""Share of captions that name no attribute of the subject."""
REFERENCES = ("another", "first", "random")


def build(folder: Path, count: int = COUNT, reference: str = "another", report: Any = None) -> Path:
    """Write a corpus of ``count`` pairs of subjects that training may use; goes on where it was stopped.

    Args:
        folder: where to.
        count: how many pairs. Each depends on its number alone.
        reference: the subject is cut out of ``another`` picture, in which it stands in any scene, or, as in the paper
            (C16), of the ``first`` frame of the shot, whose following frames are the clip, or of a ``random`` one of
            the clip's own.
        report: hears how many pairs are there, now and then.

    Raises:
        StarringError: for another kind of reference.
    """
    if reference not in REFERENCES:
        raise unknown("frame for references", reference, REFERENCES)
    cv2.setNumThreads(1)
    for part in ("references", "clips"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for number in range(count):
        rows.append(_pair(folder, number, reference))
        if report is not None and (number + 1) % 50 == 0:
            report("pairs", number + 1, count)
    write_text(folder / FILE, "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _pair(folder: Path, number: int, reference: str) -> dict[str, str]:
    """Draw a pair unless it is there; its line of the list."""
    rng = np.random.default_rng([5, number])
    shot = world.random_shot(rng, films=True)
    who, pace = shot.actors[0].identity, float(rng.uniform(0.8, 1.1))
    said = plain(shot, rng) if rng.random() < PLAIN else caption(shot, rng)
    scene, facing, place = str(rng.choice(tuple(SCENES))), int(rng.choice((-1, 1))), int(rng.integers(1 << 40))
    row = {"reference": f"references/{number:06d}.png", "clip": f"clips/{number:06d}.mkv", "caption": said}
    if not (folder / row["clip"]).exists():
        first = reference == "first"
        film = world.film(shot, FRAMES + first, pace)
        view = "close" if rng.random() < 0.5 else "normal"
        if reference == "another":
            seen = world.stage(who, scene, "still", view, facing, place)
        else:
            moment = 0.0 if first else int(np.random.default_rng([6, number]).integers(FRAMES)) / (FRAMES - 1)
            seen = world.at(shot, moment, pace)
        frame = world.render(seen, SIDE)
        cut = np.dstack([frame.image, frame.mask.astype(np.uint8) * 255])
        Image.fromarray(cut).save(folder / row["reference"])
        _write(folder / row["clip"], [each.image for each in film[int(first) :]])
    return {**row, "entity": who.kind}


def plain(shot: world.Shot, rng: np.random.Generator) -> str:
    """A caption with the subject's class, and neither its colours nor its marks."""
    motion, scene = rng.choice(MOTION_WORDS[shot.motion]), rng.choice(SCENE_WORDS[shot.scene])
    return f"a {shot.actors[0].identity.kind} {motion} {scene}"


def _write(path: Path, frames: Sequence[Any]) -> None:
    """Frames ``h w 3`` as a film without loss: chroma at half the size would be lost on 64 x 64 pixels."""
    part = scratch(path)
    with av.open(str(part), "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(8))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)
