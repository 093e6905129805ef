"""P17: four scores of one film from one look, against four scripts that each look at every frame by themselves."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from benchmarks.counters import pictures
from benchmarks.harness import Case, Goal
from benchmarks.models import World
from benchmarks.naive.forms import four_scripts
from starring.metrics.protocols import Protocol
from starring.metrics.suite import Judge
from starring.perception.flow import DIS
from starring.perception.transforms import as_tensor

FRAMES = 49
PROMPT = "a dog"
FOUR = Protocol(
    name="four", source="what one pass of CLIP can tell", metrics=("clip_t", "clip_i", "consistency_clip", "background")
)


def build(world: World) -> Case:
    """CLIP-T, CLIP-I, T.Cons and background consistency, all by the same CLIP."""
    side, clip = 512 if world.full else 64, world.clip
    levels = (world.noise(3, FRAMES, side, side, seed=1).float().cpu().sigmoid() * 255).round()
    dice = np.random.default_rng(world.seed)
    photographs = [Image.fromarray(dice.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(3)]
    film, frames = levels / 127.5 - 1, (levels / 255).movedim(1, 0)
    references = torch.cat([as_tensor(image) for image in photographs])

    def ours() -> list[float]:
        judge = Judge(clip, flow=DIS(), protocol=FOUR)  # a fresh one, which remembers nothing
        scores = judge.score(film, PROMPT, judge.references(photographs))
        return [scores[key].value for key in FOUR.metrics]

    def scripts() -> list[float]:
        with torch.no_grad():
            return four_scripts(clip, frames, references, PROMPT)

    error = max(abs(a - b) for a, b in zip(ours(), scripts(), strict=True))
    own, others = (pictures(clip.network.vision_model, compute) for compute in (ours, scripts))
    return Case(
        id="P17", title="four scores of a film", size=f"{FRAMES} frames of {side}x{side}, 3 photographs",
        variants={"one look": ours, "four scripts": scripts},
        counters={"pictures encoded": own, "times fewer than the scripts": others / own, "largest difference": error},
        goals=(
            Goal(what="times fewer than the scripts", sign=">=", bar=2.5),
            Goal(what="largest difference", sign="<=", bar=2e-3 if world.full else 1e-5),
            Goal(what="four scripts / one look", sign=">=", bar=4 if world.full else 2.5),
        ),
    )  # fmt: skip
