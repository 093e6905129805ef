"""The trajectory: which steps it runs, what it knows after each, and how it can be steered."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from starring.diffusion.noise import white
from starring.diffusion.parametrization import Parametrization
from starring.diffusion.sampling import Predict, guided, partial, sample, trajectory
from starring.errors import StarringError

# some schedulers of diffusers convert tensors in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SHAPE = (2, 4, 3, 4, 4)
NOISE = white(SHAPE, torch.Generator().manual_seed(0))
CLEAN = white(SHAPE, torch.Generator().manual_seed(1))
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
ALL = {
    "ddim": lambda: DDIMScheduler(clip_sample=False, steps_offset=1, **BETAS),
    "ddim-v": lambda: DDIMScheduler(clip_sample=False, prediction_type="v_prediction", **BETAS),
    "euler": lambda: EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
    "heun": lambda: HeunDiscreteScheduler(timestep_spacing="leading", **BETAS),
    "kdpm2": lambda: KDPM2DiscreteScheduler(timestep_spacing="leading", **BETAS),
    "dpm++": lambda: DPMSolverMultistepScheduler(**BETAS),
    "lcm": lambda: LCMScheduler(**BETAS),
    "flow": FlowMatchEulerDiscreteScheduler,
    "flow-heun": FlowMatchHeunDiscreteScheduler,
}
TWICE = ("heun", "kdpm2", "flow-heun")
"""Those of second order, which ask twice a step, and once in the last."""


def oracle(name: str) -> Predict:
    """A denoiser that knows the clean latents, in any scheduler's parametrization and scaling."""
    rule = Parametrization.of(ALL[name]())

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if name.startswith("flow"):
            return (x - CLEAN) / (t / 1000).clamp(min=1e-4)
        signal, sigma = rule.coefficients(t.round().long() if t.is_floating_point() else t, x)
        noise = (x - signal * CLEAN) / sigma
        return signal * noise - sigma * CLEAN if rule.kind == "v_prediction" else noise

    return predict


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_an_oracle_is_followed_to_the_clean_latents(name: str) -> None:
    steps = list(trajectory(oracle(name), ALL[name](), NOISE, 5, generator=torch.Generator().manual_seed(3)))
    total = 9 if name in TWICE else 5
    assert [step.index for step in steps] == list(range(total))
    assert {step.total for step in steps} == {total}
    torch.testing.assert_close(steps[-1].x, CLEAN, atol=0.05, rtol=0)
    for step in steps:
        torch.testing.assert_close(step.x0, CLEAN, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "kdpm2" else n for n in ALL])
@pytest.mark.parametrize("strength", [1.0, 0.8, 0.4, 0.05])
def test_partial_runs_the_clean_end_of_the_schedule(name: str, strength: float) -> None:
    asked: list[float] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return torch.zeros_like(x)

    partial(predict, ALL[name](), NOISE, CLEAN, strength, 10, generator=torch.Generator().manual_seed(3))
    scheduler = ALL[name]()
    scheduler.set_timesteps(10)
    run = int(np.ceil(strength * 10))
    count = 2 * run - 1 if name in TWICE else run
    assert asked == pytest.approx(scheduler.timesteps.tolist()[-count:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strength", [1.0, 0.8, 0.4, 0.2])
def test_partial_with_an_oracle_gives_back_the_clean_latents(name: str, strength: float) -> None:
    generator = torch.Generator().manual_seed(3)
    out = partial(oracle(name), ALL[name](), NOISE, CLEAN, strength, 10, generator=generator)
    torch.testing.assert_close(out, CLEAN, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["ddim", "ddim-v", "dpm++", "flow"])
def test_partial_starts_from_the_noised_latents(name: str) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return oracle(name)(x, t)

    out = partial(predict, ALL[name](), NOISE, CLEAN, 0.4, 10)
    assert len(seen) == 4
    x, t = seen[0]
    torch.testing.assert_close(x, Parametrization.of(ALL[name]()).noised(CLEAN, NOISE, t), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(out, CLEAN, atol=0.05, rtol=0)


def test_the_edges_of_partial() -> None:
    assert torch.equal(partial(oracle("ddim"), ALL["ddim"](), NOISE, CLEAN, 0.0, 10), CLEAN)
    counted: list[int] = []
    partial(oracle("ddim"), ALL["ddim"](), NOISE, CLEAN, 0.28, 25, on_step=lambda step: counted.append(step.index))
    assert counted == list(range(18, 25)), "0.28 * 25 is 7 steps, in spite of floating point"
    for strength in (-0.1, 1.1):
        with pytest.raises(StarringError, match="strength"):
            partial(oracle("ddim"), ALL["ddim"](), NOISE, CLEAN, strength, 10)


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser without an answer of its own, so that paths depend on every step."""
    return torch.tanh(x) * (0.5 + t / 2000)


def test_ddim_in_numpy() -> None:
    power = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    x = NOISE.double().numpy()
    for t in range(801, 0, -200):
        before = power[t - 200] if t > 200 else 1.0
        eps = np.tanh(x) * (0.5 + t / 2000)
        x0 = (x - np.sqrt(1 - power[t]) * eps) / np.sqrt(power[t])
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
    np.testing.assert_allclose(sample(curved, ALL["ddim"](), NOISE, 5).numpy(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 7.5])
def test_guidance(scale: float) -> None:
    calls: list[int] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) == 2:
            return x * 2
        return torch.cat([x[:2] * 1, x[2:] * 2])

    out = guided(predict, NOISE, torch.tensor(5), scale)
    torch.testing.assert_close(out, NOISE * (1 + scale))
    assert calls == [2 if scale == 1 else 4]


def test_latents_may_be_changed_on_the_way() -> None:
    run = trajectory(curved, ALL["ddim"](), NOISE, 3)
    first = next(run)
    second = run.send(first.x * 0)
    assert torch.equal(second.x, torch.zeros_like(NOISE))
    assert next(run).index == 2
    with pytest.raises(StopIteration):
        next(run)


def test_two_trajectories_in_step_and_one_resumed() -> None:
    one, two = (trajectory(curved, ALL["ddim"](), NOISE, 4) for _ in range(2))
    pairs = list(zip(one, two, strict=True))
    assert all(torch.equal(a.x, b.x) for a, b in pairs)
    resumed = list(trajectory(curved, ALL["ddim"](), pairs[1][0].x, 4, start=2))
    assert [step.index for step in resumed] == [2, 3]
    assert torch.equal(resumed[-1].x, pairs[-1][0].x)


def test_gradient_runs_through_and_half_latents_become_float() -> None:
    leaf = NOISE.clone().requires_grad_()
    sample(curved, ALL["ddim"](), leaf, 3, 1.0).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().min() > 0
    assert sample(curved, ALL["ddim"](), NOISE.half(), 2).dtype == torch.float32


def test_noisy_schedulers_honour_the_generator() -> None:
    def film(seed: int) -> Tensor:
        return sample(curved, ALL["lcm"](), NOISE, 3, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(film(1), film(1))
    assert not torch.equal(film(1), film(2))


@pytest.mark.parametrize(("steps", "start"), [(0, 0), (3, 3), (3, -1)])
def test_steps_out_of_range(steps: int, start: int) -> None:
    with pytest.raises(StarringError, match="Cannot denoise"):
        next(trajectory(curved, ALL["ddim"](), NOISE, steps, start=start))
