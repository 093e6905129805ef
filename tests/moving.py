"""A subject, a motion and a small DualReal training, for tests that learn both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.data.video import write_video
from starring.learn import learn
from starring.methods import recipe_for
from starring.run import Run
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_clip

IMAGE_WIDTH = 16
"""Of :func:`tests.perception.tiny_eyes.tiny_clip`."""


def clip(path: Path, frames: int = 12, size: tuple[int, int] = (40, 60), fps: float = 8, seed: int = 0) -> Path:
    """A square that moves to the right over noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.rand(1, 3, frames, *size, generator=torch.Generator().manual_seed(seed)) - 1
    for i in range(frames):
        left = i * (size[1] - 10) // frames
        pixels[:, :, i, 12:22, left : left + 10] = 1
    return write_video(path, pixels, fps=fps)


def clips(folder: Path, count: int = 3) -> Path:
    """A folder of clips with their prompts."""
    for i in range(count):
        clip(folder / f"{i}.mp4", seed=i)
    (folder / "prompts.txt").write_text("a man running\n" * count)
    return folder


def small(backbone: Backbone, eye: Path, **train: Any) -> Recipe:
    """The paper's recipe in a few steps."""
    whole = recipe_for("dualreal", backbone)
    options = {**whole.options, "encoder": str(eye), "image_width": IMAGE_WIDTH, "hidden": 4}
    changes = {"steps": 6, "warmup": 2, "precision": "no", "checkpoint_every": 1, "keep_checkpoints": 99, **train}
    stages = tuple(replace(stage, train=replace(stage.train, **changes)) for stage in whole.stages)
    return replace(whole, options=options, stages=stages)


def learned(home: Path, backbone: Backbone, **more: Any) -> Run:
    """A finished run in ``home``."""
    eye = home / "clip"
    if not eye.is_dir():
        tiny_clip(eye)
    album(home / "rex", 3)
    clips(home / "running")
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    return learn("dualreal", subject, backbone, small(backbone, eye), home / "runs", motion=motion, **more)
