"""What each of the miniature's networks learns from the world: one function a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from starring.miniature import models
from starring.miniature.corpus import Shelf
from starring.miniature.fit import Loss, Plan, Trainer


def pixels(images: np.ndarray) -> Tensor:  # pyright: ignore[reportMissingTypeArgument]
    """uint8 ... H W 3 to float ... 3 H W in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3)
    return tensor.float().div_(127.5).sub_(1)


def worn(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur and noise, so that an eye reads shapes and colours and not the sharpness of renders."""
    if rng.random() < 0.5:
        side = x.shape[-1]
        small = F.interpolate(x, size=int(rng.integers(24, 56)), mode="bilinear", antialias=True)
        x = F.interpolate(small, size=side, mode="bilinear")
    return x + torch.randn_like(x) * float(rng.uniform(0, 0.12))


DECODER = Plan(steps=450, lr=7e-4, batch=12, muon=True, save_every=45, ema=0.99, weight_decay=0.0, decay=0.6)
VAE = Plan(steps=2600, lr=2e-3, batch=24, muon=True, save_every=45, ema=0.998, weight_decay=0.0, decay=0.45)


def vae_trainer(build: Path) -> Trainer:
    """Reconstruction of crops around subjects, whose mean colours count on their own; a light KL."""
    return Trainer(build / "vae", {"vae": models.vae()}, VAE)


def vae_loss(build: Path, trainer: Trainer) -> Loss:
    """Squared error of pixels and of average colours, with a light KL."""
    shelf = Shelf(build / "corpus", "stills", ("images", "masks"))
    net = trainer.modules["vae"]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x = pixels(_crops(shelf.get("images", rows), shelf.get("masks", rows), rng))
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = net.encode(x).latent_dist  # pyright: ignore
        y = net.decode(posterior.sample()).sample  # pyright: ignore
        error = F.mse_loss(y, x)
        # Average colours must be exact: a small constant error hardly shows in the squared error of pixels.
        shade = F.mse_loss(F.avg_pool2d(y, 8), F.avg_pool2d(x, 8))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": error + shade + 2e-4 * kl, "mse": error, "shade": shade, "kl": kl}

    return loss


def decoder_trainer(build: Path, vae: AutoencoderKL) -> Trainer:
    """The decoder of a trained VAE further, on whole frames; the latents, which others use, stay as they are."""
    vae.requires_grad_(False)
    for part in (vae.post_quant_conv or torch.nn.Identity(), vae.decoder):
        part.requires_grad_(True)
    return Trainer(build / "decoder", {"vae": vae}, DECODER)


def decoder_loss(build: Path, trainer: Trainer) -> Loss:
    """Squared error of pixels and of the mean colour of the subject."""
    shelf = Shelf(build / "corpus", "stills", ("images", "masks", "latents"))
    net: Any = trainer.modules["vae"]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x, latents = pixels(shelf.get("images", rows)), torch.from_numpy(shelf.get("latents", rows).astype(np.float32))
        mask = torch.from_numpy((shelf.get("masks", rows).astype(np.uint8) & 1).astype(np.float32))[:, None]
        y = net.decode(latents / net.config.scaling_factor).sample
        error = F.mse_loss(y, x)
        shade = ((y - x) * mask).sum((2, 3)).square().div(mask.sum((2, 3)).clamp_min(1).square()).mean()
        return {"loss": error + 3 * shade, "mse": error, "shade": shade}

    return loss


def _crops(images: np.ndarray, masks: np.ndarray, rng: np.random.Generator, side: int = 32) -> np.ndarray:  # pyright: ignore
    """Square crops, most of them around a point of the subject; positions on the latent grid of 4."""
    out = np.empty((len(images), side, side, 3), np.uint8)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        inside = np.argwhere(mask > 0)
        if len(inside) and rng.random() < 0.75:
            y, x = inside[rng.integers(len(inside))] - side // 2
        else:
            y, x = rng.integers(0, 65 - side, 2)
        y, x = (int(np.clip(v, 0, 64 - side)) // 4 * 4 for v in (y, x))
        out[i] = image[y : y + side, x : x + side]
    return out
