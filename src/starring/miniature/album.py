"""Photographs of one subject of the miniature world, as a person would take them, and its films as they really look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from starring.data.files import write_folder
from starring.errors import unknown
from starring.miniature import world
from starring.miniature.scenes import SCENES
from starring.miniature.shapes import CLASSES

DEMO_SUBJECT = 120
"""Seed of the bundled demonstration's subject, a dog that no training saw."""


def shots(who: world.Identity, count: int = 6, seed: int = 0) -> list[world.Shot]:
    """Openings of the subject standing in ``count`` different scenes, near enough to be seen, facing either way."""
    rng = np.random.default_rng([who.seed, seed])
    scenes = rng.permutation(list(SCENES))
    views = ("normal", "close")
    return [
        world.stage(
            who, str(scenes[i % len(scenes)]), "still", views[i % 2], 1 if i % 3 else -1, int(rng.integers(1 << 40))
        )
        for i in range(count)
    ]


def write(folder: Path, who: world.Identity, count: int = 6, seed: int = 0, size: int = 256, name: str = "") -> Path:
    """Write photographs ``00.png`` and on, and ``subject.json`` with the name and class word.

    ``size`` is the side in pixels: cameras see more than the miniature's 64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, shot in enumerate(shots(who, count, seed)):
        Image.fromarray(world.render(shot, size).image).save(folder / f"{i:02d}.png", optimize=True)
    facts = {"name": name or f"{who.kind}-{who.seed}", "class_word": who.kind}
    (folder / "subject.json").write_text(json.dumps(facts, indent=2) + "\n")
    return folder


def kept(folder: Path, kind: str, seed: int) -> Path:
    """The photographs of a subject in ``folder``, written whole or not at all, and never twice.

    Raises:
        StarringError: if nobody in this world is of that class.
    """
    if kind not in CLASSES:
        raise unknown("class of subjects in the bundled world", kind, CLASSES)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)

        def fill(part: Path) -> None:
            write(part, world.identity(seed, kind))

        write_folder(folder, fill)
    return folder
