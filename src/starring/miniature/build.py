"""Build the bundled weights from nothing: corpus, VAE, text tower and U-Net, motion adapter, eyes, judges.

Every part can be stopped and goes on where it was; parts that are finished are only exported again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from starring.errors import StarringError, unknown
from starring.miniature import cinema, corpus, export, eyes, judges, latents, models, pretrain
from starring.miniature.fit import Loss, Trainer

PARTS = ("corpus", "vae", "latents", "unet", "motion", "clip", "dino", "segmenter", "judges")
"""In the order in which they can be built."""
Report = Callable[[str, int, int], None]
"""Hears a part's name, what is done of it and what there is to do."""


def build(part: str, folder: Path, seconds: float = math.inf, report: Report | None = None, shards: int = 24) -> None:
    """Build one part in ``folder`` and export it into the package.

    Args:
        part: a name in :data:`PARTS`.
        folder: where training states and the rendered corpus lie.
        seconds: stop after this long; the state is kept.
        report: hears progress.
        shards: how many shards of stills (4,000 each) and of films (200 each) the corpus has.

    Raises:
        StarringError: for an unknown part, or if an earlier part is missing.
    """
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    tell = report or (lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
    if part == "corpus":
        for n in range(shards):
            corpus.build_stills(folder / "corpus", n)
            corpus.build_films(folder / "corpus", n)
            tell(part, n + 1, shards)
    elif part == "latents":
        vae = load_vae(folder)
        for kind in ("stills", "films"):
            latents.build(folder / "corpus", vae, kind)
    elif part == "unet":
        _train(part, cinema.unet_trainer(folder), lambda t: cinema.unet_loss(folder, t), seconds, tell)
        export_film(folder)
    elif part == "motion":
        unet, text = load_unet(folder)
        trainer, film = cinema.motion_trainer(folder, unet, text)
        _train(part, trainer, lambda t: cinema.motion_loss(folder, t, film, text), seconds, tell)
        export_film(folder)
    elif part == "vae":
        _train(part, pretrain.vae_trainer(folder), lambda t: pretrain.vae_loss(folder, t), seconds, tell)
    elif part == "judges":
        image, motion = judges.image_trainer(folder), judges.motion_trainer(folder)
        _train("judge of images", image, lambda t: judges.image_loss(folder, t), seconds, tell)
        _train("judge of motion", motion, lambda t: judges.motion_loss(folder, t), seconds, tell)
        export.judges(image.averaged()["judge"], motion.averaged()["judge"])  # pyright: ignore[reportArgumentType]
    else:
        trainer: Trainer = getattr(eyes, f"{part}_trainer")(folder)
        loss: Callable[[Path, Trainer], Loss] = getattr(eyes, f"{part}_loss")
        _train(part, trainer, lambda t: loss(folder, t), seconds, tell)
        export_eye(part, folder)


def _train(name: str, trainer: Trainer, loss: Callable[[Trainer], Loss], seconds: float, tell: Report) -> None:
    if trainer.step < trainer.plan.steps:
        trainer.run(loss(trainer), seconds=seconds, on_step=lambda done, of: tell(name, done, of))


def _average(folder: Path, part: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    path = folder / part / "state.safetensors"
    if not path.exists():
        raise StarringError(f"{path} is not there. Build it first: python -m starring.miniature build {part}")
    return {k[8:]: v for k, v in load_file(path).items() if k.startswith("average.")}


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def load_vae(folder: Path) -> AutoencoderKL:
    """The trained VAE with its scaling factor, which makes latents of the corpus unit variance."""
    vae = models.vae()
    vae.load_state_dict(_below(_average(folder, "vae"), "vae."))
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.0)
    shelf = corpus.Shelf(folder / "corpus", "stills", ("images",))
    import numpy as np

    some = latents.encode(vae, shelf.get("images", np.arange(0, len(shelf), len(shelf) // 400)))
    vae.register_to_config(scaling_factor=round(1 / float(some.astype("f4").std()), 4))
    return vae


def load_unet(folder: Path) -> tuple[UNet2DConditionModel, Any]:
    """The trained U-Net and text tower, frozen."""
    tensors = _average(folder, "unet")
    unet, text = models.unet(), models.text_encoder()
    unet.load_state_dict(_below(tensors, "unet."))
    text.load_state_dict(_below(tensors, "text_encoder."))
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)


def export_film(folder: Path, weights: Path = export.WEIGHTS) -> None:
    """Write the film model as far as it is trained; without a motion adapter, one that changes nothing yet."""
    unet, text = load_unet(folder)
    motion = models.motion_adapter()
    if (folder / "motion" / "state.safetensors").exists():
        motion = export.adapter_from(_average(folder, "motion"))
    export.film(load_vae(folder), text, unet, motion, weights)


def export_eye(part: str, folder: Path, weights: Path = export.WEIGHTS) -> None:
    """Write one of the eyes."""
    net = getattr(models, part)()
    net.load_state_dict(_below(_average(folder, part), f"{part}."))
    export.eyes(net.eval(), part, weights)
