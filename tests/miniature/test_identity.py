"""Training of the identity encoders: the loss by hand, both losses on a small corpus, what ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from starring.miniature import corpus, identity
from starring.perception.identity import load_identity


def test_the_angular_margin_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.2, -0.4], [0.1, -0.99, 0.3]])
    target, scale, margin = [0, 1], 8.0, 0.4
    rows: list[float] = []
    for row, own in zip(cosines.tolist(), target, strict=True):
        angle = min(np.arccos(row[own]) + margin, np.pi)
        logits = [scale * (np.cos(angle) if i == own else value) for i, value in enumerate(row)]
        rows.append(np.log(np.exp(logits).sum()) - logits[own])
    found = identity.arcface(cosines, torch.tensor(target), scale, margin)
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-5)


def test_both_losses_reach_their_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", 40)
    corpus.build_stills(tmp_path / "corpus", 0)
    for trainer, make in (
        (identity.reward_trainer(tmp_path), identity.reward_loss),
        (identity.score_trainer(tmp_path), identity.score_loss),
    ):
        trainer.plan = replace(trainer.plan, batch=4)
        trainer.modules.train()
        values = make(tmp_path, trainer)(np.random.default_rng(0), 1.0)
        values["loss"].backward()
        net = trainer.modules["identity"]
        assert torch.isfinite(values["loss"])
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", ["miniature", "miniature-score"])
def test_the_shipped_encoders_tell_unseen_subjects_apart(name: str) -> None:
    """The whole measure is in gates.json; this is a quick look at few subjects."""
    assert identity.verification(load_identity(name), people=True, subjects=12) > 0.9
