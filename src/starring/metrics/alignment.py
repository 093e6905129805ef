"""Does the film show what the prompt says? CLIP-T."""

from __future__ import annotations

from torch import Tensor

from starring.errors import StarringError


def text_alignment(frames: Tensor, text: Tensor) -> float:
    """CLIP-T: the mean cosine of the frames with the prompt (DreamVideo's ``cal_metric``, arXiv 2312.04433).

    That script averages the normalised frame vectors before the product, which is the same number.

    Args:
        frames: unit vectors ``f d``.
        text: one unit vector, ``d`` or ``1 d``.

    Raises:
        StarringError: if there is no frame.
    """
    if not len(frames):
        raise StarringError("Text alignment needs at least one frame.")
    return float((frames @ text.reshape(-1)).double().mean())
