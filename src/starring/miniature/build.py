"""Build the bundled weights from nothing: corpus, VAE, text tower and U-Net, motion adapter, eyes, judges.

Every part can be stopped and goes on where it was; parts that are finished are only exported again. A part may also
start from the shipped weights, to be trained further.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from starring.errors import StarringError, unknown
from starring.miniature import (
    adapter,
    cinema,
    clips,
    control,
    corpus,
    dit,
    export,
    eyes,
    identity,
    judges,
    latents,
    models,
    pairs,
    pretrain,
    reading,
    student,
)
from starring.miniature.fit import Loss, Trainer

PARTS = (
    "corpus", "vae", "latents", "decoder", "unet", "motion", "student", "control", "clip", "dino", "segmenter",
    "judges", "identity",
)  # fmt: skip
"""In the order in which they can be built."""
SECOND = ("clips", "video_vae", "video_latents", "video_decoder", "reading", "dit", "pairs", "adapter")
"""The second miniature's parts, in order; its VAE and its text tower start from the first one's."""
Report = Callable[[str, int, int], None]
"""Hears a part's name, what is done of it and what there is to do."""


def build(
    part: str, folder: Path, seconds: float = math.inf, report: Report | None = None, shards: int = 24,
    warm: bool = False, steps: int | None = None, bf16: bool = False, references: str = "another",
) -> None:  # fmt: skip
    """Build one part in ``folder`` and export it into the package.

    Args:
        part: a name in :data:`PARTS` or :data:`SECOND`.
        folder: where training states and the rendered corpus lie.
        seconds: stop after this long; the state is kept.
        report: hears progress.
        shards: how many shards of stills (4,000 each) and of films (200 each) the corpus has.
        warm: where ``folder`` has no state of a part yet, start from the shipped weights and not from random ones.
        steps: train for so many steps and not for the part's own number.
        bf16: compute in bfloat16 where the hardware has it.
        references: what the references of pairs are cut out of.

    Raises:
        StarringError: for an unknown part, or if an earlier part is missing.
    """
    if part not in (*PARTS, *SECOND):
        raise unknown("part", part, (*PARTS, *SECOND))
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
    elif part == "identity":
        reward, score = identity.reward_trainer(folder), identity.score_trainer(folder)
        _train("identity, reward", reward, identity.reward_loss(folder, reward), seconds, tell)
        _train("identity, score", score, identity.score_loss(folder, score), seconds, tell)
        identity.write(folder)
    elif part == "clips":
        for n in range(shards):
            corpus.build_films(folder / "corpus", n, "clips", dit.FRAMES)
            tell(part, n + 1, shards)
    elif part == "video_latents":
        clips.encode_corpus(folder, load_video_vae(folder), tell)
    elif part == "pairs":
        pairs.build(folder / "pairs", reference=references, report=tell)
    elif part == "adapter":
        adapter.build(folder, seconds, tell, steps, bf16)
    elif part == "judges":
        image, motion = judges.image_trainer(folder), judges.motion_trainer(folder)
        _train("judge of images", image, judges.image_loss(folder, image), seconds, tell)
        _train("judge of motion", motion, judges.motion_loss(folder, motion), seconds, tell)
        export.judges(image.averaged()["judge"], motion.averaged()["judge"])  # pyright: ignore[reportArgumentType]
    else:
        trainer, loss = _training(part, folder)
        trainer.plan = replace(trainer.plan, steps=steps or trainer.plan.steps, bf16=bf16)
        if warm and trainer.step == 0 and part not in ("decoder", "video_decoder", "reading"):
            trainer.start(export.shipped(part))
        _train(part, trainer, loss, seconds, tell)
        if part in ("vae", "decoder", "unet", "motion"):
            export_film(folder)
        elif part == "control":
            net = control.control(load_unet(folder)[0])
            net.load_state_dict(_below(_average(folder, part), "control."))
            export.put(export.WEIGHTS / part, net)
        elif part == "student":
            export.student(student.lora(_average(folder, part)))
        elif part in SECOND:
            export_dit(folder)
        else:
            export_eye(part, folder)


def _training(part: str, folder: Path) -> tuple[Trainer, Loss]:
    if part == "unet":
        trainer = cinema.unet_trainer(folder)
        return trainer, cinema.unet_loss(folder, trainer)
    if part == "motion":
        unet, text = load_unet(folder)
        trainer, film = cinema.motion_trainer(folder, unet, text)
        return trainer, cinema.motion_loss(folder, trainer, film, text)
    if part == "student":
        film, text = student.parts()
        trainer = student.trainer(folder, film)
        return trainer, student.loss(folder, trainer, film, text)
    if part == "control":
        unet, text = load_unet(folder)
        trainer = control.trainer(folder, unet)
        return trainer, control.loss(folder, trainer, unet, text)
    if part == "vae":
        trainer = pretrain.vae_trainer(folder)
        return trainer, pretrain.vae_loss(folder, trainer)
    if part == "decoder":
        trainer = pretrain.decoder_trainer(folder, load_vae(folder))
        return trainer, pretrain.decoder_loss(folder, trainer)
    if part == "video_vae":
        trainer = clips.vae_trainer(folder)
        return trainer, clips.vae_loss(folder, trainer)
    if part == "video_decoder":
        trainer = clips.decoder_trainer(folder, load_video_vae(folder))
        return trainer, clips.vae_loss(folder, trainer)
    if part == "reading":
        text = load_unet(folder)[1]
        trainer = reading.trainer(folder)
        return trainer, reading.loss(folder, trainer, text)
    if part == "dit":
        trainer = clips.dit_trainer(folder)
        return trainer, clips.dit_loss(folder, trainer)
    trainer = getattr(eyes, f"{part}_trainer")(folder)
    return trainer, getattr(eyes, f"{part}_loss")(folder, trainer)


