"""CogVideoX's DPM sampler as one that a trajectory can use: it remembers the step before by itself."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import DDIMSchedulerOutput
from torch import Tensor


class CogVideoXMultistep(CogVideoXDPMScheduler):
    """The second-order SDE solver that diffusers has for CogVideoX; it draws noise at every step.

    Latents are ``b c f h w`` here. Noise is drawn frame by frame, as the stock pipeline does.
    """

    _before: tuple[Tensor, Any] | None = None
    """The clean latents that the step before implied, and its timestep."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin anew."""
        self._before = None
        super().set_timesteps(num_inference_steps, device)  # pyright: ignore[reportArgumentType]

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: torch.Generator | None = None
    ) -> DDIMSchedulerOutput:
        """One step; the first is of first order, wherever in the schedule it is."""
        old, back = self._before if self._before is not None else (None, None)
        step: Any = super().step  # declared for tensors alone, documented for None
        found, clean = step(
            model_output.transpose(1, 2), old, timestep, back, sample.transpose(1, 2), generator=generator,
            return_dict=False,
        )  # fmt: skip
        self._before = clean, timestep
        return DDIMSchedulerOutput(prev_sample=found.transpose(1, 2), pred_original_sample=clean.transpose(1, 2))
