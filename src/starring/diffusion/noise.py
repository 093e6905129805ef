"""Initial noise for films."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from starring.errors import StarringError


def white(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent N(0, 1) of any shape.

    Drawn in float32 on the generator's own device (on the CPU without one) and moved afterwards, so that one seed gives
    the same numbers on every device and in every precision.
    """
    source = generator.device if generator is not None else torch.device("cpu")
    noise = torch.randn(tuple(shape), generator=generator, device=source, dtype=torch.float32)
    return noise.to(device=device, dtype=dtype)


def gaussian_prior(
    shape: Sequence[int],
    gamma: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """VCD's 3D Gaussian noise prior N(0, Sigma_f(gamma)) (arXiv 2402.09368, section 4.1, eq. 4).

    The covariance between frames m and n is ``gamma ** |m - n|``, independently for every channel and pixel, with unit
    variance everywhere. That is a first-order autoregressive chain, so it is drawn as one, in time linear in the
    frames: ``e_1 = n_1``, ``e_f = gamma e_(f-1) + sqrt(1 - gamma^2) n_f``.

    Args:
        shape: ``b c f h w``.
        gamma: correlation of neighbouring frames, in [0, 1); 0 gives :func:`white`, number for number.
        generator: the only source of randomness, on any device; ``None`` is torch's global one on the CPU.
        device: where the noise is wanted.
        dtype: in which precision; it is drawn and chained in float32.

    Returns:
        Noise of the given shape.

    Raises:
        StarringError: if gamma is outside [0, 1) or the shape does not have five axes.
    """
    if not 0.0 <= gamma < 1.0:
        raise StarringError(f"The noise prior's gamma is {gamma}, but it must lie in [0, 1); 0 is plain noise.")
    if len(shape) != 5:
        raise StarringError(f"The noise prior needs a shape b c f h w, and was given {tuple(shape)}.")
    noise = white(shape, generator)
    # In place: with a new tensor for every product and sum, the chain costs four times as much.
    noise[:, :, 1:].mul_(math.sqrt(1.0 - gamma**2))
    for before, frame in pairwise(noise.unbind(2)):
        frame.add_(before, alpha=gamma)
    return noise.to(device=device, dtype=dtype)
