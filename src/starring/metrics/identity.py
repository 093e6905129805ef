"""Does the film show this very subject? Cosines of frames with references, by CLIP (CLIP-I) and by DINO (DINO-I)."""

from __future__ import annotations

import torch
from torch import Tensor

from starring.errors import StarringError


def image_similarity(frames: Tensor, references: Tensor) -> float:
    """CLIP-I or DINO-I: the mean cosine over all pairs of frame and reference (arXiv 2312.04433, ``cal_metric``).

    Args:
        frames: unit vectors ``f d``.
        references: unit vectors ``r d``.

    Raises:
        StarringError: if there is no frame or no reference.
    """
    if not len(frames) or not len(references):
        raise StarringError("Identity is measured between frames and reference photographs; one of them is missing.")
    return float((frames @ references.T).double().mean())


def leave_one_out(references: Tensor) -> Tensor:
    """Each reference against all others: what a perfect film could be expected to reach with these photographs.

    Args:
        references: unit vectors ``r d``, at least two.

    Returns:
        The mean cosine of each reference with the rest, ``r``; its mean is the ceiling of :func:`image_similarity`.

    Raises:
        StarringError: if there are fewer than two references.
    """
    count = len(references)
    if count < 2:
        raise StarringError("The ceiling compares references with each other, so at least two photographs are needed.")
    cosines = (references @ references.T).double()
    return (cosines.sum(1) - torch.diagonal(cosines)) / (count - 1)
