"""A ControlNet for the miniature (arXiv 2302.05543), which looks at edges: trained on stills, used on films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from starring.data.edges import edges
from starring.miniature import models
from starring.miniature.cinema import noised, timesteps, tokens, weights
from starring.miniature.corpus import Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.words import encode

PLAN = Plan(steps=600, lr=1e-3, batch=32, warmup=20, ema=0.98, weight_decay=0.0, decay=0.5, save_every=120.0)
SILENT = 0.5
"""Share of captions left out, so that edges are understood without them (section 3.4)."""


def control(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that begins as the U-Net's encoder and says nothing yet, for pictures four times its side."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32))


def trainer(build: Path, unet: UNet2DConditionModel) -> Trainer:
    """The ControlNet alone learns."""
    net = control(unet).requires_grad_(True)
    for each in (net, unet):  # written out, attention is faster backwards in bfloat16 on CPUs
        each.set_attn_processor(AttnProcessor())
    return Trainer(build / "control", {"control": net}, PLAN)


def loss(build: Path, trainer: Trainer, unet: UNet2DConditionModel, text: Any) -> Loss:
    """Error of the frozen U-Net's predicted noise, with what the ControlNet adds to it."""
    shelf = Shelf(build / "corpus", "stills", ("latents", "tokens", "images"))
    net = trainer.modules["control"]
    alphas, empty = models.scheduler().alphas_cumprod, np.array(encode([""])[0])

    def one(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x = torch.from_numpy(shelf.get("latents", rows).astype(np.float32))
        t = timesteps(rng, len(rows))
        noisy, noise = noised(x, t, alphas)
        images = np.asarray(shelf.get("images", rows), dtype=np.uint8)
        seen = torch.from_numpy(edges(images)).movedim(-1, 1).float() / 255
        with torch.no_grad():
            words = text(input_ids=tokens(shelf, rows, rng, empty, SILENT)).last_hidden_state
        down, middle = net(noisy, t, encoder_hidden_states=words, controlnet_cond=seen, return_dict=False)
        out = unet(
            noisy, t, words, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample  # fmt: skip
        error = (out.float() - noise).square().mean((1, 2, 3))
        weight = weights(t, alphas)
        high = (weight * error).detach()[t > 600].mean().nan_to_num(0.0)
        return {"loss": (weight * error).mean(), "noise": error.mean(), "high": high}

    return one
