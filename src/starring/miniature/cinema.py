"""Training the miniature's film model: text tower and U-Net on stills, then the motion adapter on films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel

from starring.miniature import models
from starring.miniature.corpus import CAPTIONS, Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.words import encode

UNET = Plan(steps=2550, lr=1.5e-3, batch=64, ema=0.999, weight_decay=0.01, decay=0.25, muon=True)
MOTION = Plan(steps=1000, lr=1.5e-3, batch=4, ema=0.998, weight_decay=0.01, decay=0.3, muon=True)
HIGH = 0.5
"""Share of samples at high noise."""
HIGHEST = 200.0
"""Largest weight of a sample's error."""
DROP = 0.1
"""Share of captions left out, for classifier-free guidance."""


def timesteps(rng: np.random.Generator, count: int) -> Tensor:
    """Half at high noise, where the words decide what there is, half drawn towards low noise, where shapes are settled.

    A latent of 16 x 16 still shows its layout under noise that hides one of 64 x 64, so that words are only needed, and
    learned, near the top.
    """
    u = rng.random(count)
    t = np.where(rng.random(count) < HIGH, 1000 - 600 * u, 1000 * u**1.5)
    return torch.from_numpy(t.astype(np.int64).clip(0, 999))


def noised(x: Tensor, t: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at their timesteps, and the noise in them."""
    noise = torch.randn_like(x)
    level = alphas[t].view(-1, *[1] * (x.ndim - 1))
    return level.sqrt() * x + (1 - level).sqrt() * noise, noise


def weights(t: Tensor, alphas: Tensor) -> Tensor:
    """What makes an error of the noise one of v: where noise is high the former hardly depends on the words."""
    return (1 / alphas[t]).clamp_max(HIGHEST)


def tokens(
    shelf: Shelf,
    rows: np.ndarray,
    rng: np.random.Generator,
    empty: np.ndarray,
    drop: float = DROP,  # pyright: ignore
) -> Tensor:
    """One caption of each row, ``b k``, some of them left out."""
    found = shelf.get("tokens", rows).astype(np.int64)[np.arange(len(rows)), rng.integers(CAPTIONS, size=len(rows))]
    found[rng.random(len(rows)) < drop] = empty
    return torch.from_numpy(found)


def unet_trainer(build: Path) -> Trainer:
    """The text tower learns with the U-Net that it conditions.

    Attention is written out: with a few hundred keys that is as fast, and far faster backwards in bfloat16 on CPUs.
    """
    unet = models.unet()
    unet.set_attn_processor(AttnProcessor())
    return Trainer(build / "unet", {"unet": unet, "text_encoder": models.text_encoder()}, UNET)


def unet_loss(build: Path, trainer: Trainer) -> Loss:
    """Error of the predicted noise."""
    shelf = Shelf(build / "corpus", "stills", ("latents", "tokens"))
    unet, text = trainer.modules["unet"], trainer.modules["text_encoder"]
    alphas, empty = models.scheduler().alphas_cumprod, np.array(encode([""])[0])

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x = torch.from_numpy(shelf.get("latents", rows).astype(np.float32))
        t = timesteps(rng, len(rows))
        noisy, noise = noised(x, t, alphas)
        words = text(input_ids=tokens(shelf, rows, rng, empty)).last_hidden_state
        out = unet(noisy.contiguous(memory_format=torch.channels_last), t, words).sample
        error = (out.float() - noise).square().mean((1, 2, 3))
        weight = weights(t, alphas)
        middle = error.detach()[(t > 300) & (t < 700)].mean().nan_to_num(0.0)
        return {"loss": (weight * error).mean(), "noise": error.mean(), "middle": middle}

    return loss


def motion_trainer(build: Path, unet: UNet2DConditionModel, text: CLIPTextModel) -> tuple[Trainer, UNetMotionModel]:
    """The motion adapter's trainer, and the film network that shares its weights with the frozen U-Net."""
    made: Any = UNetMotionModel.from_unet2d(unet, models.motion_adapter())
    film: UNetMotionModel = made
    film.set_attn_processor(AttnProcessor())
    film.requires_grad_(False)
    text.requires_grad_(False)
    motion = torch.nn.ModuleDict()
    for name, module in film.named_modules():
        if name.endswith("motion_modules"):
            motion[name.replace(".", "__")] = module.requires_grad_(True)
    trainer = Trainer(build / "motion", motion, MOTION)  # pyright: ignore[reportArgumentType]
    return trainer, film


def motion_loss(build: Path, trainer: Trainer, film: UNetMotionModel, text: CLIPTextModel) -> Loss:
    """Error of the predicted noise of whole films; the spatial layers stay as they are."""
    shelf = Shelf(build / "corpus", "films", ("latents", "tokens"))
    alphas, empty = models.scheduler().alphas_cumprod, np.array(encode([""])[0])

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x = torch.from_numpy(shelf.get("latents", rows).astype(np.float32)).transpose(1, 2)
        # Where things move is settled at high noise, how they cohere at middle noise.
        t = torch.from_numpy((rng.random(len(rows)) ** 0.8 * 1000).astype(np.int64))
        noisy, noise = noised(x, t, alphas)
        with torch.no_grad():
            words = text(input_ids=tokens(shelf, rows, rng, empty)).last_hidden_state
        out = film(noisy, t, words.repeat_interleave(x.shape[2], 0)).sample
        error = F.mse_loss(out.float(), noise, reduction="none").mean((1, 2, 3, 4))
        weight = weights(t, alphas)
        high = (weight * error).detach()[t > 600].mean().nan_to_num(0.0)
        return {"loss": (weight * error).mean(), "noise": error.mean(), "high": high}

    return loss
