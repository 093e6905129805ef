"""Does the film hold together, and does anything move? Consistency, flicker, smoothness, flow magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.perception.interpolate import Interpolator

RATE = 8
"""Frames a second at which VBench looks for motion."""


def consistency(frames: Tensor) -> float:
    """Temporal consistency: the mean cosine of neighbouring frames (arXiv 2302.03011; Magic-Me also with DINO).

    Args:
        frames: unit vectors ``f d``, at least two.

    Raises:
        StarringError: if there are fewer than two frames.
    """
    _require_two(frames, "Temporal consistency")
    return float((frames[1:] * frames[:-1]).sum(-1).double().mean())


def vbench_consistency(frames: Tensor) -> float:
    """VBench's subject (DINO ViT-B/16) or background (CLIP ViT-B/32) consistency of one film (arXiv 2311.17982).

    For every frame after the first, the mean of its cosines with the frame before and with the first, negatives counted
    as zero. A set of films is averaged by film, as VBench's multi-process mode does; its single process mode weighs by
    length.

    Args:
        frames: unit vectors ``f d``, at least two.

    Raises:
        StarringError: if there are fewer than two frames.
    """
    _require_two(frames, "Consistency")
    before = (frames[1:] * frames[:-1]).sum(-1).clamp_min(0)
    first = (frames[1:] * frames[:1]).sum(-1).clamp_min(0)
    return float(((before + first) / 2).double().mean())


def steadiness(frames: Tensor) -> float:
    """Temporal flickering as VBench scores it: (255 - mean absolute difference of neighbouring frames) / 255.

    Computed on 8-bit values and never on a re-encoded file, whose compression smooths the difference away. 1 is a
    frozen film; motion costs as much as flicker does, so read it beside the flow magnitude.

    Args:
        frames: ``f 3 H W``, multiples of 1/255 in [0, 1], at least two frames.

    Raises:
        StarringError: if there are fewer than two frames.
    """
    _require_two(frames, "Flicker")
    levels = (frames * 255).round()
    difference = (levels[1:] - levels[:-1]).abs().flatten(1).double().mean(1)
    return float((255 - difference.mean()) / 255)


def smoothness(frames: Tensor, interpolator: Interpolator) -> float:
    """Motion smoothness as VBench scores it (arXiv 2311.17982, section 3.2.3): is motion as one would expect it?

    From frames 0, 2, 4, ... those in between are interpolated and compared with the true ones: (255 - mean absolute
    difference of 8-bit values) / 255. A last frame without a successor is not compared. VBench interpolates with AMT-S
    and, on a GPU of little memory, at a reduced size; here it is always the film's own size. A frozen film reaches 1.

    Args:
        frames: ``f 3 H W``, multiples of 1/255 in [0, 1], at least three frames.
        interpolator: who draws the frames in between.

    Raises:
        StarringError: if there are fewer than three frames.
    """
    if len(frames) < 3:
        raise StarringError(f"Motion smoothness needs a frame between two others; this film has {len(frames)}.")
    even, odd = frames[::2], frames[1::2]
    count = len(even) - 1
    drawn = (interpolator(even[:-1], even[1:]).to(frames) * 255).round()
    difference = (drawn - (odd[:count] * 255).round()).abs().flatten(1).double().mean(1)
    return float((255 - difference.mean()) / 255)


def flow_magnitude(flow: Tensor) -> float:
    """Mean length of all displacements, in pixels a frame.

    Args:
        flow: ``p 2 H W`` in pixels, one for each pair of neighbouring frames.

    Raises:
        StarringError: if there is no pair.
    """
    _require_pair(flow)
    return float(flow.double().norm(dim=1).mean())


def flow_magnitude_top(flow: Tensor, share: float = 0.05) -> float:
    """Mean length of the longest displacements of each pair: how fast the moving part moves, however small it is.

    Args:
        flow: ``p 2 H W`` in pixels.
        share: share of the pixels that counts (VBench's dynamic degree takes 5 %).

    Raises:
        StarringError: if there is no pair.
    """
    _require_pair(flow)
    return float(_strongest(flow, share).mean())


def course(flow: Tensor, share: float = 0.05) -> Tensor:
    """Where what moves has got to: the running sum of the mean displacement of the fastest pixels, ``p+1 2``, from 0.

    Args:
        flow: ``p 2 H W`` in pixels.
        share: share of the pixels of each pair that counts.

    Raises:
        StarringError: if there is no pair.
    """
    _require_pair(flow)
    moves = flow.double().flatten(2)
    lengths = moves.norm(dim=1)
    fastest = torch.topk(lengths, max(1, int(lengths.shape[1] * share)), dim=1).indices
    steps = moves.gather(2, fastest[:, None].expand(-1, 2, -1)).mean(2)
    return torch.cat([steps.new_zeros(1, 2), steps.cumsum(0)])


def trail(masks: Sequence[Tensor]) -> Tensor | None:
    """Where a subject's middle is on each frame, ``f 2``: x and y as shares of the frame's size.

    Frames without it lie on the line between those before and after, or where it was first or last seen.

    Args:
        masks: the subject on each frame, ``H W`` in {0, 1}.

    Returns:
        ``None`` if fewer than two frames show it.
    """
    seen = [(i, mask.nonzero().double().mean(0).flip(0)) for i, mask in enumerate(masks) if bool(mask.any())]
    if len(seen) < 2:
        return None
    height, width = masks[0].shape
    middles = torch.stack([place for _, place in seen]) / torch.tensor([width, height], dtype=torch.float64)
    numbers = [i for i, _ in seen]
    axes = [np.interp(range(len(masks)), numbers, axis.numpy()) for axis in middles.T]
    return torch.from_numpy(np.stack(axes, axis=1))


def course_likeness(one: Tensor, other: Tensor) -> float:
    """Pearson correlation of two courses or trails ``n 2``, both axes together, in [-1, 1]; 0 if either stands still.

    Courses of different length are compared over the same share of their time. Size and place do not matter, so a small
    subject may follow a large one.
    """
    count = max(len(one), len(other))
    a, b = (_resampled(each.double(), count) for each in (one, other))
    a, b = a - a.mean(0), b - b.mean(0)
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm > 1e-9 else 0.0


def _resampled(course: Tensor, count: int) -> Tensor:
    return interpolate(course.T[None], size=count, mode="linear", align_corners=True)[0].T


def stride(fps: float) -> int:
    """Every which frame VBench looks at for motion: round(fps / 8), at least 1 (released code)."""
    return max(1, round(fps / RATE))


def dynamic(flow: Tensor, frames: int, fps: float = RATE) -> bool:
    """VBench's dynamic degree of one film: whether it moves at all (arXiv 2311.17982, released code).

    A pair moves if the mean of its longest 5 % of displacements exceeds 6 max(1, 8 / fps) min(H, W) / 256; a film moves
    if at least round(4 frames / 16) pairs do, ties rounded to even, and one at least: of two frames the released code
    asks for no pair, so that a still film would move. The degree of a set is the share of its films that
    move. VBench takes every :func:`stride`-th frame and uses RAFT with 20 iterations.

    Args:
        flow: ``p 2 H W`` in pixels, between the frames that were taken.
        frames: number of frames that were taken.
        fps: rate of the film, before any were left out.

    Raises:
        StarringError: if there is no pair, or the rate is not above 0.
    """
    _require_pair(flow)
    if fps <= 0:
        raise StarringError(f"A film's rate must be above 0 frames a second, not {fps:g}.")
    threshold = 6 * max(1.0, RATE / fps) * min(flow.shape[-2:]) / 256
    return int((_strongest(flow, 0.05) > threshold).sum()) >= max(1, round(4 * frames / 16))


def static(flow: Tensor, ends: Tensor, frames: int) -> bool:
    """VBench's filter before temporal flickering: whether a film stands still, so that change is flicker.

    VBench scores flicker only on films that pass, of prompts that ask for still scenes; here every film is scored and
    the protocol says so. A film stands still if no more than round(2 frames / 16) pairs have a mean of their longest
    2 % of displacements above 3 min(H, W) / 256, and first and last frame differ by no more than 2 round(2 frames / 16)
    times that, in either direction (released code).

    Args:
        flow: ``p 2 H W`` in pixels, between neighbouring frames.
        ends: ``2 2 H W``, from the first frame to the last and back.
        frames: number of frames.

    Raises:
        StarringError: if there is no pair.
    """
    _require_pair(flow)
    threshold, count = 3 * min(flow.shape[-2:]) / 256, round(2 * frames / 16)
    moving = int((_strongest(flow, 0.02) > threshold).sum())
    return moving <= count and not bool((_strongest(ends, 0.02) > threshold * count * 2).any())


def _strongest(flow: Tensor, share: float) -> Tensor:
    lengths = flow.double().norm(dim=1).flatten(1)
    count = max(1, int(lengths.shape[1] * share))
    return torch.topk(lengths, count, dim=1).values.mean(1)


def _require_two(frames: Tensor, what: str) -> None:
    if len(frames) < 2:
        raise StarringError(
            f"{what} compares neighbouring frames, so a film needs at least two; this one has {len(frames)}."
        )


def _require_pair(flow: Tensor) -> None:
    if not len(flow):
        raise StarringError("Motion is measured between neighbouring frames, so a film needs at least two.")
