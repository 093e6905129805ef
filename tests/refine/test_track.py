"""Tracks and regions: which boxes are one face, and where its window stands, against slow restatements."""

import math

import numpy as np
import pytest

from starring.refine.find import Face, within
from starring.refine.track import Track, feathered, link, region, smoothed

FRAME = (48, 64)


def face(top: int, left: int, height: int = 6, width: int = 6) -> Face:
    mask = np.zeros(FRAME, dtype=np.bool_)
    mask[max(0, top) : top + height, max(0, left) : left + width] = True
    return within(mask)


def places(track: Track) -> dict[int, tuple[float, float]]:
    return {number: each.box[:2] for number, each in track.items()}


def test_one_face_that_walks() -> None:
    (track,) = link([[face(10, 5 + 3 * i)] for i in range(10)])
    assert places(track) == {i: (5 + 3 * i, 10) for i in range(10)}


def test_two_faces_that_pass_each_other_apart() -> None:
    found = [[face(8, 4 + 4 * i), face(30, 50 - 4 * i)] for i in range(10)]
    found[3].reverse()  # the order on a frame means nothing
    above, below = link(found)
    assert all(each.box[1] == 8 for each in above.values())
    assert all(each.box[1] == 30 for each in below.values())
    assert len(above) == len(below) == 10


def test_a_face_that_is_missed_and_one_that_leaves_and_comes_back() -> None:
    found: list[list[Face]] = []
    for i in range(16):
        faces = [face(30, 10 + i)] if i not in (4, 5) else []  # missed twice
        if i < 4 or i >= 12:
            faces.append(face(6, 56))  # leaves at the right, comes back there
        found.append(faces)
    walker, visitor = sorted(link(found), key=len, reverse=True)
    assert sorted(walker) == [i for i in range(16) if i not in (4, 5)]
    assert sorted(visitor) == [0, 1, 2, 3, 12, 13, 14, 15]
    there = region(walker, 16, FRAME, 1.0, gap=4).present
    assert there.all()
    there = region(visitor, 16, FRAME, 1.0, gap=4).present
    assert there.tolist() == [i < 4 or i >= 12 for i in range(16)]


def test_a_face_that_comes_back_elsewhere_is_another_one() -> None:
    found = [[face(6, 2)] if i < 4 else [face(6, 54)] if i > 10 else [] for i in range(16)]
    first, second = link(found)
    assert sorted(first) == [0, 1, 2, 3]
    assert sorted(second) == [11, 12, 13, 14, 15]


def test_what_flickers_once_or_changes_its_size_is_no_face() -> None:
    found = [[face(20, 20)] for _ in range(8)]
    found[3].append(face(2, 50))
    found[5] = [face(8, 8, 32, 32)]
    (track,) = link(found)
    assert sorted(track) == [0, 1, 2, 3, 4, 6, 7]
    assert len(link([[face(2, 2)]])) == 1, "in a film of one frame, one frame is enough"
    assert link([[], []]) == []


def slow_path(track: Track, frames: int) -> list[tuple[float, float]]:
    """Middle of the face on every frame: between neighbours in proportion, then a Gaussian of one frame."""
    seen = sorted(track)
    raw: list[tuple[float, float]] = []
    for f in range(frames):
        before = max([s for s in seen if s <= f], default=seen[0])
        after = min([s for s in seen if s >= f], default=seen[-1])
        share = 0.0 if after <= before else (f - before) / (after - before)
        a, b = (((t + d) / 2, (x + r) / 2) for x, t, r, d in (track[before].box, track[after].box))
        raw.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])))
    out: list[tuple[float, float]] = []
    for f in range(frames):
        total, sums = 0.0, [0.0, 0.0]
        for d in range(-3, 4):
            weight = math.exp(-d * d / 2)
            place = raw[min(max(f + d, 0), frames - 1)]
            total += weight
            sums = [s + weight * p for s, p in zip(sums, place, strict=True)]
        out.append((sums[0] / total, sums[1] / total))
    return out


def test_the_window_follows_its_face() -> None:
    track = {i: face(12 + i % 3, 4 + 4 * i, 6, 5) for i in (0, 1, 2, 5, 6, 9)}
    made = region(track, 12, FRAME, 1.0, factor=3.0, feather=2.0)
    assert made.size == (18, 18)
    assert made.face == 6
    for f, (y, x) in enumerate(slow_path(track, 12)):
        wanted = (min(max(y - 9, 0), FRAME[0] - 18), min(max(x - 9, 0), FRAME[1] - 18))
        # to the nearest pixel; halves may go either way
        assert np.abs(made.corners[f] - wanted).max() <= 0.5 + 1e-9


def test_the_fixed_window_holds_all_places_and_stands_still() -> None:
    track = {i: face(20, 16 + 2 * i) for i in range(6)}
    made = region(track, 6, FRAME, 0.75, factor=2.0, feather=1.0, following=False)
    assert (made.corners == made.corners[0]).all()
    width = 2 * (6 + 2 * 5)
    assert made.size == (width * 3 // 4, width)
    top, left = made.corners[0]
    inside = np.zeros(FRAME, dtype=np.bool_)
    for each in track.values():
        inside |= each.mask
    assert np.array_equal(made.alpha == 1, inside[top : top + made.size[0], left : left + made.size[1]])


def test_what_is_pasted_is_every_place_of_the_face_seen_from_the_window() -> None:
    track = {i: face(12 + 5 * (i % 2), 4 + 4 * i) for i in range(8)}
    made = region(track, 8, FRAME, 1.0, feather=1.0)
    for y in range(made.size[0]):
        for x in range(made.size[1]):
            covered = any(track[i].mask[made.corners[i][0] + y, made.corners[i][1] + x] for i in track)
            assert (made.alpha[y, x] == 1) == covered


def test_at_the_edge_and_larger_than_the_frame_the_window_stays_inside() -> None:
    corner = region({0: face(0, 0), 1: face(0, 1)}, 2, FRAME, 1.0)
    assert corner.corners.tolist() == [[0, 0], [0, 0]]
    large = region({0: face(4, 10, 40, 40)}, 1, FRAME, 1.0)
    assert large.size == (48, 48)
    wide = region({0: face(4, 2, 30, 58)}, 1, FRAME, 0.5)
    assert wide.size == (32, 64)


@pytest.mark.parametrize("width", [1.0, 2.5, 5.0])
def test_the_feather_is_a_ramp_of_the_distance(width: float) -> None:
    mask = np.random.default_rng(1).random((14, 17)) > 0.95
    mask[5:9, 6:10] = True
    got = feathered(mask, width)
    for y in range(14):
        for x in range(17):
            distance = min(math.dist((y, x), place) for place in np.argwhere(mask))
            assert got[y, x] == pytest.approx(min(max(1 - distance / (width + 1), 0), 1), abs=1e-5)
    assert (got[mask] == 1).all()


def test_a_path_that_stands_still_is_not_moved() -> None:
    path = np.full((5, 2), 7.25)
    np.testing.assert_allclose(smoothed(path), path, rtol=1e-12)
