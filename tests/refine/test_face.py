"""Face VCD: what is cut out, what is pasted, and that nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.generate.films import Shooting
from starring.methods import build
from starring.refine.draw import Scene, face_vcd
from starring.refine.face import FaceOptions, cut, pasted, refine_faces, scaled
from starring.refine.track import link, region
from tests.refine.places import Box, Known, masked, noise_film

FILM = noise_film(6, 32, 40)
WALKING: list[list[Box]] = [[(10, 6 + 4 * i, 5, 4)] for i in range(6)]


def scene_of(backbone: Backbone, method: str = "vcd") -> Scene:
    shared = Shooting(
        backbone=backbone, method=build(method, backbone), sample=backbone.sample, correlation=0.15, origin={}
    )
    return Scene(shared=shared, prompt="a <*> man on the beach", seed=3, tell=lambda what, step, steps: None)


def changed_at(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((before != after).any(-1))


def allowed(boxes: Sequence[Sequence[Box]], frames: int, feather: float, path: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a face or its feather may be: near any of its places as seen from the moving window; slowly."""
    there = np.zeros(FILM.shape[:3], dtype=np.bool_)
    for f in range(frames):
        for other in range(frames):
            for top, left, height, width in boxes[other]:
                dy, dx = path[f] - path[other]
                for y in range(32):
                    for x in range(40):
                        near = math.hypot(
                            max(top + dy - y, y - (top + dy + height - 1), 0),
                            max(left + dx - x, x - (left + dx + width - 1), 0),
                        )
                        there[f, y, x] |= near < feather + 1
    return there


def test_outside_the_feather_every_bit_stays() -> None:
    made = refine_faces(FILM, Known(WALKING), lambda piece, what: 255 - piece, (32, 32), FaceOptions(feather=2 / 32))
    (found,) = made.regions
    outside = ~allowed(WALKING, 6, 2.0, found.corners)
    assert outside.mean() > 0.5
    assert np.array_equal(made.frames[outside], FILM[outside])
    assert changed_at(FILM, made.frames).any()
    for f, boxes in enumerate(WALKING):
        top, left, height, width = boxes[0]
        assert changed_at(FILM, made.frames)[f, top : top + height, left : left + width].mean() > 0.9
    assert "5 pixels high, on 6 frames" in made.notes[0]


def test_pasting_against_a_loop() -> None:
    (track,) = link([[masked((32, 40), box) for box in boxes] for boxes in WALKING[:3]] + [[], [], []])
    found = region(track, 6, (32, 40), 1.0, feather=1.5, gap=0)
    new = noise_film(6, *found.size, seed=5)
    made = pasted(FILM, found, new)
    wanted = FILM.copy()
    for f in range(3):
        for y in range(found.size[0]):
            for x in range(found.size[1]):
                a = float(found.alpha[y, x])
                place = (f, found.corners[f][0] + y, found.corners[f][1] + x)
                wanted[place] = [
                    round(o + a * (int(n) - int(o))) for o, n in zip(FILM[place], new[f, y, x], strict=True)
                ]
    assert np.abs(made.astype(int) - wanted.astype(int)).max() <= 1  # halves may go either way
    assert (made == wanted).mean() > 0.999
    assert np.array_equal(made[3:], FILM[3:]), "where the face is not, nothing is pasted"
    assert np.array_equal(
        cut(FILM, found)[2], FILM[2][found.corners[2][0] :, found.corners[2][1] :][: found.size[0], : found.size[1]]
    )


