"""Each formula against diffusers' own and against NumPy."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError

G = torch.Generator().manual_seed(0)
X0, NOISE = torch.randn(3, 4, 2, 2, 2, generator=G), torch.randn(3, 4, 2, 2, 2, generator=G)
T = torch.tensor([1, 500, 999])


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_variance_preserving_against_diffusers(kind: str, schedule: str) -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule, prediction_type=kind)
    ours = Parametrization.of(scheduler)
    assert (ours.kind, ours.timesteps) == (kind, 1000)
    torch.testing.assert_close(ours.noised(X0, NOISE, T), scheduler.add_noise(X0, NOISE, T))
    target = NOISE if kind == "epsilon" else scheduler.get_velocity(X0, NOISE, T)
    torch.testing.assert_close(ours.target(X0, NOISE, T), target)
    made = Parametrization.from_betas(kind, schedule=schedule)
    torch.testing.assert_close(made.alphas_cumprod, ours.alphas_cumprod, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_right_answer_gives_back_signal_and_noise(kind: str) -> None:
    ours = Parametrization(kind="flow") if kind == "flow" else Parametrization.from_betas(kind)
    x, answer = ours.noised(X0, NOISE, T), ours.target(X0, NOISE, T)
    torch.testing.assert_close(ours.x0(x, answer, T), X0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.noise(x, answer, T), NOISE, atol=1e-4, rtol=1e-4)
    one = torch.tensor(500)
    torch.testing.assert_close(ours.noised(X0, NOISE, one)[1], ours.noised(X0, NOISE, T)[1])


def test_forward_process_in_numpy() -> None:
    betas = np.linspace(0.00085, 0.012, 1000)
    power = np.cumprod(1 - betas)
    ours = Parametrization.from_betas()
    for i, t in enumerate(T.tolist()):
        expected = np.sqrt(power[t]) * X0[i].numpy() + np.sqrt(1 - power[t]) * NOISE[i].numpy()
        np.testing.assert_allclose(ours.noised(X0, NOISE, T)[i].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_flow_is_a_straight_line() -> None:
    ours = Parametrization.of(FlowMatchEulerDiscreteScheduler())
    assert ours.kind == "flow"
    t = torch.tensor([0.0, 250.0, 1000.0])
    x = ours.noised(X0, NOISE, t)
    torch.testing.assert_close(x[0], X0[0])
    torch.testing.assert_close(x[1], 0.75 * X0[1] + 0.25 * NOISE[1])
    torch.testing.assert_close(x[2], NOISE[2])


def test_gradient_and_precision() -> None:
    ours = Parametrization.from_betas("v_prediction")
    leaf = X0.clone().requires_grad_()
    ours.x0(ours.noised(leaf, NOISE, T), ours.target(leaf, NOISE, T), T).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.ones_like(leaf), atol=1e-4, rtol=1e-4)
    assert ours.noised(X0.half(), NOISE.half(), T).dtype == torch.float16


def test_what_is_not_supported() -> None:
    with pytest.raises(StarringError, match="parametrization 'sample'"):
        Parametrization.of(DDIMScheduler(prediction_type="sample"))
    with pytest.raises(StarringError, match="needs alphas_cumprod"):
        Parametrization(kind="epsilon")
    with pytest.raises(StarringError, match="parametrization 'eps'"):
        Parametrization(kind="eps")  # pyright: ignore[reportArgumentType]
