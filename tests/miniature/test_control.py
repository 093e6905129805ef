"""The miniature's ControlNet: what it sees, and that it learns without touching the U-Net."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from starring.data.edges import edges
from starring.miniature import control, corpus, latents, models


def test_edges_are_where_brightness_changes() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[1, :, 16:] = 255
    found = edges(frames)
    assert found.shape == frames.shape
    assert not found[0].any()
    assert set(np.nonzero(found[1])[1].tolist()) <= {15, 16}
    assert found[1].max() == 255
    grey = cv2.cvtColor(frames[1], cv2.COLOR_RGB2GRAY)
    assert np.array_equal(found[1][..., 0], cv2.Canny(grey, 100, 200))


@pytest.mark.slow
def test_it_begins_silent_and_learns_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", 8)
    corpus.build_stills(tmp_path / "corpus", 0)
    latents.build(tmp_path / "corpus", models.vae().eval(), "stills")
    torch.manual_seed(0)
    unet, text = models.unet().requires_grad_(False), models.text_encoder().requires_grad_(False)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    trainer = control.trainer(tmp_path, unet)
    trainer.plan = trainer.plan.__class__(steps=3, lr=1e-3, batch=4, warmup=1)
    loss = control.loss(tmp_path, trainer, unet, text)

    noisy, t, words = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 8, models.WIDTH)
    net = trainer.modules["control"]
    with torch.no_grad():
        down, middle = net(
            noisy, t, encoder_hidden_states=words, controlnet_cond=torch.rand(1, 3, 64, 64), return_dict=False
        )
    assert not any(part.any() for part in (*down, middle))

    trainer.run(loss)
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())
    assert any(p.any() for name, p in net.named_parameters() if name.startswith("controlnet_down_blocks"))
    assert control.trainer(tmp_path, unet).step == 3
