"""The backbone that a stage trains on, where it is not the run's own."""

from __future__ import annotations

from typing import Any, cast

import torch

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, Stage

SHARED = ("base", "vae", "lora", "lora_scale")
"""What was put in place of parts of the run's backbone goes into a stage's own as well, since films are to be made with
it; not the motion adapter, which is what the other backbone is there for."""


def trained_on(stage: Stage, backbone: Backbone) -> Backbone:
    """The run's backbone, or the one that the stage asks for: placed like it, as sparing with memory, with its parts.

    Args:
        stage: says which.
        backbone: the run's.

    Raises:
        StarringError: if the stage's own cannot be loaded, or is of another family.
    """
    if _same(stage, backbone):
        return backbone
    vae, denoiser = cast("Any", backbone.vae), cast("Any", backbone.denoiser)
    return _loaded(stage, backbone, backbone.device).save_memory(
        vae_slicing=bool(vae.use_slicing), vae_tiling=bool(vae.use_tiling),
        checkpointing=bool(denoiser.is_gradient_checkpointing),
    )  # fmt: skip


def require_backbones(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse stages whose own backbone cannot be had, before an earlier stage has been trained in vain.

    Each is loaded, and let go of: two at once would take the memory of both for as long as the earlier stages last.

    Raises:
        StarringError: as :func:`trained_on`.
    """
    for stage in recipe.stages:
        if not _same(stage, backbone):
            _loaded(stage, backbone, "cpu")


def _same(stage: Stage, backbone: Backbone) -> bool:
    return not stage.backbone or stage.backbone == backbone.name


def _loaded(stage: Stage, backbone: Backbone, device: torch.device | str) -> Backbone:
    parts: dict[str, Any] = {key: backbone.origin[key] for key in SHARED if key in backbone.origin}
    return load_backbone(stage.backbone, **parts, device=device, dtype=backbone.dtype, family=backbone.family)
