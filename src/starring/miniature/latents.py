"""The corpus seen through the VAE: shards of latents, encoded once for the U-Net and the motion adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from starring.miniature.corpus import shards
from starring.miniature.pretrain import pixels


def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 100) -> np.ndarray:  # pyright: ignore[reportMissingTypeArgument]
    """uint8 n H W 3 to scaled posterior means n c h w, float16."""
    rows = []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            x = pixels(images[start : start + batch]).contiguous(memory_format=torch.channels_last)
            mean = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor  # pyright: ignore
            rows.append(mean.contiguous().half().numpy())
    return np.concatenate(rows)


def build(folder: Path, vae: AutoencoderKL, kind: str, part: int = 0, parts: int = 1) -> None:
    """Write the latents of every shard of ``stills`` or ``films`` that has none yet."""
    for number in shards(folder, kind)[part::parts]:
        path = folder / f"{kind}-{number:03d}-latents.npy"
        if path.exists():
            continue
        images = np.load(folder / f"{kind}-{number:03d}-images.npy")
        latents = encode(vae, images.reshape(-1, *images.shape[-3:]))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, latents.reshape(*images.shape[:-3], *latents.shape[1:]))
        partial.replace(path)
