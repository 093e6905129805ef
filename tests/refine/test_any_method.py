"""Both refinements belong to any method; new methods are picked up by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from starring.backbones.base import Backbone
from starring.methods import METHODS
from starring.refine.draw import face_vcd, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import FaceOptions
from starring.refine.tiles import TileOptions
from tests.refine.places import Known, noise_film
from tests.refine.test_face import scene_of

FILM = noise_film(4, 32, 32)


@pytest.mark.parametrize("name", METHODS)
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
