"""The sampling loop: one generator function that every film goes through.

It can be stopped anywhere, run in step with another, started from given noise or from a noised film and changed on the
way, and it carries gradient when autograd is on. Parity tests hold it to the stock diffusers pipelines.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError

Predict = Callable[[Tensor, Tensor], Tensor]
"""``predict(x, t)``: noisy latents ``b c f h w`` and a timestep ``()`` to the denoiser's answer, ``b c f h w``.

With guidance (any scale but 1) it is called on ``2 b`` latents, the first half of which is to be answered for the
negative prompt and the second half for the prompt.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """What is known after one denoising step."""

    index: int
    """Position in the schedule, counted from its noisy end; a partial run starts above 0."""
    t: Tensor
    """The timestep at which the denoiser was asked, ``()``."""
    x: Tensor
    """Latents after the step, ``b c f h w``."""
    x0: Tensor
    """The clean latents that the guided prediction implied at this step, ``b c f h w``."""
    total: int
    """Length of the schedule; the last step has ``index == total - 1``."""


def trajectory(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    steps: int,
    guidance: float = 1.0,
    start: int = 0,
    init: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Generator[Step, Tensor | None, None]:
    """Denoise step by step.

    ``send`` a tensor into the generator to replace the latents before the next step.

    Args:
        predict: the denoiser with its prompts, see :data:`Predict`.
        scheduler: a fresh diffusers scheduler; its state is used up.
        noise: unit noise ``b c f h w``. With ``start`` above 0 and no ``init``: latents already at that point.
        steps: length of the whole schedule.
        guidance: classifier-free guidance (Ho & Salimans 2022, eq. 6 as ``uncond + scale (cond - uncond)``); 1 is off.
        start: how many steps at the noisy end to leave out.
        init: clean latents ``b c f h w`` that ``noise`` is added to, as at the first step that is run.
        generator: for schedulers that draw noise at every step.

    Yields:
        A :class:`Step` after each denoising step. Latents are kept in float32.

    Raises:
        StarringError: if ``steps`` or ``start`` is out of range (at the first ``next``).
    """
    if steps < 1 or not 0 <= start < steps:
        raise StarringError(
            f"Cannot denoise from step {start} of {steps}: steps must be positive, and start below steps."
        )
    scheduler.set_timesteps(steps, device=noise.device)
    times: Tensor = scheduler.timesteps
    start = _place(scheduler, start, steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x = noise if noise.dtype == torch.float64 else noise.float()
    if init is not None:
        x = _noised(scheduler, init.to(x), x, times[start])
    elif start == 0:
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    extra = _step_arguments(scheduler, generator)
    parametrization = Parametrization.of(scheduler)
    for index in range(start, len(times)):
        t = times[index]
        prediction = guided(predict, _scaled(scheduler, x, t), t, guidance)
        out = scheduler.step(prediction, t, x, **extra)
        x0 = getattr(out, "pred_original_sample", None)
        if x0 is None:
            x0 = getattr(out, "denoised", None)
        if x0 is None:
            x0 = parametrization.x0(x, prediction, t)
        x = out.prev_sample
        changed = yield Step(index=index, t=t, x=x, x0=x0, total=len(times))
        if changed is not None:
            x = changed


def sample(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    steps: int,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """The end of a :func:`trajectory` from pure noise: clean latents ``b c f h w``."""
    return _last(trajectory(predict, scheduler, noise, steps, guidance, generator=generator), on_step)


def partial(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    init: Tensor,
    strength: float,
    steps: int,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Noise clean latents part of the way and denoise them again.

    Runs the *last* ``ceil(strength * steps)`` steps of the schedule, those at its clean end, from ``init`` noised as at
    the first of them. Strength 0 returns ``init``; strength 1 runs the whole schedule.

    Args:
        predict: the denoiser with its prompts.
        scheduler: a fresh diffusers scheduler.
        noise: unit noise ``b c f h w``.
        init: clean latents ``b c f h w``.
        strength: share of the schedule to run, in [0, 1].
        steps: length of the whole schedule.
        guidance: classifier-free guidance scale.
        generator: for schedulers that draw noise at every step.
        on_step: called after every step.

    Raises:
        StarringError: if the strength is outside [0, 1].
    """
    start = first_step(strength, steps)
    if start == steps:
        return init
    return _last(trajectory(predict, scheduler, noise, steps, guidance, start, init, generator), on_step)


def first_step(strength: float, steps: int) -> int:
    """Where a partial run begins that goes through the last ``ceil(strength * steps)`` steps: ``steps`` if none.

    Raises:
        StarringError: if the strength is outside [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise StarringError(f"The strength is {strength}, but it must lie in [0, 1]: the share of the schedule to run.")
    return steps - math.ceil(round(strength * steps, 6))


def begins(scheduler: Any, steps: int, start: int) -> int:
    """The :attr:`Step.index` of the first step of a trajectory that leaves ``start`` of ``steps`` out.

    Args:
        scheduler: a fresh diffusers scheduler; its state is used up.
        steps: length of the whole schedule.
        start: how many steps at the noisy end are left out.
    """
    scheduler.set_timesteps(steps)
    return _place(scheduler, start, steps)


def guided(predict: Predict, x: Tensor, t: Tensor, guidance: float) -> Tensor:
    """One prediction, by classifier-free guidance unless the scale is 1; both halves go through in one batch."""
    if guidance == 1.0:
        return predict(x, t)
    negative, positive = predict(torch.cat([x, x]), t).chunk(2)
    return negative + guidance * (positive - negative)


def _last(run: Generator[Step, Tensor | None, None], on_step: Callable[[Step], None] | None) -> Tensor:
    x: Tensor | None = None
    for step in run:
        x = step.x
        if on_step is not None:
            on_step(step)
    assert x is not None
    return x


def _place(scheduler: Any, start: int, steps: int) -> int:
    """Where step ``start`` begins in the scheduler's timesteps.

    Schedulers that ask twice a step list all of them twice but the first (or last); only the first of two may begin.
    """
    length = len(scheduler.timesteps)
    order: int = getattr(scheduler, "order", 1) if length > steps else 1
    return order * (start * math.ceil(length / order) // steps)


def _scaled(scheduler: Any, x: Tensor, t: Tensor) -> Tensor:
    # flow-matching schedulers have no input scaling
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def _noised(scheduler: Any, init: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    at = t.reshape(1).expand(len(init))
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(init, noise, at)
    return scheduler.scale_noise(init, at, noise)


def _step_arguments(scheduler: Any, generator: torch.Generator | None) -> dict[str, Any]:
    accepted = inspect.signature(scheduler.step).parameters
    return {"generator": generator} if "generator" in accepted else {}