def _train(name: str, trainer: Trainer, loss: Loss, seconds: float, tell: Report) -> None:
    if trainer.step < trainer.plan.steps:
        trainer.run(loss, seconds=seconds, on_step=lambda done, of: tell(name, done, of))


def _average(folder: Path, part: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    path = folder / part / "state.safetensors"
    if not path.exists():
        raise StarringError(f"{path} is not there. Build it first: python -m starring.miniature build {part}")
    return {k[8:]: v for k, v in load_file(path).items() if k.startswith("average.")}


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def load_vae(folder: Path) -> AutoencoderKL:
    """The VAE trained in ``folder`` with its scaling factor, which makes latents of the corpus unit variance.

    Where none was trained there, the shipped one.
    """
    finished = (folder / "decoder" / "state.safetensors").exists()
    if not (folder / "vae" / "state.safetensors").exists():
        vae = AutoencoderKL.from_pretrained(export.WEIGHTS / "film" / "vae")
        if finished:
            vae.load_state_dict(_below(_average(folder, "decoder"), "vae."))
        return vae.eval().requires_grad_(False)
    vae = models.vae()
    vae.load_state_dict(_below(_average(folder, "decoder" if finished else "vae"), "vae."))
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.0)
    shelf = corpus.Shelf(folder / "corpus", "stills", ("images",))
    import numpy as np

    some = latents.encode(vae, shelf.get("images", np.arange(0, len(shelf), len(shelf) // 400)))
    vae.register_to_config(scaling_factor=round(1 / float(some.astype("f4").std()), 4))
    return vae


def load_unet(folder: Path) -> tuple[UNet2DConditionModel, Any]:
    """The U-Net and text tower trained in ``folder``, frozen; where none was trained there, the shipped ones."""
    unet, text = models.unet(), models.text_encoder()
    if (folder / "unet" / "state.safetensors").exists():
        tensors = _average(folder, "unet")
    else:
        found = export.shipped("unet")
        tensors = {f"{name}.{key}": value for name, state in found.items() for key, value in state.items()}
    unet.load_state_dict(_below(tensors, "unet."))
    text.load_state_dict(_below(tensors, "text_encoder."))
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)


def export_film(folder: Path, weights: Path = export.WEIGHTS) -> None:
    """Write the film model as far as it is trained in ``folder``; the parts that are not stay the shipped ones.

    Nothing is written while there is a new VAE but no U-Net that learned from its latents.
    """
    trained = {part for part in ("vae", "unet", "motion") if (folder / part / "state.safetensors").exists()}
    if "vae" in trained and "unet" not in trained:
        return
    motion = models.motion_adapter()
    if "motion" in trained:
        motion = export.adapter_from(_average(folder, "motion"))
    elif "unet" not in trained or "vae" not in trained:
        motion.load_state_dict(export.shipped("motion_adapter")["motion_adapter"])
    unet, text = load_unet(folder)
    export.film(load_vae(folder), text, unet, motion, weights)


def load_video_vae(folder: Path) -> Any:
    """The video VAE trained in ``folder``, its latent channels of their deviation on clips; else the shipped one."""
    vae = dit.vae()
    trained = {part: (folder / part / "state.safetensors").exists() for part in ("video_vae", "video_decoder")}
    if not any(trained.values()):
        vae.load_state_dict(export.shipped("video_vae")["vae"])
        return vae.eval().requires_grad_(False)
    # A decoder is trained behind the encoder of a VAE that is balanced already.
    vae.load_state_dict(_below(_average(folder, "video_decoder" if trained["video_decoder"] else "video_vae"), "vae."))
    vae.eval().requires_grad_(False)
    return vae if trained["video_decoder"] else clips.balanced_on_clips(folder, vae)


def export_dit(folder: Path, weights: Path = export.WEIGHTS) -> None:
    """Write the second film model as far as it is trained in ``folder``.

    Another encoder makes other latents: a new one is not written beside a transformer that learned from the old one's.
    """
    trained = {part: (folder / part / "state.safetensors").exists() for part in ("video_vae", "dit")}
    if not trained["dit"]:
        if not trained["video_vae"] or not (weights / "dit" / "transformer").is_dir():
            export.dit(load_video_vae(folder), weights=weights)
        return
    tensors = _average(folder, "dit")
    transformer, text = dit.transformer(), dit.text_encoder()
    transformer.load_state_dict(_below(tensors, "transformer."))
    text.load_state_dict(_below(tensors, "text_encoder."))
    export.dit(load_video_vae(folder), text.eval(), transformer.eval(), weights)


def export_eye(part: str, folder: Path, weights: Path = export.WEIGHTS) -> None:
    """Write one of the eyes."""
    net = getattr(models, part)()
    net.load_state_dict(_below(_average(folder, part), f"{part}."))
    export.eyes(net.eval(), part, weights)
