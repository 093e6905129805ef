"""From training states to the shipped folders: real layouts, fp16 safetensors, replaced atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    CogVideoXTransformer3DModel,
    ControlNetModel,
    ModelMixin,
    MotionAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    PreTrainedModel,
    T5EncoderModel,
    ViTModel,
)

from starring.miniature import dit as second
from starring.miniature import models
from starring.miniature.judges import ImageJudge, MotionJudge
from starring.miniature.words import tokenizer
from starring.miniature.world import SIZE

WEIGHTS = Path(__file__).parent / "weights"
LORA = "pytorch_lora_weights.safetensors"
SAMPLE = {"frames": 16, "height": SIZE, "width": SIZE, "steps": 25, "guidance": 3.0, "fps": 8}
DIT_SAMPLE = SAMPLE | {"frames": second.FRAMES}
_DIT_INDEX = {
    "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}
_INDEX = {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "motion_adapter": ["diffusers", "MotionAdapter"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def put(folder: Path, module: ModelMixin | PreTrainedModel, extra: Mapping[str, Any] | None = None) -> None:
    """Save a network as fp16 into a fresh folder, then put that folder in the old one's place."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    dtype = next(module.parameters()).dtype
    module.half().save_pretrained(partial)
    module.to(dtype)  # pyright: ignore[reportArgumentType]
    config = json.loads((partial / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, content in (extra or {}).items():
        (partial / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def film(
    vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel, motion: MotionAdapter, weights: Path = WEIGHTS
) -> None:
    """The film model, in the layout of an ``AnimateDiffPipeline`` with its U-Net and motion adapter apart."""
    folder = weights / "film"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("vae", vae), ("text_encoder", text), ("unet", unet), ("motion_adapter", motion)):
        put(folder / name, part)
    tokenizer().save_pretrained(folder / "tokenizer")
    models.scheduler().save_pretrained(folder / "scheduler")
    _describe(folder, "AnimateDiffPipeline", _INDEX, SAMPLE)


def dit(
    vae: AutoencoderKLCogVideoX,
    text: T5EncoderModel | None = None,
    transformer: CogVideoXTransformer3DModel | None = None,
    weights: Path = WEIGHTS,
) -> None:
    """The second film model, in the layout of a ``CogVideoXPipeline``; its VAE alone where nothing else is trained."""
    folder = weights / "dit"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("vae", vae), ("text_encoder", text), ("transformer", transformer)):
        if part is not None:
            put(folder / name, part)
    if text is None or transformer is None:
        return
    second.tokenizer().save_pretrained(folder / "tokenizer")
    second.scheduler().save_pretrained(folder / "scheduler")
    _describe(folder, "CogVideoXPipeline", _DIT_INDEX, DIT_SAMPLE)


def _describe(folder: Path, pipeline: str, parts: Mapping[str, Any], sample: Mapping[str, Any]) -> None:
    """Say what a pipeline's folder holds, and how films are drawn from it."""
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "starring.json").write_text(json.dumps({"sample": dict(sample)}, indent=2) + "\n")


def eyes(net: CLIPModel | ViTModel | CLIPSegForImageSegmentation, name: str, weights: Path = WEIGHTS) -> None:
    """A frozen eye with its preprocessing, and its tokenizer where it reads text."""
    size = {"height": SIZE, "width": SIZE}
    settings = {
        "size": {"shortest_edge": SIZE},
        "crop_size": size,
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    put(weights / name, net, {"preprocessor_config.json": settings})
    if not isinstance(net, ViTModel):
        tokenizer().save_pretrained(weights / name)


def student(tensors: Mapping[str, Tensor], weights: Path = WEIGHTS) -> None:
    """The LoRA that makes the film model one of four steps, in the file and the names of diffusers."""
    folder = weights / "student"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{LORA}.partial"
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, partial)
    partial.replace(folder / LORA)


def judges(image: ImageJudge | None, motion: MotionJudge | None, weights: Path = WEIGHTS) -> None:
    """The independent judges of the gates."""
    folder = weights / "judges"
    folder.mkdir(parents=True, exist_ok=True)
    for name, judge in (("image", image), ("motion", motion)):
        if judge is not None:
            save_file(_half(judge), folder / f"{name}.safetensors")


def _half(module: nn.Module) -> dict[str, Any]:
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in module.state_dict().items()}


def adapter_from(parts: Mapping[str, Any]) -> MotionAdapter:
    """A motion adapter from the trained motion modules' tensors, named as in the film network with ``__`` for dots."""
    adapter = models.motion_adapter()
    adapter.load_state_dict({name.replace("__", "."): value for name, value in parts.items()})
    return adapter


def shipped(part: str, weights: Path = WEIGHTS) -> dict[str, dict[str, Tensor]]:
    """The shipped tensors of a part by its trainer's module names, from which training can go on."""
    if part == "motion":
        adapter = shipped("motion_adapter", weights)["motion_adapter"]
        found: dict[str, dict[str, Tensor]] = {}
        for name, value in adapter.items():
            place, rest = name.split(".motion_modules.")
            found.setdefault(place.replace(".", "__") + "__motion_modules", {})[rest] = value
        return found
    if part == "unet":
        return shipped("text_encoder", weights) | shipped("unet_alone", weights)
    if part == "student":
        kinds = {"lora_A": "down", "lora_B": "up"}
        changes: dict[str, dict[str, Tensor]] = {}
        for name, value in load_file(weights / "student" / LORA).items():
            layer, kind = name.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
            changes.setdefault(layer.replace(".", "__"), {})[kinds[kind]] = value.float()
        return changes
    if part == "dit":
        return {name: shipped(f"dit_{name}", weights)[f"dit_{name}"] for name in ("transformer", "text_encoder")}
    if part == "video_vae":
        return {"vae": shipped("dit_vae", weights)["dit_vae"]}
    folders: dict[str, tuple[Any, str]] = {
        "dit_vae": (AutoencoderKLCogVideoX, "dit/vae"),
        "dit_transformer": (CogVideoXTransformer3DModel, "dit/transformer"),
        "dit_text_encoder": (T5EncoderModel, "dit/text_encoder"),
        "vae": (AutoencoderKL, "film/vae"),
        "unet_alone": (UNet2DConditionModel, "film/unet"),
        "text_encoder": (CLIPTextModel, "film/text_encoder"),
        "motion_adapter": (MotionAdapter, "film/motion_adapter"),
        "control": (ControlNetModel, "control"),
        "clip": (CLIPModel, "clip"),
        "dino": (ViTModel, "dino"),
        "segmenter": (CLIPSegForImageSegmentation, "segmenter"),
    }
    kind, folder = folders[part]
    module = kind.from_pretrained(weights / folder, **({"add_pooling_layer": False} if kind is ViTModel else {}))
    return {part.removesuffix("_alone"): {name: value.float() for name, value in module.state_dict().items()}}
