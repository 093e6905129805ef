"""Backbones by name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from starring.backbones.base import Backbone
from starring.config import Sample
from starring.errors import StarringError, unknown

INDEX, LORA = "model_index.json", "pytorch_lora_weights.safetensors"
MINIATURE = Path(__file__).parents[1] / "miniature" / "weights" / "film"
"""Where the bundled weights are."""
MINIATURE_DIT = MINIATURE.with_name("dit")
"""Where the second bundled film model is."""
MINIATURE_STUDENT = MINIATURE.with_name("student")
"""Where the LoRA is that makes the first one a model of four steps."""
MINIATURE_ADAPTER = MINIATURE.with_name("adapter")
"""Where the run is in which CustomVideoX learned on the second one."""


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
    lora: tuple[str, str, float] | None = None
    """Folder or hub id, file and strength of a LoRA that belongs to the motion adapter; its films take few steps, by
    :func:`starring.backbones.animatediff.linear_lcm`."""
    learned: Mapping[str, str] = field(default_factory=dict[str, str])
    """Folders of runs that ship with it, by the method that learned in them, once for all subjects."""
    note: str = ""
    """One line for people."""


PRESETS: dict[str, Preset] = {
    "miniature": Preset(source=str(MINIATURE), note="bundled: 16 frames, 64x64, a procedural world, runs on a CPU"),
    "miniature-lcm": Preset(
        source=str(MINIATURE),
        lora=(str(MINIATURE_STUDENT), LORA, 1.0),
        sample=Sample(frames=16, height=64, width=64, steps=4, guidance=1.0, fps=8),
        note="bundled: the same in 4 steps a film, without guidance, which is built in",
    ),
    "animatediff": Preset(
        source="SG161222/Realistic_Vision_V5.1_noVAE",
        adapter="guoyww/animatediff-motion-adapter-v1-5-2",
        vae="stabilityai/sd-vae-ft-mse",
        sample=Sample(frames=16, height=512, width=512, steps=25, guidance=7.5, fps=8),
        note="Realistic Vision v5.1 with AnimateDiff v2: 16 frames, 512x512; downloads 5 GB from the hub",
    ),
    "animatelcm": Preset(
        source="SG161222/Realistic_Vision_V5.1_noVAE",
        adapter="wangfuyun/AnimateLCM",
        vae="stabilityai/sd-vae-ft-mse",
        lora=("wangfuyun/AnimateLCM", "AnimateLCM_sd15_t2v_lora.safetensors", 0.8),
        sample=Sample(frames=16, height=512, width=512, steps=4, guidance=2.0, fps=8),
        note="Realistic Vision v5.1 with AnimateLCM: 4 steps a film, 512x512; downloads 6 GB from the hub",
    ),
    "miniature-dit": Preset(
        source=str(MINIATURE_DIT),
        learned={"customvideox": str(MINIATURE_ADAPTER)},
        note="bundled: CogVideoX's networks in small, 17 frames, 64x64, runs on a CPU",
    ),
    "cogvideox-2b": Preset(
        source="THUDM/CogVideoX-2b",
        sample=Sample(frames=49, height=480, width=720, steps=50, guidance=6.0, fps=8),
        note="CogVideoX-2B: 49 frames, 480x720, no reference images; downloads 14 GB from the hub",
    ),
    "cogvideox-5b": Preset(
        source="THUDM/CogVideoX-5b",
        sample=Sample(frames=49, height=480, width=720, steps=50, guidance=6.0, fps=8),
        note="CogVideoX-5B: 49 frames, 480x720; downloads 21 GB from the hub",
    ),
}
"""All named backbones."""


def load_backbone(
    name_or_path: str | Path = "miniature",
    *,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    vae: str | Path | None = None,
    lora: str | Path | None = None,
    lora_scale: float | str = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    family: str | None = None,
) -> Backbone:
    """Load a backbone.

    Args:
        name_or_path: a preset (:data:`PRESETS`), a folder in diffusers layout or hub id of an AnimateDiff, Stable
            Diffusion 1.5 or CogVideoX pipeline, or a single-file checkpoint of Stable Diffusion 1.5.
        base: another Stable Diffusion 1.5 (folder, hub id, single file) under the same motion modules.
        adapter: another motion adapter (folder or hub id), for Stable Diffusion 1.5.
        vae: another VAE (folder or hub id).
        lora: a LoRA of a style for Stable Diffusion 1.5 (.safetensors of diffusers or kohya, or on the hub as
            ``owner/name/file.safetensors``), added to the weights; nothing is tuned.
        lora_scale: how strongly.
        device: where to compute; the accelerator if there is one.
        dtype: precision, also by name (``fp16``); float32 by default.
        family: the one that is needed; another is refused before anything is loaded or downloaded.

    Raises:
        StarringError: if the name is unknown (with the nearest one), or something is missing or does not fit.
    """
    # diffusers takes seconds to import, so a list of presets should not pay for it
    from starring.backbones.loading import is_hub_id, is_single_file, precision

    name, given = str(name_or_path), {"base": base, "adapter": adapter, "vae": vae, "lora": lora}
    preset = PRESETS.get(name)
    if preset is None:
        if not (Path(name).expanduser().exists() or is_hub_id(name) or is_single_file(name)):
            raise unknown("backbone", name, PRESETS, "A folder in diffusers layout or a hub id (owner/name) works too.")
        preset = Preset(source=name)
    bundled = {
        "miniature": MINIATURE / INDEX,
        "miniature-lcm": MINIATURE_STUDENT / LORA,
        "miniature-dit": MINIATURE_DIT / INDEX,
    }
    if name in bundled and not bundled[name].is_file():
        raise StarringError(
            f"The bundled weights are not in {bundled[name].parent}. Build them: python -m starring.miniature build"
        )
    make, own = (_cogvideox, "cogvideox") if _is_cogvideox(preset.source) else (_animatediff, "animatediff")
    if family not in (None, own):
        raise StarringError(
            f"'{name}' is of the family '{own}', but this run was learned on a backbone of the family '{family}'. Take"
            f" one of that family, or learn it again on '{name}'."
        )
    words = {key: str(v) for key, v in given.items() if v is not None}
    if lora is not None:
        words["lora_scale"] = str(_strength(lora_scale))
    backbone = make(name, preset, words, precision(dtype))
    backbone.origin = {"name_or_path": name if name in PRESETS else _lasting(name)}
    backbone.origin |= {key: _lasting(value) for key, value in words.items()}
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        if device.type != "cpu" and "LOCAL_RANK" in os.environ:  # several processes, one accelerator each
            device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    return backbone.to(device)


def shipped(method: str, backbone: str) -> Path:
    """The folder of the run that ships with a backbone, of a method that learns once for all subjects.

    Args:
        method: the method.
        backbone: the backbone's name.

    Raises:
        StarringError: if none does or it is not there, with what to train.
    """
    preset = PRESETS.get(backbone)
    if preset is None or method not in preset.learned:
        raise StarringError(
            f"Nothing that {method} learned ships for the backbone {backbone}. Learn it once, from pairs, then film"
            f" its run: starring learn {method} --data pairs/ --backbone {backbone}"
        )
    folder = Path(preset.learned[method])
    if not folder.is_dir():
        raise StarringError(
            f"What {method} learned on {backbone} is not in {folder}. Train it: python -m starring.miniature build"
            " pairs adapter"
        )
    return folder


def _is_cogvideox(source: str) -> bool:
    """Whether a source is a CogVideoX pipeline; a hub id's name tells, so that nothing is downloaded to find out."""
    from starring.backbones.loading import is_hub_id, read_json

    if is_hub_id(source):
        return "cogvideox" in source.lower()
    return str(read_json(Path(source).expanduser() / INDEX).get("_class_name", "")).startswith("CogVideoX")


