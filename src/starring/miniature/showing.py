"""Clips in which others of the miniature world show a motion, to learn it from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from starring.data.files import write_folder
from starring.data.video import write_video
from starring.errors import unknown
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS, describe
from starring.miniature.shapes import CLASSES

CLIPS = 48
"""Of one motion. Each shows somebody else; fewer leave DualReal's map of their images with next to nothing to say about
a photograph that it never saw."""


def motion_of(words: str) -> str:
    """The motion that words name, whether the miniature ever saw it or not.

    Raises:
        StarringError: if this world knows no such words, with those it knows.
    """
    for motion, wordings in MOTION_WORDS.items():
        if words in wordings:
            return motion
    for motion, wording in world.UNSEEN_MOTIONS.items():
        if words == wording:
            return motion
    known = [*(wordings[0] for wordings in MOTION_WORDS.values()), *world.UNSEEN_MOTIONS.values()]
    raise unknown("motion in the bundled world", words, known)


def films(kind: str, seed: int, words: str, frames: int) -> Iterator[tuple[str, list[world.Frame]]]:
    """What others do, none of the subject's class: films in the scenes of the subject's photographs, with captions.

    A caption says who moves how and where, and then what else there is to say of who it is, so that only the motion is
    left to be learned.

    Args:
        kind: the subject's class.
        seed: its seed.
        words: names the motion.
        frames: of each film.

    Raises:
        StarringError: if this world knows no such motion.
    """
    motion = motion_of(words)
    scenes = [shot.scene for shot in album.shots(world.identity(seed, kind))]
    kinds = [other for other in CLASSES if other != kind]
    for i in range(CLIPS):
        scene = scenes[i % len(scenes)]
        rng = np.random.default_rng([seed, i, [*MOTION_WORDS, *world.UNSEEN_MOTIONS].index(motion)])
        other = world.identity(world.training_seed(rng), kinds[i % len(kinds)])
        shot = world.stage(other, scene, motion, "normal", 1, int(rng.integers(1 << 40)))
        name, noun, more = describe(other, rng, 1.0).partition(f" {other.kind}")
        yield f"{name}{noun} {words} {SCENE_WORDS[scene][0]}{more}", world.film(shot, frames)


def pixels(film: Sequence[world.Frame]) -> Tensor:
    """A rendered film as ``1 3 F H W`` in [-1, 1]."""
    return torch.from_numpy(np.stack([frame.image for frame in film])).permute(3, 0, 1, 2)[None] / 127.5 - 1


def kept(folder: Path, kind: str, seed: int, words: str, frames: int, fps: float) -> Path:
    """:func:`films` as clips, each with its prompt.

    Args:
        folder: where to; written whole or not at all, and never twice.
        kind: the subject's class.
        seed: its seed.
        words: names the motion.
        frames: of each clip.
        fps: their rate.

    Raises:
        StarringError: if this world knows no such motion.
    """
    motion_of(words)
    if folder.exists():
        return folder

    def fill(part: Path) -> None:
        said = list[str]()
        for i, (caption, film) in enumerate(films(kind, seed, words, frames)):
            write_video(part / f"{i:02d}.mp4", pixels(film), fps=fps)
            said.append(f"{caption}\n")
        (part / "prompts.txt").write_text("".join(said), encoding="utf-8")

    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, fill)
    return folder
