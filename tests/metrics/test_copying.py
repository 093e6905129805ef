"""Copies of the photographs and frozen films, each caught on material from the miniature's renderer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starring.errors import StarringError
from starring.metrics.copying import (
    GRID,
    copied_background,
    copied_pose,
    kept_background,
    kept_motion,
    painted_over,
    silhouette,
)
from starring.miniature import world


def rendered(motion: str, scene: str = "beach", seed: int = 160) -> list[world.Frame]:
    shot = world.stage(world.identity(seed, "dog"), scene, motion, "normal", 1, 3)
    return world.film(shot)


def masks(frames: list[world.Frame]) -> list[torch.Tensor]:
    return [torch.from_numpy(frame.mask).float() for frame in frames]


def test_a_cut_out_is_a_copied_pose_wherever_it_is_put() -> None:
    (reference, *_) = masks(rendered("still"))
    moved = torch.roll(reference, (5, -9), (0, 1))
    larger = reference.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert copied_pose([reference, moved, larger, moved.flip(-1)], [reference]) == pytest.approx(1, abs=0.05)
    turning = copied_pose(masks(rendered("turning")), [reference])
    assert turning is not None
    assert turning < 0.9


def test_silhouettes_by_a_loop() -> None:
    mask = torch.zeros(20, 30)
    mask[4:12, 10:14] = 1  # 8 high, 4 wide: the middle half of its square
    found = silhouette(mask)
    slow = np.array([[GRID // 4 <= x < 3 * GRID // 4 for x in range(GRID)] for _ in range(GRID)])
    assert np.array_equal(found.numpy(), slow)
    tall = torch.zeros(20, 30)
    tall[3:11, 7:15] = 1
    assert copied_pose([mask], [tall]) == pytest.approx(0.5)


def test_without_a_subject_there_is_no_pose() -> None:
    empty, full = torch.zeros(8, 8), torch.ones(8, 8)
    assert copied_pose([empty], [full]) is None
    assert copied_pose([full], [empty]) is None
    assert copied_pose([empty, full], [full]) == 1


def test_backgrounds() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    frames, references = vectors[:3], vectors[3:]
    slow = np.mean([max(float(f @ r) for r in references.numpy()) for f in frames.numpy()])
    assert copied_background(frames, references) == pytest.approx(slow, abs=1e-6)
    with pytest.raises(StarringError, match="missing"):
        copied_background(frames, references[:0])


def test_the_subject_is_painted_over_and_nothing_else() -> None:
    frames, mask = torch.rand(1, 3, 16, 16), torch.zeros(16, 16)
    mask[6:9, 7:9] = 1
    painted = painted_over(frames, [mask])
    for y in range(16):
        for x in range(16):
            near = 4 <= y < 11 and 5 <= x < 11
            assert torch.equal(painted[0, :, y, x], torch.full((3,), 0.5) if near else frames[0, :, y, x])


def test_a_kept_background_by_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    floor = torch.rand(3, 3, 20, 24, generator=draw)
    frames = floor + 0.3 * (torch.rand(floor.shape, generator=draw) - 0.5)
    masks, floor_masks = [torch.zeros(20, 24) for _ in range(3)], [torch.zeros(20, 24) for _ in range(3)]
    for i in range(3):
        masks[i][4:9, 3 + i : 8 + i], floor_masks[i][6:12, 10:14] = 1, 1
    kept: list[bool] = []
    for f in range(3):
        for y in range(20):
            for x in range(24):
                near = [
                    m[f][b, a]
                    for m in (masks, floor_masks)
                    for b in range(max(y - 2, 0), min(y + 3, 20))
                    for a in range(max(x - 2, 0), min(x + 3, 24))
                ]
                if not any(near):
                    kept.append(all(abs(float(frames[f, c, y, x] - floor[f, c, y, x])) <= 0.1 for c in range(3)))
    share = kept_background(frames, floor, masks, floor_masks)
    assert share == pytest.approx(sum(kept) / len(kept))
    assert 0.1 < sum(kept) / len(kept) < 0.9


def test_blotches_around_the_subject_are_told_and_the_subject_is_free() -> None:
    film, mask = torch.full((2, 3, 16, 16), 0.5), torch.zeros(16, 16)
    mask[4:12, 4:12] = 1
    repainted, blotched = film.clone(), film.clone()
    repainted[:, :, 4:12, 4:12] = 0
    blotched[:, 0, :2] = 1  # two rows of sixteen; 16 x 16 less 12 x 12 pixels are compared
    masks = [mask, mask]
    assert kept_background(repainted, film, masks, masks) == 1
    assert kept_background(blotched, film, masks, masks) == pytest.approx(1 - 32 / 112)
    assert kept_background(film, film, [torch.ones(16, 16)] * 2, masks) is None
    with pytest.raises(StarringError, match="mask for each frame"):
        kept_background(film, film[:1], masks, masks)


def test_a_frozen_film_is_caught_against_the_untuned_model() -> None:
    rng = np.random.default_rng(0)
    floor = rng.uniform(0.5, 4, 12)
    frozen = kept_motion((0.2 * floor).tolist(), floor.tolist())
    alive = kept_motion((floor * rng.uniform(0.8, 1.2, 12)).tolist(), floor.tolist())
    assert frozen is not None
    assert alive is not None
    assert (frozen.frozen, frozen.share, frozen.films) == (True, pytest.approx(0.2), 12)
    assert (alive.frozen, alive.low < alive.share < alive.high) == (False, True)
    assert kept_motion([0.0] * 3, [0.0] * 3) is None  # nothing moved before either
    with pytest.raises(StarringError, match="pair up"):
        kept_motion([1.0], [])
