"""Clean latents back to the noise they could have come from, so that a photograph has a trajectory too."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from torch import Tensor

from starring.diffusion.parametrization import Parametrization
from starring.diffusion.sampling import Predict, Step, guided


def inverted(predict: Predict, scheduler: Any, x0: Tensor, steps: int) -> list[Tensor]:
    """DDIM run backwards (Song et al., arXiv 2010.02502, section 4.3), without guidance.

    Args:
        predict: the denoiser with its prompt, called on ``b`` latents.
        scheduler: a fresh diffusers scheduler of the variance-preserving kind; says at which timesteps.
        x0: clean latents ``b c f h w``.
        steps: length of the schedule.

    Returns:
        Latents for every timestep of the schedule, in its order: the noisiest first.
    """
    scheduler.set_timesteps(steps, device=x0.device)
    parametrization = Parametrization.of(scheduler)
    x, found = x0.float(), list[Tensor]()
    # What is predicted at one level stands for the next: at the first, the clean latents are asked about.
    clean, times = x, scheduler.timesteps.flip(0)
    noise = parametrization.noise(x, predict(x, times[0]), times[0])
    for i, t in enumerate(times):
        x = parametrization.noised(clean, noise, t)
        found.append(x)
        if i + 1 < len(times):
            prediction = predict(x, t)
            clean, noise = parametrization.x0(x, prediction, t), parametrization.noise(x, prediction, t)
    return found[::-1]


def replayed(
    predict: Predict, scheduler: Any, latents: list[Tensor], steps: int, guidance: float = 1.0
) -> Generator[Step, Tensor | None, None]:
    """A trajectory through given latents: the denoiser is asked about each of them, and moves none.

    Args:
        predict: the denoiser with its prompts.
        scheduler: a fresh diffusers scheduler.
        latents: one for each timestep of the schedule, from :func:`inverted`.
        steps: length of the schedule; some schedulers list more timesteps.
        guidance: as in :func:`starring.diffusion.sampling.trajectory`.

    Yields:
        A :class:`Step` for each timestep, whose ``x`` are the next latents, at last the clean ones that are implied.
    """
    scheduler.set_timesteps(steps, device=latents[0].device)
    parametrization = Parametrization.of(scheduler)
    for index, (t, x) in enumerate(zip(scheduler.timesteps, latents, strict=True)):
        x0 = parametrization.x0(x, guided(predict, x, t, guidance), t)
        yield Step(
            index=index, t=t, x=latents[index + 1] if index + 1 < len(latents) else x0, x0=x0, total=len(latents)
        )
