"""Does the film hold together, and does anything move? Consistency, flicker, flow magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from starring.errors import StarringError


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


def dynamic(flow: Tensor, frames: int) -> bool:
    """VBench's dynamic degree of one film: whether it moves at all (arXiv 2311.17982, released code).

    A pair moves if the mean of its longest 5 % of displacements exceeds 6 min(H, W) / 256; a film moves if at least
    round(4 frames / 16) pairs do. VBench samples frames at about 8 a second and uses RAFT.

    Args:
        flow: ``p 2 H W`` in pixels.
        frames: number of frames the flow was computed from.

    Raises:
        StarringError: if there is no pair.
    """
    _require_pair(flow)
    threshold = 6 * min(flow.shape[-2:]) / 256
    return int((_strongest(flow, 0.05) > threshold).sum()) >= round(4 * frames / 16)


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
