"""The training loop of the miniature goes on exactly where it was."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from starring.miniature.fit import Plan, Trainer, rate
from starring.miniature.muon import Muon

PLAN = Plan(steps=12, lr=1e-2, batch=4, warmup=3, decay=0.5)


def trainer(folder: Path, muon: bool) -> Trainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 36, 4))
    return Trainer(folder, {"net": net}, replace(PLAN, muon=muon))


def loss_of(t: Trainer):
    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        x = torch.from_numpy(rng.standard_normal((4, 3, 8, 8)).astype(np.float32)) + 0.1 * torch.randn(4, 3, 8, 8)
        return {"loss": (t.modules["net"](x) - 1).square().mean()}

    return loss


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, muon: bool) -> None:
    whole = trainer(tmp_path / "whole", muon)
    whole.run(loss_of(whole))
    first = trainer(tmp_path / "parts", muon)
    first.run(loss_of(first), until=5)
    second = trainer(tmp_path / "parts", muon)
    assert second.step == 5
    second.run(loss_of(second))
    for one, two in ((whole.modules.state_dict(), second.modules.state_dict()), (whole.average, second.average)):
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("muon", [False, True])
def test_training_moves_every_parameter_downhill(tmp_path: Path, muon: bool) -> None:
    t = trainer(tmp_path, muon)
    before = {name: p.detach().clone() for name, p in t.modules.named_parameters()}
    t.run(loss_of(t), until=1)
    start = t.history[-1]["loss"]
    t.run(loss_of(t))
    assert t.history[-1]["loss"] < start
    assert all(not torch.equal(before[name], p) for name, p in t.modules.named_parameters())


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    rates = [rate(PLAN, step) for step in range(PLAN.steps + 1)]
    assert rates[0] == pytest.approx(PLAN.lr / 3)
    assert max(rates) == PLAN.lr
    assert rates[-1] == 0
    assert rates[3:6] == [PLAN.lr] * 3
    assert all(a >= b for a, b in itertools.pairwise(rates[6:]))


def test_muon_moves_as_torchs_but_for_its_arithmetic() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.ParameterList([nn.Parameter(torch.ones(s)) for s in ((6, 4), (3, 9))]) for _ in range(2))
    steps = (
        Muon(ours.parameters(), lr=1e-2, weight_decay=0.1),
        torch.optim.Muon(theirs.parameters(), lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for one, two in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        for optimizer in steps:
            optimizer.step()
    for one, two in zip(ours, theirs, strict=True):
        assert not torch.equal(one, two), "torch's iteration is in bfloat16"
        torch.testing.assert_close(one, two, rtol=0, atol=2e-3)
    assert steps[0].state_dict()["state"].keys() == steps[1].state_dict()["state"].keys()
