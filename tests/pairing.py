"""A small corpus of pairs, and a small CustomVideoX training on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.pairs import Pairs
from starring.learn import learn
from starring.methods import recipe_for
from starring.run import Run
from tests.moving import clip

ENTITIES = ("dog", "cat", "robot", "turtle")


def cutout(path: Path, number: int, transparent: bool = True) -> Path:
    """A coloured disc, with nothing or with white around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (50, 40), (255, 255, 255, 0 if transparent else 255))
    ImageDraw.Draw(image).ellipse((12, 8, 32, 28), fill=(60 * number % 256, 200 - 40 * number, 90, 255))
    (image if transparent else image.convert("RGB")).save(path)
    return path


def pairs(folder: Path, count: int = 4, frames: int = 12) -> Path:
    """A corpus of ``count`` pairs."""
    rows: list[dict[str, str]] = []
    for i in range(count):
        entity = ENTITIES[i % len(ENTITIES)]
        cutout(folder / "references" / f"{i}.png", i, transparent=i % 2 == 0)
        clip(folder / "clips" / f"{i}.mp4", frames=frames, seed=i)
        row = {"reference": f"references/{i}.png", "clip": f"clips/{i}.mp4", "entity": entity}
        rows.append({**row, "caption": f"a {entity} running on the beach"})
    listed(folder, rows)
    return folder


def listed(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write ``metadata.jsonl``."""
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Read it."""
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def small(backbone: Backbone, **train: Any) -> Recipe:
    """The paper's recipe in a few steps."""
    whole = recipe_for("customvideox", backbone)
    changes = {"steps": 6, "precision": "no", "learning_rate": 1e-2, "checkpoint_every": 2, **train}
    stages = tuple(replace(stage, train=replace(stage.train, **changes)) for stage in whole.stages)
    return replace(whole, options={**whole.options, "rank": 2}, stages=stages)


def learned(home: Path, backbone: Backbone, **more: Any) -> Run:
    """A finished run in ``home``."""
    place = home / "pairs"
    if not place.is_dir():
        pairs(place)
    return learn("customvideox", Pairs.read(place), backbone, small(backbone), home / "runs", **more)
