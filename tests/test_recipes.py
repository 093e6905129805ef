"""Every recipe, shrunk to the tiny backbone and two steps, learns and films. There is no list of exceptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, from_json, to_json
from starring.data.motion import Motion
from starring.data.pairs import Pairs
from starring.data.subject import Subject
from starring.generate import generate
from starring.learn import learn
from starring.methods import METHODS, recipe, recipe_for, recipes
from tests.families import family_of
from tests.moving import IMAGE_WIDTH, clips
from tests.pairing import cutout, pairs
from tests.perception.tiny_eyes import tiny_clip
from tests.perception.tiny_identity import tiny_identity_eyes
from tests.tiny import tiny_cogvideox

RECIPES = sorted(recipes())


class Ellipse:
    """Finds the subject where :func:`subject` drew it."""

    id = "ellipse"

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        return [torch.from_numpy(np.asarray(image)[..., 0] > 150).float() for image in images]


def subject() -> Subject:
    images: list[Image.Image] = []
    for shift in range(3):
        image = Image.new("RGB", (48, 40), (60, 90, 60 + 20 * shift))
        ImageDraw.Draw(image).ellipse((10 + shift, 8, 34 + shift, 32), fill=(200, 120, 40))
        images.append(image)
    return Subject.of(images, class_word="dog", name="rex")


@pytest.fixture(scope="module")
def backbones(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    """A tiny backbone of each family."""
    other = load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("recipes") / "cogvideox"), device="cpu")
    return {"animatediff": tiny, "cogvideox": other}


def shrunk(name: str, home: Path, frames: int) -> Recipe:
    """The recipe with everything that costs time made small, and nothing else changed."""
    whole = recipe(name)
    stages = tuple(
        replace(s, backbone="", train=replace(s.train, steps=2, batch=min(2, s.train.batch), checkpoint_every=2))
        for s in whole.stages
    )
    # The tiny tokenizer spells most words letter by letter, so a long negative prompt would not fit.
    own, options = whole.sample, dict(whole.options)
    if METHODS[whole.method].moving:
        options |= {"encoder": str(tiny_clip(home / "clip")), "image_width": IMAGE_WIDTH, "groups": None}
    sample = replace(own, frames=frames, height=32, width=32, steps=2, negative=own.negative[:20]) if own else None
    return replace(whole, stages=stages, options=options, data=replace(whole.data, size=32, variants=4), sample=sample)


@pytest.mark.parametrize("name", [n if n in METHODS else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_every_recipe_learns_and_films(name: str, backbones: dict[str, Backbone], tmp_path: Path) -> None:
    method = METHODS[recipe(name).method]
    tiny = backbones[family_of(method.name)]
    small = shrunk(name, tmp_path, tiny.sample.frames)
    motion = Motion.read(clips(tmp_path / "running", 1)) if method.moving else None
    steps: list[int] = []
    given = Pairs.read(pairs(tmp_path / "pairs", 2)) if method.paired else subject()
    run = learn(
        small.method, given, tiny, small, tmp_path / "runs", motion=motion, segmenter=Ellipse(),
        eyes=tiny_identity_eyes(),
        on_progress=lambda p: steps.append(p.step) if p.phase == "learn" else None,
    )  # fmt: skip
    assert run.finished
    assert steps[-1] == 2 * len(small.stages)
    weights = run.load_weights()
    assert weights
    assert all(torch.isfinite(value).all() for value in weights.values())
    shown: dict[str, Any] = {"reference": cutout(tmp_path / "dog.png", 1), "entity": "dog"} if method.paired else {}
    (film,) = generate(run, "a <*> dog on the beach", backbone=tiny, **shown)
    assert film.frames.shape[0] == tiny.sample.frames
    assert film.facts["sample"] == to_json(run.record.recipe.sample)


def test_a_backbone_without_a_recipe_gets_one_for_its_kind_of_world(tiny: Backbone) -> None:
    own = recipe("personalvideo-miniature")
    student = recipe_for("personalvideo", load_backbone("miniature-lcm"))
    assert student.options == own.options
    assert [stage.backbone for stage in student.stages] == ["", ""]
    assert student.sample is not None
    assert student.sample.steps == 4
    assert recipe_for("personalvideo", tiny).options == recipe("personalvideo").options
    assert recipe_for("personalvideo", load_backbone("miniature")) == own


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_json_and_name_what_exists(name: str) -> None:
    whole = recipe(name)
    assert from_json(Recipe, to_json(whole)) == whole
    assert whole.method in METHODS
    assert whole.source
    assert whole.stages
    config = METHODS[whole.method].config_type
    from_json(config, {"class_word": "dog", **whole.options} if "class_word" in config.__slots__ else whole.options)