def test_pieces_are_drawn_at_the_backbones_size_one_after_the_other() -> None:
    heard: list[tuple[str, tuple[int, ...]]] = []

    def redraw(piece: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
        heard.append((what, piece.shape))
        return piece

    two = [[*boxes, (22, 30, 4, 4)] for boxes in WALKING]
    made = refine_faces(FILM, Known(two), redraw, (48, 64))
    assert heard == [("face 1", (6, 48, 64, 3)), ("face 2", (6, 48, 64, 3))]
    assert len(made.regions) == 2
    assert made.regions[0].size == (15, 20)  # three faces high, in the backbone's proportions


def test_without_faces_the_film_is_as_it_was_and_it_is_said() -> None:
    def never(piece: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
        raise AssertionError("nothing is to be drawn")

    made = refine_faces(FILM, Known([[]] * 6), never, (32, 32))
    assert made.frames is FILM
    assert made.regions == ()
    assert "No face was found in 6 frames" in made.notes[0]
    tiny = refine_faces(FILM, Known([[(3, 3, 1, 1)]] * 6), never, (32, 32), FaceOptions(smallest=0.1))
    assert "No face" in tiny.notes[0]
    once = refine_faces(FILM, Known([[(3, 3, 6, 6)], *[[]] * 5]), never, (32, 32))
    assert "on more than one frame" in once.notes[0]
    large = refine_faces(FILM, Known([[(3, 3, 20, 20)]] * 6), never, (32, 32))
    assert "large enough" in large.notes[0]
    assert np.array_equal(large.frames, FILM)


def test_it_is_the_method_that_draws_and_the_seed_that_decides(tiny: Backbone) -> None:
    film = noise_film(4, 32, 32)
    finder = Known([[(12, 12, 5, 5)]] * 4)
    scene = scene_of(tiny)
    one, same = (face_vcd(scene, film, finder, FaceOptions()).frames for _ in range(2))
    assert np.array_equal(one, same)
    (found,) = face_vcd(scene, film, finder, FaceOptions()).regions
    top, left = found.corners[0]
    window = np.zeros(film.shape[1:3], dtype=np.bool_)
    window[top : top + found.size[0], left : left + found.size[1]] = found.alpha > 0
    assert np.array_equal(one[:, ~window], film[:, ~window])
    assert changed_at(film, one)[:, 12:17, 12:17].mean() > 0.9
    with torch.no_grad():
        for parameter in scene.shared.method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert not np.array_equal(face_vcd(scene, film, finder, FaceOptions()).frames, one)


def test_regions_may_have_a_prompt_of_their_own(tiny: Backbone) -> None:
    film, finder, scene = noise_film(4, 32, 32), Known([[(12, 12, 5, 5)]] * 4), scene_of(tiny)
    close = FaceOptions(prompt="close up <*> man")
    own = face_vcd(scene, film, finder, close).frames
    assert not np.array_equal(own, face_vcd(scene, film, finder, FaceOptions()).frames)
    same = replace(scene, prompt="close up <*> man")
    assert np.array_equal(own, face_vcd(same, film, finder, FaceOptions()).frames)
    with pytest.raises(StarringError, match="where the subject is"):
        face_vcd(scene, film, finder, FaceOptions(prompt="close up man"))


def test_only_the_clean_end_of_the_schedule_is_run(tiny: Backbone) -> None:
    heard: list[tuple[str, int, int]] = []
    scene = scene_of(tiny)
    told = Scene(
        shared=scene.shared,
        prompt=scene.prompt,
        seed=1,
        tell=lambda what, step, steps: heard.append((what, step, steps)),
    )
    face_vcd(told, noise_film(4, 32, 32), Known([[(12, 12, 5, 5)]] * 4), FaceOptions(strength=0.6))
    assert heard == [("face 1", 1, 2), ("face 1", 2, 2)]  # ceil(0.6 * 3) of three steps


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strength": 1.2}, "strength"), ({"factor": 0.5}, "factor"), ({"region": "moving"}, "moving")],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(StarringError, match=message):
        FaceOptions(**options)  # type: ignore[arg-type]


def test_scaling_to_the_same_size_changes_nothing() -> None:
    assert scaled(FILM, (32, 40)) is FILM
    assert scaled(FILM, (16, 20)).shape == (6, 16, 20, 3)