def _animatediff(name: str, preset: Preset, given: Mapping[str, str], dtype: torch.dtype) -> Backbone:
    from starring.backbones.animatediff import AnimateDiff, linear_ddim, linear_lcm

    plain = linear_lcm if preset.lora is not None else linear_ddim
    base = given.get("base")
    return AnimateDiff.load(
        preset.source if base is None or preset.adapter is None else base,
        base=base if preset.adapter is None else None,
        adapter=given.get("adapter", preset.adapter),
        vae=given.get("vae", preset.vae),
        scheduler=plain() if preset.adapter is not None or preset.lora is not None else None,
        sample=preset.sample,
        name=name,
        dtype=dtype,
        lora=preset.lora,
        style=(given["lora"], float(given["lora_scale"])) if "lora" in given else None,
    )


def _cogvideox(name: str, preset: Preset, given: Mapping[str, str], dtype: torch.dtype) -> Backbone:
    from starring.backbones.cogvideox import CogVideoX

    if {"base", "adapter", "lora"} & given.keys():
        raise StarringError(
            f"--base, --adapter and --lora change parts of AnimateDiff, and {name} is a CogVideoX, which has no such"
            " parts. Leave them out; --vae replaces its VAE."
        )
    return CogVideoX.load(preset.source, vae=given.get("vae", preset.vae), sample=preset.sample, name=name, dtype=dtype)


def photographs(folder: Path, class_word: str, seed: int) -> Path:
    """Photographs of a subject of the bundled world, written into a new folder as somebody would have taken them.

    Args:
        folder: with ``subject.json``; left alone if it is there.
        class_word: what the subject is.
        seed: which one; those that end in 0 were seen by no training.

    Raises:
        StarringError: if nobody in that world is of this class.
    """
    from starring.miniature.album import kept

    return kept(folder, class_word, seed)


def clips(folder: Path, class_word: str, seed: int, motion: str, frames: int, fps: float) -> Path:
    """Clips in which others of the bundled world show a motion, with their prompts, written into a new folder.

    Args:
        folder: left alone if it is there.
        class_word: what the subject is that learns the motion; the others are of other classes.
        seed: its seed.
        motion: in words, such as ``moving right``.
        frames: of each clip.
        fps: their rate.

    Raises:
        StarringError: if that world knows no such motion.
    """
    from starring.miniature.showing import kept

    return kept(folder, class_word, seed, motion, frames, fps)


def _strength(scale: float | str) -> float:
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StarringError(f"The LoRA's strength is '{scale}', but it must be a number; 1 is as it was trained.")
    return value


def _lasting(place: str | Path) -> str:
    """A file or folder by its absolute path, so that it is found again from anywhere; a hub id as it is.

    Links stay: the hub's cache names a file by a link, and what it points to has no suffix.
    """
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else str(place)
