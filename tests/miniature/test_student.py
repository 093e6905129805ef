"""The four-step model: the loss against a slow restatement, and the way of its weights into the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.backbones.lora import fuse
from starring.miniature import build, corpus, export, latents, models, student
from starring.miniature.fit import Trainer

Array = NDArray[np.float64]


def test_the_loss_is_the_distance_of_two_neighbours() -> None:
    """LCM, algorithm 1, sample by sample: noise, one guided step of DDIM, two answers, pseudo-Huber."""
    power = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))

    def teacher(x: Array, t: int) -> Array:
        return 0.9 * x + 0.001 * t

    def learner(x: Array, t: int) -> Array:
        return 0.7 * x - 0.0005 * t

    def told(x: Array, t: int) -> Array:
        skip = 0.25 / ((10 * t) ** 2 + 0.25)
        out = 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
        clean = (x - (1 - power[t]) ** 0.5 * learner(x, t)) / power[t] ** 0.5
        return skip * x + out * clean

    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, 2, 3, 3, 3))
    times = [19, 259, 619, 999]
    slow: list[float] = []
    for i, t in enumerate(times):
        s = max(t - 60, 0)
        x = power[t] ** 0.5 * x0[i] + (1 - power[t]) ** 0.5 * noise[i]
        guess = teacher(x, t)
        clean = (x - (1 - power[t]) ** 0.5 * guess) / power[t] ** 0.5
        nearer = power[s] ** 0.5 * clean + (1 - power[s]) ** 0.5 * guess
        difference = told(x, t) - told(nearer, s)
        jumps = difference[:, 1:] - difference[:, :-1]
        distances = [float(np.mean((some**2 + 1e-6) ** 0.5 - 1e-3)) for some in (difference, jumps)]
        slow.append(distances[0] + 2 * distances[1])

    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    seen: list[bool] = []

    def answer(x: Tensor, t: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return weight * x - 0.0005 * t.view(-1, 1, 1, 1, 1)

    error = student.errors(
        torch.from_numpy(x0), torch.from_numpy(noise), torch.tensor(times),
        lambda x, t: 0.9 * x + 0.001 * t.view(-1, 1, 1, 1, 1), answer, models.student_scheduler(),
    )  # fmt: skip
    assert seen == [False, True]
    assert error.tolist() == pytest.approx(slow, rel=2e-4)


def test_at_no_noise_the_answer_is_the_question() -> None:
    scheduler = models.student_scheduler()
    x, noise = torch.randn(2, 2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    process = student.Parametrization.of(scheduler)
    assert torch.equal(student.end(process, scheduler, x, noise, torch.tensor([0, 0])), x)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, Mapping[str, Tensor]]:
    """Two steps on a corpus of four films of four frames."""
    monkeypatch.setattr(corpus, "FILMS_PER_SHARD", 4)
    corpus.build_films(tmp_path / "corpus", 0, count=4)
    latents.build(tmp_path / "corpus", build.load_vae(tmp_path), "films")
    trainer, loss = build._training("student", tmp_path)
    losses: list[float] = []
    for half in (True, False):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(float(loss(np.random.default_rng(0), 0.0)["loss"].detach()))
    assert losses[0] == losses[1], "bfloat16 would drown the distance"
    fresh = {name: value.clone() for name, value in trainer.modules.state_dict().items()}
    trainer.run(loss, until=2)
    assert len(trainer.history) > 0
    moved = trainer.modules.state_dict()
    assert all(not torch.equal(moved[name], fresh[name]) for name in fresh if name.endswith(".up"))
    return trainer, {name: value.detach().clone() for name, value in moved.items()}


@pytest.mark.slow
def test_what_ships_is_what_was_trained(trained: tuple[Trainer, Mapping[str, Tensor]], tmp_path: Path) -> None:
    trainer, changes = trained
    film, _ = student.parts()
    layers = student.places(film)
    slow = {
        name: layer.weight + torch.einsum(
            "or...,ri...->oi...", changes[f"{name.replace('.', '__')}.up"], changes[f"{name.replace('.', '__')}.down"]
        )
        for name, layer in layers.items()
    }  # fmt: skip
    for name, layer in layers.items():
        changed = trainer.modules[name.replace(".", "__")](layer.weight)
        torch.testing.assert_close(changed, slow[name], rtol=1e-5, atol=1e-6)
    export.student(student.lora(changes), tmp_path)
    read = export.shipped("student", tmp_path)
    flat = {f"{module}.{part}": value for module, state in read.items() for part, value in state.items()}
    assert {name: value.half() for name, value in flat.items()}.keys() == changes.keys()
    assert all(torch.equal(value, changes[name].half().float()) for name, value in flat.items())
    fuse(film, str(tmp_path / "student"), export.LORA, 1.0)
    for name, layer in layers.items():
        torch.testing.assert_close(layer.weight, slow[name], rtol=1e-2, atol=2e-3)


def test_it_changes_spatial_layers_and_motion_modules_alike() -> None:
    names = list(student.places(student.parts()[0]))
    assert any(".attentions." in name for name in names)
    assert any(".resnets." in name for name in names)
    assert any(".motion_modules." in name for name in names)
    assert not any(name.startswith(("conv_in", "conv_out", "time_embedding")) for name in names)
