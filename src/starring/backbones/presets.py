"""Backbones by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from starring.backbones.base import Backbone
from starring.config import Sample
from starring.errors import StarringError, unknown

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights" / "film"
"""Where the bundled weights are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A backbone that can be named."""

    source: str
    """Folder or hub id of the pipeline, or of its Stable Diffusion 1.5 base."""
    adapter: str | None = None
    """Motion adapter, when the source brings none."""
    vae: str | None = None
    """VAE, when it is not the source's own."""
    sample: Sample | None = None
    """How films are drawn; ``None`` lets the source say so."""
    note: str = ""
    """One line for people."""


PRESETS: dict[str, Preset] = {
    "miniature": Preset(source=str(MINIATURE), note="bundled: 16 frames, 64x64, a procedural world, runs on a CPU"),
    "animatediff": Preset(
        source="SG161222/Realistic_Vision_V5.1_noVAE",
        adapter="guoyww/animatediff-motion-adapter-v1-5-2",
        vae="stabilityai/sd-vae-ft-mse",
        sample=Sample(frames=16, height=512, width=512, steps=25, guidance=7.5, fps=8),
        note="Realistic Vision v5.1 with AnimateDiff v2: 16 frames, 512x512; downloads 5 GB from the hub",
    ),
}
"""All named backbones."""


def load_backbone(
    name_or_path: str | Path = "miniature",
    *,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    vae: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> Backbone:
    """Load a backbone.

    Args:
        name_or_path: a preset (:data:`PRESETS`), a folder in diffusers layout or hub id of an AnimateDiff or Stable
            Diffusion 1.5 pipeline, or a single-file checkpoint of Stable Diffusion 1.5.
        base: another Stable Diffusion 1.5 (folder, hub id, single file) under the same motion modules.
        adapter: another motion adapter (folder or hub id).
        vae: another VAE (folder or hub id).
        device: where to compute; the accelerator if there is one.
        dtype: precision, also by name (``fp16``); float32 by default.

    Raises:
        StarringError: if the name is unknown (with the nearest one), or something is missing or does not fit.
    """
    # diffusers takes seconds to import, so a list of presets should not pay for it
    from starring.backbones.animatediff import AnimateDiff, linear_ddim
    from starring.backbones.loading import is_hub_id, is_single_file, precision

    name, given = str(name_or_path), {"base": base, "adapter": adapter, "vae": vae}
    preset = PRESETS.get(name)
    if preset is None:
        if not (Path(name).expanduser().exists() or is_hub_id(name) or is_single_file(name)):
            raise unknown("backbone", name, PRESETS, "A folder in diffusers layout or a hub id (owner/name) works too.")
        preset = Preset(source=name)
    elif name == "miniature" and not MINIATURE.is_dir():
        raise StarringError(
            f"The bundled weights are not in {MINIATURE}. Build them: python -m starring.miniature build"
        )
    backbone = AnimateDiff.load(
        preset.source if base is None or preset.adapter is None else str(base),
        base=str(base) if base is not None and preset.adapter is None else None,
        adapter=str(adapter) if adapter is not None else preset.adapter,
        vae=str(vae) if vae is not None else preset.vae,
        scheduler=linear_ddim() if preset.adapter is not None else None,
        sample=preset.sample,
        name=name,
        dtype=precision(dtype),
    )
    backbone.origin = {"name_or_path": name if name in PRESETS else _lasting(name)}
    backbone.origin |= {key: _lasting(value) for key, value in given.items() if value is not None}
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return backbone.to(device)


def _lasting(place: str | Path) -> str:
    """A file or folder by its absolute path, so that it is found again from anywhere; a hub id as it is.

    Links stay: the hub's cache names a file by a link, and what it points to has no suffix.
    """
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else str(place)
