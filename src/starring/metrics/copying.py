"""Was something made, or only moved over? Copies of the photographs, and films whose motion has frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.metrics.comparison import bootstrapped

GRID = 32
"""Side of the grid that silhouettes are compared on."""
GREY = 0.5
"""What the subject is painted over with."""
FROZEN = 0.5
"""Motion is called frozen if less than this share of the untuned model's is left, with 95 % confidence."""
TOLERANCE = 0.1
"""Pixels in [0, 1] count as kept if no channel changed by more."""
STILL = 1e-3
"""Pixels a frame below which a film moves so little that nothing can freeze."""


def copied_pose(frames: Sequence[Tensor], references: Sequence[Tensor]) -> float | None:
    """How much the subject's silhouette is that of a photograph: high if one pose is pasted again and again.

    Place and size do not count: every mask is cut to the square around its box and brought to 32 x 32. The score of a
    frame is the largest intersection over union with any photograph or its mirror image; the mean over frames is taken.
    An own definition, as published scores of likeness reward copies (OpenS2V-Eval's thread on copy-paste); subjects
    without limbs reach high values in any film, so compare with the floor of the same prompts.

    Args:
        frames: masks ``H W`` in {0, 1}; empty ones are left out.
        references: the same, of the photographs.

    Returns:
        In [0, 1]; ``None`` if the subject was found on no frame or on no photograph.
    """
    seen = [silhouette(mask) for mask in frames if bool(mask.any())]
    known = [silhouette(mask) for mask in references if bool(mask.any())]
    if not seen or not known:
        return None
    both = [*known, *(mask.flip(-1) for mask in known)]
    return sum(max(_overlap(mask, other) for other in both) for mask in seen) / len(seen)


def copied_background(frames: Tensor, references: Tensor) -> float:
    """How much what is around the subject is that of a photograph.

    The mean over frames of the largest cosine with any photograph, of DINO's vectors of pictures in which the subject
    is painted over (:func:`painted_over`). A prompt that asks for the photographs' own place raises it rightly, so
    compare with the floor of the same prompts.

    Args:
        frames: unit vectors ``f d``.
        references: unit vectors ``r d``.

    Raises:
        StarringError: if there is no frame or no photograph.
    """
    if not len(frames) or not len(references):
        raise StarringError("A copied background is measured between frames and photographs; one of them is missing.")
    return float((frames @ references.T).double().amax(1).mean())


def kept_background(
    frames: Tensor, floor: Tensor, masks: Sequence[Tensor], floor_masks: Sequence[Tensor]
) -> float | None:
    """How much of what surrounds the subject is as in another film of the same prompt and seed.

    The share of pixels, outside of the subject in both films and two pixels around it, of which no channel differs by
    more than :data:`TOLERANCE`. An own definition: what a reward paints over the scene, no score of likeness sees.

    Args:
        frames: a film ``f 3 H W`` in [0, 1].
        floor: the other one, of the same shape.
        masks: where the subject is on each frame, ``H W`` in {0, 1}.
        floor_masks: the same, of the other film.

    Returns:
        In [0, 1]; ``None`` if the subject leaves nothing to compare.

    Raises:
        StarringError: if the films do not match.
    """
    if frames.shape != floor.shape or not len(frames) == len(masks) == len(floor_masks):
        raise StarringError(
            f"Two films of one size are compared, with a mask for each frame; these are {tuple(frames.shape)} and"
            f" {tuple(floor.shape)}, with {len(masks)} and {len(floor_masks)} masks."
        )
    outside = ~(_widened(masks) | _widened(floor_masks))
    same = (frames - floor).abs().amax(1, keepdim=True) <= TOLERANCE
    return float(same[outside].double().mean()) if bool(outside.any()) else None


def silhouette(mask: Tensor) -> Tensor:
    """A mask ``H W`` that covers a pixel at least, as it fills the square around its box: boolean ``32 32``."""
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    side = max(bottom - top, right - left)
    canvas = torch.zeros(side, side)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    canvas[y : y + bottom - top, x : x + right - left] = mask[top:bottom, left:right].float()
    return interpolate(canvas[None, None], size=(GRID, GRID), mode="area")[0, 0] >= 0.5


def painted_over(frames: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Frames ``f 3 H W`` in [0, 1] with the subject (masks ``H W``) and two pixels around it in grey."""
    return torch.where(_widened(masks), torch.full_like(frames, GREY), frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """How much motion customization left."""

    share: float
    """Motion with customization over motion without, at the same prompts and seeds."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    films: int
    """How many pairs."""

    @property
    def frozen(self) -> bool:
        """Whether motion is frozen: even the upper end lies below :data:`FROZEN`."""
        return self.high < FROZEN


def kept_motion(customized: Sequence[float], floor: Sequence[float], seed: int = 0) -> Kept | None:
    """The motion that customization left, against the untuned model at the same prompts and seeds.

    The ratio of the sums of motion magnitude (fastest 5 % of the pixels), with a bootstrap interval over the pairs. An
    own definition: papers list dynamic degrees without those of the untuned model.

    Args:
        customized: motion of films with customization.
        floor: motion of films without, in the same order.
        seed: of the bootstrap.

    Returns:
        ``None`` if the untuned model's films do not move either.

    Raises:
        StarringError: if the pairs do not match or there are none.
    """
    if len(customized) != len(floor) or not floor:
        raise StarringError(f"Films with and without must pair up; there are {len(customized)} and {len(floor)}.")
    if math.fsum(floor) / len(floor) < STILL:
        return None
    pairs = torch.tensor([customized, floor], dtype=torch.float64).T

    def ratio(drawn: Tensor) -> Tensor:
        sums = drawn.sum(-2)
        return sums[..., 0] / sums[..., 1].clamp_min(1e-12)

    low, high = bootstrapped(pairs, ratio, seed=seed)
    return Kept(share=float(ratio(pairs)), low=low, high=high, films=len(pairs))


def _widened(masks: Sequence[Tensor]) -> Tensor:
    """Masks ``H W`` and two pixels around what they cover, boolean ``f 1 H W``."""
    area = torch.stack([mask.float() for mask in masks])[:, None]
    return torch.nn.functional.max_pool2d(area, 5, stride=1, padding=2) > 0


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp_min(1))
