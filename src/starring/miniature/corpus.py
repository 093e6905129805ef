"""Rendered material on disk, so that training reads instead of draws: shards of stills and of films.

Each shard depends on its number alone; building can stop and go on, and several processes can share the work.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from starring.errors import StarringError
from starring.miniature import world
from starring.miniature.captions import caption
from starring.miniature.colours import GROUPS, group_of, name_of
from starring.miniature.scenes import SCENES
from starring.miniature.shapes import CLASSES
from starring.miniature.words import CONTEXT, encode

STILLS_PER_SHARD = 4000
FILMS_PER_SHARD = 200
FILM_KINDS = {"films": 2, "clips": 3}
"""Kinds of shards that hold films, and what sets the subjects and scenes of one kind apart from another's."""
SHOTS_PER_SUBJECT = 4
CAPTIONS = 4
"""Different captions kept for each item."""
VIEWS = tuple(world.UNIT)
FACE, FIRST = 2, 4
"""Bits of a still's mask, beside 1 for all that is no background: a person's face, and the first of its actors."""
LABELS = ("kind", "colour", "scene", "motion", "view", "facing", "subject", "actors", "second")


def _labels(shot: world.Shot, subject: int) -> list[int]:
    who = shot.actors[0].identity
    return [
        tuple(CLASSES).index(who.kind),
        tuple(GROUPS).index(group_of(name_of(who.body))),
        tuple(SCENES).index(shot.scene),
        world.MOTIONS.index(shot.motion),
        VIEWS.index(shot.view),
        int(shot.facing > 0),
        subject,
        len(shot.actors),
        tuple(CLASSES).index(shot.actors[-1].identity.kind),
    ]


def _save(path: Path, array: NDArray[np.generic]) -> None:
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    partial.replace(path)


def build_stills(folder: Path, shard: int) -> None:
    """Render one shard of stills unless it is there; each subject appears in several shots in a row."""
    if (folder / f"stills-{shard:03d}-labels.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([1, shard])
    cv2.setNumThreads(1)
    size = world.SIZE
    images = np.empty((STILLS_PER_SHARD, size, size, 3), np.uint8)
    masks = np.empty((STILLS_PER_SHARD, size, size), np.uint8)
    tokens = np.empty((STILLS_PER_SHARD, CAPTIONS, CONTEXT), np.uint16)
    labels: list[list[int]] = []
    for i in range(STILLS_PER_SHARD):
        subject = shard * STILLS_PER_SHARD + i - i % SHOTS_PER_SUBJECT
        if i % SHOTS_PER_SUBJECT == 0:
            who = world.identity(world.training_seed(rng))
        shot = world.random_shot(rng, who)  # pyright: ignore[reportPossiblyUnboundVariable]
        frame = world.render(shot)
        images[i], masks[i] = frame.image, frame.mask + FACE * frame.face + FIRST * frame.first
        tokens[i] = encode([caption(shot, rng) for _ in range(CAPTIONS)])
        labels.append(_labels(shot, subject))
    _save(folder / f"stills-{shard:03d}-images.npy", images)
    _save(folder / f"stills-{shard:03d}-masks.npy", masks)
    _save(folder / f"stills-{shard:03d}-tokens.npy", tokens)
    _save(folder / f"stills-{shard:03d}-labels.npy", np.array(labels, np.int32))


def build_films(folder: Path, shard: int, kind: str = "films", count: int = world.FRAMES) -> None:
    """Render one shard of ``films``, or of ``clips`` of another number of frames, unless it is there."""
    if (folder / f"{kind}-{shard:03d}-labels.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([FILM_KINDS[kind], shard])
    cv2.setNumThreads(1)
    size = world.SIZE
    frames = np.empty((FILMS_PER_SHARD, count, size, size, 3), np.uint8)
    masks = np.empty((FILMS_PER_SHARD, count, size, size), np.uint8)
    tokens = np.empty((FILMS_PER_SHARD, CAPTIONS, CONTEXT), np.uint16)
    labels: list[list[int]] = []
    for i in range(FILMS_PER_SHARD):
        shot = world.random_shot(rng, films=True)
        film = world.film(shot, count, pace=float(rng.uniform(0.8, 1.1)))
        frames[i] = np.stack([frame.image for frame in film])
        masks[i] = np.stack([frame.mask for frame in film])
        tokens[i] = encode([caption(shot, rng) for _ in range(CAPTIONS)])
        labels.append(_labels(shot, shard * FILMS_PER_SHARD + i))
    _save(folder / f"{kind}-{shard:03d}-images.npy", frames)
    _save(folder / f"{kind}-{shard:03d}-masks.npy", masks)
    _save(folder / f"{kind}-{shard:03d}-tokens.npy", tokens)
    _save(folder / f"{kind}-{shard:03d}-labels.npy", np.array(labels, np.int32))


def shards(folder: Path, kind: str) -> list[int]:
    """Numbers of the finished shards of ``stills``, ``films`` or ``clips``."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob(f"{kind}-*-labels.npy"))


class Shelf:
    """Random access over all shards of a kind: arrays by name, rows by global number."""

    def __init__(self, folder: Path, kind: str, fields: tuple[str, ...]) -> None:
        whole = [f"{kind}-{{:03d}}-{name}.npy" for name in fields]
        self.numbers = [n for n in shards(folder, kind) if all((folder / name.format(n)).exists() for name in whole)]
        if not self.numbers:
            raise StarringError(
                f"{folder} holds no {kind} with {', '.join(fields)}. "
                "Build them first: python -m starring.miniature build corpus vae latents"
            )
        self.per_shard = STILLS_PER_SHARD if kind == "stills" else FILMS_PER_SHARD
        self._arrays = {
            name: [np.load(folder / f"{kind}-{n:03d}-{name}.npy", mmap_mode="r") for n in self.numbers]
            for name in fields
        }

    def __len__(self) -> int:
        return len(self.numbers) * self.per_shard

    def get(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """The rows of one array, stacked."""
        parts = self._arrays[name]
        return np.stack([parts[row // self.per_shard][row % self.per_shard] for row in rows.tolist()])
