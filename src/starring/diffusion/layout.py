"""How far to noise a small picture so that as much of it is left as of a large one.

Noise of one level hides less of a picture with more cells, since neighbouring cells say the same: in the mean over
``s x s`` cells its power falls by ``s²``. A strength that was chosen for latents of one size therefore keeps another
amount of what latents of another size show. Simple diffusion (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1)
shifts the signal-to-noise ratio by the ratio of the numbers of cells; here the strength is shifted instead.
"""

from __future__ import annotations

import numpy as np
import torch

from starring.diffusion.parametrization import Parametrization


def same_layout(strength: float, process: Parametrization, cells: int, reference: int) -> float:
    """The strength that leaves of ``cells`` latent cells as much as ``strength`` leaves of ``reference`` cells.

    Args:
        strength: share of the schedule, in [0, 1], chosen for latents of ``reference`` cells.
        process: how latents are noised.
        cells: latent cells of a frame, height times width.
        reference: the same, of the latents that ``strength`` was chosen for.

    Returns:
        A share of the schedule in [0, 1]; ``strength`` itself for equal numbers, 0 and 1 for 0 and 1.
    """
    if cells == reference or strength in (0, 1):
        return strength
    last = process.timesteps - 1
    signal, sigma = process.coefficients(torch.arange(process.timesteps), torch.zeros(1, dtype=torch.float64))
    # Falls with time; its ends may be infinite, where there is no noise or no signal at all.
    ratio = (2 * (signal.double().clamp_min(1e-12).log() - sigma.double().clamp_min(1e-12).log())).numpy()
    times = np.arange(process.timesteps, dtype=np.float64)
    wanted = np.interp(strength * last, times, ratio) + np.log(reference / cells)
    return float(np.interp(-wanted, -ratio, times) / last)
