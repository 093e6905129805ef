"""What a denoiser predicts, and the three conversions every method needs.

Two families of forward process are covered:

* variance preserving (DDPM, Ho et al. 2020, eq. 4): ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise``, where the network
  predicts the noise (``epsilon``) or the velocity ``v = sqrt(a_t) noise - sqrt(1 - a_t) x_0`` (Salimans & Ho 2022,
  appendix D);
* rectified flow (Liu et al. 2022): ``x_t = (1 - s) x_0 + s noise`` with ``s = t / T``, predicting ``noise - x_0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from starring.errors import StarringError, unknown

Kind = Literal["epsilon", "v_prediction", "flow"]
_KINDS: tuple[Kind, ...] = ("epsilon", "v_prediction", "flow")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parametrization:
    """The forward process and the quantity the denoiser is asked for.

    All methods take ``x0``, ``noise``, ``x`` and ``prediction`` of one shape ``b ...`` and timesteps ``t`` of shape
    ``()`` or ``(b,)``, and return that shape in the dtype of their first argument; each carries gradient.
    """

    kind: Kind
    """``epsilon``, ``v_prediction`` or ``flow``."""
    timesteps: int = 1000
    """Number of training timesteps T; ``t`` runs over ``0 .. T - 1`` (flow: ``0 .. T``)."""
    alphas_cumprod: Tensor | None = None
    """Cumulative signal power a_t, shape ``(T,)``; ``None`` for flow."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise unknown("parametrization", str(self.kind), _KINDS)
        if self.kind != "flow" and self.alphas_cumprod is None:
            raise StarringError(
                f"A '{self.kind}' parametrization needs alphas_cumprod; build it with of() or from_betas()."
            )

    @classmethod
    def of(cls, scheduler: Any) -> Parametrization:
        """Read it off a diffusers scheduler.

        Raises:
            StarringError: if the scheduler's ``prediction_type`` is none of ours (``sample`` is not supported).
        """
        config = scheduler.config
        alphas: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            return cls(kind="flow", timesteps=int(config.num_train_timesteps))
        kind = str(config.get("prediction_type", "epsilon"))
        if kind not in _KINDS:
            raise unknown(
                "parametrization", kind, _KINDS, hint=f"Found in {type(scheduler).__name__}'s prediction_type."
            )
        return cls(kind=kind, timesteps=len(alphas), alphas_cumprod=alphas.detach().float().cpu())

    @classmethod
    def from_betas(
        cls,
        kind: Literal["epsilon", "v_prediction"] = "epsilon",
        *,
        schedule: Literal["linear", "scaled_linear"] = "linear",
        start: float = 0.00085,
        end: float = 0.012,
        timesteps: int = 1000,
    ) -> Parametrization:
        """Stable Diffusion's schedules: ``scaled_linear`` (SD 1.5's own) or ``linear`` (AnimateDiff's and VCD's)."""
        if schedule == "linear":
            betas = torch.linspace(start, end, timesteps, dtype=torch.float32)
        else:
            betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float32) ** 2
        return cls(kind=kind, timesteps=timesteps, alphas_cumprod=torch.cumprod(1.0 - betas, 0))

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process: ``x0`` with ``noise`` added as at timestep ``t``."""
        signal, sigma = self.coefficients(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer for ``noised(x0, noise, t)``."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "flow":
            return noise - x0
        signal, sigma = self.coefficients(t, x0)
        return signal * noise - sigma * x0

    def x0(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction at ``x`` implies; an ``epsilon`` at zero signal implies none."""
        signal, sigma = self.coefficients(t, x)
        if self.kind == "epsilon":
            return (x - sigma * prediction) / signal
        if self.kind == "flow":
            return x - sigma * prediction
        return signal * x - sigma * prediction

    def noise(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction at ``x`` implies."""
        if self.kind == "epsilon":
            return prediction
        signal, sigma = self.coefficients(t, x)
        if self.kind == "flow":
            return x + signal * prediction
        return sigma * x + signal * prediction

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of signal and noise at ``t``, shaped to multiply ``like`` (``b ...``), in its dtype and place."""
        t = t.to(like.device)
        if self.alphas_cumprod is None:
            sigma = t.float() / self.timesteps
            signal = 1.0 - sigma
        else:
            power = self.alphas_cumprod.to(like.device)[t.long()]
            signal, sigma = power.sqrt(), (1.0 - power).sqrt()
        shape = (-1, *[1] * (like.ndim - 1)) if t.ndim else ()
        return signal.reshape(shape).to(like.dtype), sigma.reshape(shape).to(like.dtype)
