"""Both refinements belong to any method; new methods are picked up by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.generate.films import Shooting
from starring.methods.base import Plain, PlainConfig
from starring.refine.draw import Scene, face_vcd, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import FaceOptions
from starring.refine.tiles import TileOptions
from tests.families import ANIMATED
from tests.refine.places import Known, noise_film
from tests.refine.test_face import scene_of
from tests.tiny import tiny_cogvideox

FILM = noise_film(4, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANIMATED)
def test_faces_and_tiles_of_any_methods_film(name: str, tiny: Backbone) -> None:
    scene, finder = scene_of(tiny, name), Known([[(12, 12, 5, 5)]] * 4)
    made, same = (face_vcd(scene, FILM, finder, FaceOptions()).frames for _ in range(2))
    assert np.array_equal(made, same)
    changed = (made != FILM).any((0, 3))
    assert changed[12:17, 12:17].mean() > 0.9
    changed[10:19, 10:19] = False  # the face, and a feather of a pixel around it
    assert not changed.any()
    large = tiled_vcd(scene, FILM, Lanczos(), TileOptions(strength=0.5))
    assert large.shape == (4, 64, 64, 3)
    assert not np.array_equal(large, Lanczos().enlarge(FILM, 64, 64))


@pytest.mark.slow
def test_faces_and_tiles_on_a_backbone_that_compresses_time(tmp_path: Path) -> None:
    """All frames of a piece go through such a VAE together, and the film has 4 n + 1 of them."""
    backbone = load_backbone(str(tiny_cogvideox(tmp_path / "cogvideox")), device="cpu")
    own, plain = backbone.sample, Plain(backbone, PlainConfig(class_word="man"))
    shared = Shooting(backbone=backbone, method=plain, sample=own, correlation=0.15, origin={})
    scene = Scene(shared=shared, prompt="a <*> man on the beach", seed=3, tell=lambda what, step, steps: None)
    film = noise_film(own.frames, 32, 32)
    made = face_vcd(scene, film, Known([[(12, 12, 5, 5)]] * own.frames), FaceOptions(strength=0.8)).frames
    changed = (made != film).any((0, 3))
    assert changed[12:17, 12:17].mean() > 0.9
    changed[10:19, 10:19] = False
    assert not changed.any()
    large = tiled_vcd(scene, film, Lanczos(), TileOptions(strength=0.5))
    assert large.shape == (own.frames, 64, 64, 3)
    assert not np.array_equal(large, Lanczos().enlarge(film, 64, 64))
