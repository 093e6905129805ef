"""Clips in which others of the miniature world show a motion, to learn it from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from starring.data.files import write_folder
from starring.data.video import write_video
from starring.errors import unknown
from starring.miniature import album, world
from starring.miniature.captions import MOTION_WORDS
from starring.miniature.shapes import CLASSES

CLIPS = 6
"""Of one motion."""


def motion_of(words: str) -> str:
    """The motion that words name.

    Raises:
        StarringError: if this world knows no such words, with those it knows.
    """
    for motion, wordings in MOTION_WORDS.items():
        if words in wordings:
            return motion
    raise unknown("motion in the bundled world", words, [wordings[0] for wordings in MOTION_WORDS.values()])


def kept(folder: Path, kind: str, seed: int, words: str, frames: int, fps: float) -> Path:
    """Clips of others, none of the subject's class, in the scenes of its photographs, each with its prompt.

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
    motion = motion_of(words)
    if folder.exists():
        return folder
    scenes = [shot.scene for shot in album.shots(world.identity(seed, kind), CLIPS)]
    kinds = [other for other in CLASSES if other != kind]

    def fill(part: Path) -> None:
        for i, scene in enumerate(scenes):
            rng = np.random.default_rng([seed, i, list(MOTION_WORDS).index(motion)])
            other = world.identity(world.training_seed(rng), kinds[i])
            film = world.film(world.stage(other, scene, motion, "normal", 1, int(rng.integers(1 << 40))), frames)
            pixels = torch.from_numpy(np.stack([frame.image for frame in film])).permute(3, 0, 1, 2)[None]
            write_video(part / f"{i}.mp4", pixels / 127.5 - 1, fps=fps)
        lines = [f"a {other} {words}\n" for other in kinds[: len(scenes)]]
        (part / "prompts.txt").write_text("".join(lines), encoding="utf-8")

    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, fill)
    return folder
