"""Tiled VCD: the cut, the seams, the memory, and what super-resolution does before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.refine.draw import tile_grid, tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.tiles import TileOptions, grid, spans, tiled
from tests.refine.places import noise_film
from tests.refine.test_face import scene_of


def fits(multiple: int) -> Any:
    return lambda height, width: height % multiple == 0 and width % multiple == 0


@pytest.mark.parametrize(
    ("length", "count", "extent", "blur", "step"),
    [(128, 2, 72, 1.0, 4), (192, 3, 72, 1.0, 4), (1024, 2, 576, 8.0, 8), (100, 3, 50, 3.0, 1), (64, 1, 64, 1.0, 4)],
)
def test_weights_sum_to_one_and_fall_across_the_seam(
    length: int, count: int, extent: int, blur: float, step: int
) -> None:
    total = np.zeros(length)
    for i, span in enumerate(spans(length, count, extent, blur, step)):
        assert 0 <= span.start <= length - extent
        assert len(span.weight) == extent
        for j, weight in enumerate(span.weight):
            x = span.start + j + 0.5
            up = 1.0 if i == 0 else min(max((x - length * i / count + blur) / (2 * blur), 0), 1)
            down = 1.0 if i == count - 1 else min(max((length * (i + 1) / count + blur - x) / (2 * blur), 0), 1)
            assert weight == pytest.approx(up * down)
            total[span.start + j] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_the_released_workflows_cut() -> None:
    cuts = grid((1024, 1024), (512, 512), fits(8), padding=32, blur=8, step=8)
    assert cuts.tile == (576, 576)
    assert [span.start for span in cuts.rows] == [0, 448]
    assert len(cuts) == 4


@pytest.mark.parametrize(("scale", "count"), [(1, 1), (2, 4), (3, 9), (4, 16)])
def test_larger_films_have_more_tiles_of_the_same_size(scale: int, count: int) -> None:
    cuts = grid((64 * scale, 96 * scale), (64, 96), fits(4), padding=4, blur=1, step=4)
    assert len(cuts) == count
    assert cuts.tile == ((64, 96) if scale == 1 else (72, 104))


def test_sizes_that_the_backbone_does_not_make() -> None:
    assert grid((128, 128), (64, 64), fits(16), padding=4, blur=1, step=4).tile == (80, 80)
    own = grid((128, 128), (64, 64), lambda h, w: (h, w) == (64, 64), padding=4, blur=1, step=4)
    assert own.tile == (64, 64)
    assert len(own) == 9  # its own size only: more of them, which overlap as much
    whole = grid((70, 64), (64, 64), fits(2), padding=4, blur=1)
    assert (len(whole), whole.tile) == (1, (70, 64))
    with pytest.raises(StarringError, match="45x64"):
        grid((45, 64), (64, 64), fits(4), padding=4, blur=1)


@pytest.mark.parametrize("size", [(128, 128), (192, 192), (130, 200)])
def test_what_is_not_changed_comes_back_bit_for_bit(size: tuple[int, int]) -> None:
    film = noise_film(3, *size)
    cuts = grid(size, (64, 64), fits(2), padding=4, blur=1.7, step=2)
    seen: list[int] = []

    def same(tile: NDArray[np.uint8], number: int, top: int, left: int) -> NDArray[np.uint8]:
        seen.append(number)
        assert np.array_equal(tile, film[:, top : top + cuts.tile[0], left : left + cuts.tile[1]])
        return tile

    assert np.array_equal(tiled(film, cuts, same), film)
    assert seen == list(range(1, len(cuts) + 1))


def test_blending_against_a_loop() -> None:
    film = noise_film(1, 20, 24)
    cuts = grid((20, 24), (10, 12), fits(2), padding=2, blur=1.5, step=1)
    assert len(cuts) == 4

    def numbered(tile: NDArray[np.uint8], number: int, top: int, left: int) -> NDArray[np.uint8]:
        return np.full_like(tile, 60 * number)

    made = tiled(film, cuts, numbered)
    for y in range(20):
        for x in range(24):
            below = min(max((y + 0.5 - 10 + 1.5) / 3, 0), 1)
            right = min(max((x + 0.5 - 12 + 1.5) / 3, 0), 1)
            value = 60 * ((1 - below) * (1 + right) + below * (3 + right))
            assert made[0, y, x, 0] == pytest.approx(value, abs=0.51)


class Watched:
    """The largest input that the denoiser was given, and how often."""

    def __init__(self, backbone: Backbone) -> None:
        self.sizes: list[int] = []
        self.handle = backbone.denoiser.register_forward_pre_hook(lambda _, args: self.sizes.append(args[0].numel()))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_tiles(tiny: Backbone) -> None:
    scene = scene_of(tiny)
    most: dict[int, int] = {}
    for scale in (2, 3):
        watched = Watched(tiny)
        try:
            made = tiled_vcd(scene, noise_film(4, 32, 32), Lanczos(), TileOptions(scale=scale))
        finally:
            watched.handle.remove()
        assert made.shape == (4, 32 * scale, 32 * scale, 3)
        cuts, step = tile_grid(scene, 4, (32 * scale, 32 * scale), TileOptions(scale=scale))
        assert len(cuts) == scale * scale
        assert len(watched.sizes) == len(cuts)  # one step of three is run: ceil(0.2 * 3)
        most[scale] = max(watched.sizes)
        assert most[scale] == 2 * 4 * 4 * (cuts.tile[0] // step) * (cuts.tile[1] // step)  # guidance, channels, frames
    assert most[2] == most[3]


@pytest.mark.slow
def test_strength_nothing_is_the_enlarged_film_through_the_vae(tiny: Backbone) -> None:
    film = noise_film(4, 32, 32)
    scene = scene_of(tiny)
    one, other = (tiled_vcd(replace(scene, seed=seed), film, Lanczos(), TileOptions(strength=0.0)) for seed in (1, 2))
    assert np.array_equal(one, other)  # no noise in it
    drawn = tiled_vcd(scene, film, Lanczos(), TileOptions(strength=0.4))
    assert not np.array_equal(one, drawn)
    assert np.array_equal(drawn, tiled_vcd(scene, film, Lanczos(), TileOptions(strength=0.4)))


def test_neighbours_share_the_noise_that_they_share(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    noises: list[torch.Tensor] = []
    scene = scene_of(tiny)
    method = scene.shared.method
    own = type(method).generate

    def generate(backbone: Backbone, request: Any) -> torch.Tensor:
        noises.append(request.noise)
        return own(method, backbone, request)

    monkeypatch.setattr(method, "generate", generate)
    tiled_vcd(scene, noise_film(4, 32, 32), Lanczos(), TileOptions())
    cuts, step = tile_grid(scene, 4, (64, 64), TileOptions())
    left, right = cuts.columns
    shared = (left.start + cuts.tile[1] - right.start) // step
    assert shared > 0
    assert torch.equal(noises[0][..., -shared:], noises[1][..., :shared])
    assert torch.equal(noises[0][..., -shared:, :], noises[2][..., :shared, :])
    frames = torch.cat([n.flatten(3) for n in noises], -1)
    assert float((frames[:, :, 1:] * frames[:, :, :-1]).mean()) == pytest.approx(0.15, abs=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strength": -0.1}, "strength"), ({"scale": 0}, "0 times"), ({"blur": 0.2}, "at least as large")],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StarringError, match=message):
        TileOptions(**options)


def test_films_of_more_frames_than_the_backbone_makes(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match="99 were asked for"):
        tiled_vcd(scene_of(tiny), noise_film(99, 32, 32), Lanczos(), TileOptions())
