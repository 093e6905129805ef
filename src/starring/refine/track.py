"""From faces on frames to one region for each face: what is cut out, and where it is pasted back.

Lengths are in pixels; ``F`` frames, ``H W`` frame size, ``h w`` region size. A position is (vertical, horizontal).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from starring.refine.find import Face

REACH = 1.5
"""How far a face moves in one frame at most, in its own sizes."""
REACH_FURTHER = 0.5
"""How much more for every frame in which it was not seen."""
REACH_MOST = 3.0
"""However long it was not seen."""
RATIO = 2.5
"""Two boxes of one face differ in size by at most this factor."""
SMOOTH = 1.0
"""Standard deviation, in frames, of the filter over a region's path: boxes jump by a pixel where faces do not."""

Track = dict[int, Face]
"""One face: where it is, by frame number, on the frames where it was seen."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """What is cut out around one face: a window of constant size that moves with it."""

    corners: NDArray[np.int64]
    """Top and left of the window on every frame, ``F 2``; all of it lies on the frame."""
    size: tuple[int, int]
    """Its height and width."""
    present: NDArray[np.bool_]
    """On which frames the face is there, ``F``; the others are not changed."""
    alpha: NDArray[np.float32]
    """How much of the new picture is pasted, ``h w`` in [0, 1]: 1 on the face, 0 beyond the feather."""
    face: float
    """Median height of the face."""


def link(found: Sequence[Sequence[Face]], least: int = 2) -> list[Track]:
    """Boxes of one face, joined over the frames.

    On each frame, pairs of a known face and a box are taken nearest first, the distance between their middles measured
    in the size of the boxes. A face may be missing on some frames, leave, and come back near where it was last seen;
    one that comes back elsewhere is a face of its own.

    Args:
        found: the faces of each frame.
        least: tracks seen on fewer frames are dropped, since one frame's box is most likely none (a film of fewer
            frames keeps all that last).

    Returns:
        Tracks in the order of their first frame.
    """
    tracks: list[Track] = []
    for number, faces in enumerate(found):
        pairs = sorted(
            (distance, i, j)
            for i, track in enumerate(tracks)
            for j, face in enumerate(faces)
            if (distance := _distance(track, number, face)) < math.inf
        )
        taken: set[int] = set()
        for _, i, j in pairs:
            if number not in tracks[i] and j not in taken:
                tracks[i][number] = faces[j]
                taken.add(j)
        tracks += [{number: face} for j, face in enumerate(faces) if j not in taken]
    return [track for track in tracks if len(track) >= min(least, len(found))]


def _distance(track: Track, number: int, face: Face) -> float:
    """From where a face was last seen to a box, in sizes of the boxes; infinite if it cannot be the same face."""
    last = max(track)
    before = track[last]
    sizes = [math.sqrt(f.size[0] * f.size[1]) for f in (before, face)]
    if max(sizes) > RATIO * min(sizes):
        return math.inf
    distance = math.dist(before.centre, face.centre) / (sum(sizes) / 2)
    reach = min(REACH + REACH_FURTHER * (number - last - 1), REACH_MOST)
    return distance if distance <= reach else math.inf


def region(
    track: Track, frames: int, frame: tuple[int, int], aspect: float, *, factor: float = 3.0, feather: float = 5.0,
    gap: int = 4, following: bool = True,
) -> Region:  # fmt: skip
    """The region of one face.

    Its size is that of the largest box times ``factor``, widened to the aspect. With ``following`` it is centred on the
    face on every frame ("a face-centered video", arXiv 2402.09368, section 4.3), along a path that is interpolated
    where the face was not seen and smoothed; otherwise it stands still around all boxes, as in the released workflow.
    What is pasted is everything that the face covers on any frame, seen from the moving window (the workflow's
    combined mask).

    Args:
        track: the face.
        frames: how many frames the film has.
        frame: height and width of the frames.
        aspect: height by width of the region.
        factor: the region's size in boxes.
        feather: width of the soft edge around the face.
        gap: for how many frames a face may be unseen and still counts as there.
        following: whether the region moves with the face.
    """
    seen = np.array(sorted(track))
    boxes = np.array([track[number].box for number in seen])
    if not following:
        boxes = np.broadcast_to([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)], boxes.shape)
    middles = np.stack([boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], 1) / 2
    largest = np.array([(boxes[:, 3] - boxes[:, 1]).max(), (boxes[:, 2] - boxes[:, 0]).max()])
    height, width = size = _window(factor * largest, frame, aspect)
    path = np.stack([np.interp(np.arange(frames), seen, middles[:, axis]) for axis in (0, 1)], 1)
    corners = np.rint(smoothed(path) - np.array(size) / 2).astype(np.int64)
    corners = corners.clip(0, np.array(frame) - size)
    union = np.zeros(size, dtype=np.bool_)
    for number in seen:
        top, left = corners[number]
        union |= track[number].mask[top : top + height, left : left + width]
    return Region(
        corners=corners, size=size, present=_present(seen, frames, gap), alpha=feathered(union, feather),
        face=float(np.median([face.size[0] for face in track.values()])),
    )  # fmt: skip


def _window(wanted: NDArray[np.float64], frame: tuple[int, int], aspect: float) -> tuple[int, int]:
    """The smallest window of an aspect that holds what is wanted, as far as the frame allows."""
    height = max(wanted[0], wanted[1] * aspect)
    height = min(height, frame[0], frame[1] * aspect)
    return max(1, min(frame[0], round(height))), max(1, min(frame[1], round(height / aspect)))


def smoothed(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """A path ``F d`` under a Gaussian filter along time; beyond its ends it stands still."""
    reach = math.ceil(3 * SMOOTH)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTH) ** 2)
    padded = np.pad(path, [(reach, reach), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=0)
    return np.asarray(windows @ (weights / weights.sum()), dtype=np.float64)


def _present(seen: NDArray[np.int64], frames: int, gap: int) -> NDArray[np.bool_]:
    there = np.zeros(frames, dtype=np.bool_)
    there[seen] = True
    for before, after in pairwise(seen):
        if after - before - 1 <= gap:
            there[before:after] = True
    return there


def feathered(mask: NDArray[np.bool_], width: float) -> NDArray[np.float32]:
    """1 inside a mask ``h w``, falling linearly with the distance from it, 0 at ``width + 1`` pixels and beyond."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - np.asarray(distance) / (width + 1), 0, 1).astype(np.float32)
