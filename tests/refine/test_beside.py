"""Pieces of a film that was made beside pictures of a subject, at other sizes than the film's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data.cutouts import on_white, read_cutout
from starring.errors import StarringError
from starring.generate.beside import beside
from starring.generate.films import Shooting
from starring.methods.base import Request
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig
from starring.refine.draw import Scene, face_vcd, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import FaceOptions
from starring.refine.tiles import TileOptions
from tests.data.pictures import RedFinder, album
from tests.pairing import cutout
from tests.refine.places import Known, noise_film

PROMPT = "a dog running on the beach"
SMALL = (24, 24)
"""A film smaller than the backbone's own, 32 x 32, which faces have; tiles overlap and are 40 x 40."""


def scene_of(backbone: Backbone, picture: Path, form: str = "joint") -> Scene:
    method = CustomVideoX(backbone, CustomVideoXConfig(rank=2, form=form))
    sample = replace(backbone.sample, height=SMALL[0], width=SMALL[1], steps=2)
    shared = Shooting(backbone=backbone, method=method, sample=sample, correlation=0.0, origin={"name": "customvideox"})
    shared = beside(shared, [PROMPT], [picture], "dog")
    return Scene(shared=shared, prompt=PROMPT, seed=3, tell=lambda what, step, steps: None)


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_pieces_of_another_size_see_the_pictures_at_their_own(
    form: str, dit: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    generate = CustomVideoX.generate

    def watched(self: CustomVideoX, backbone: Backbone, request: Request) -> Tensor:
        assert request.reference is not None
        seen.append(request.reference)
        return generate(self, backbone, request)

    monkeypatch.setattr(CustomVideoX, "generate", watched)
    picture = cutout(tmp_path / "dog.png", 1)
    scene, film = scene_of(dit, picture, form), noise_film(dit.sample.frames, *SMALL)
    large = tiled_vcd(scene, film, Lanczos(), TileOptions(strength=0.5))
    assert large.shape == (len(film), 48, 48, 3)
    assert not np.array_equal(large, Lanczos().enlarge(film, 48, 48))
    finder = Known([[(12, 12, 5, 5)]] * len(film))
    assert (face_vcd(scene, film, finder, FaceOptions(strength=0.8)).frames != film).any()
    with torch.no_grad():
        tile, face = (dit.encode_video(on_white(read_cutout(picture), (side, side))[None]) for side in (40, 32))
    assert [len(each[0, 0, 0]) for each in seen] == [10, 10, 10, 10, 8], "four tiles, and the face"
    assert all(torch.equal(each, tile) for each in seen[:4])
    assert torch.equal(seen[4], face)
    assert list(scene.references) == [(40, 40), (32, 32)], "cut out and encoded once for each size"
    assert scene.reference(*SMALL) is scene.shared.reference


def test_pictures_that_cannot_be_cut_out_again_are_told(dit: Backbone, tmp_path: Path) -> None:
    scene = scene_of(dit, cutout(tmp_path / "dog.png", 1))
    photograph = album(tmp_path / "rex", 1) / "1.png"
    shared = beside(scene.shared, [PROMPT], [photograph], "dog", RedFinder())
    with pytest.raises(StarringError, match=r"in memory only.*32x32"):
        replace(scene, shared=shared).reference(32, 32)
