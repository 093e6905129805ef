"""A LoRA of somebody else added to a network's weights for good, as AnimateLCM's goes with its motion adapter.

Files in the names of diffusers and PEFT (``unet.<layer>.lora_A.weight``, ``unet.<layer>.lora.down.weight``,
``unet.<attention>.processor.to_q_lora.down.weight``) and of kohya (``lora_unet_<layer>.lora_down.weight``, with
``alpha``) are read.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from starring.backbones.loading import is_hub_id, quiet, readable
from starring.errors import StarringError

_ENDINGS = re.compile(r"[._](?:lora_A|lora_B|lora\.down|lora\.up|lora_down|lora_up)(?:\.default)?\.weight$|\.alpha$")
_DOWN = re.compile(r"(lora_A|lora\.down|lora_down|_lora\.down)")


def fuse(network: nn.Module, source: str, file: str, scale: float) -> None:
    """Add ``scale * alpha / rank * up down`` to the weights of linear maps and convolutions, in place.

    Args:
        network: the U-Net.
        source: a folder or hub id.
        file: the ``.safetensors`` file in it.
        scale: how strongly.

    Raises:
        StarringError: if the file cannot be had, or names a layer that the network has not, or of another size.
    """
    tensors = _read(source, file)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    flat = {name.replace(".", "_"): name for name in layers}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        stem = _ENDINGS.sub("", key)
        layer = _layer(stem, layers, flat)
        if layer is None:
            raise StarringError(f"{file} changes '{stem}', which this U-Net has not. It was made for another model.")
        part = "alpha" if key.endswith(".alpha") else "down" if _DOWN.search(key) else "up"
        found.setdefault(layer, {})[part] = value.float()
    for name, parts in found.items():
        weight = layers[name].weight
        change = torch.mm(parts["up"].flatten(1), parts["down"].flatten(1)) if {"up", "down"} <= parts.keys() else None
        if change is None or change.numel() != weight.numel():
            raise StarringError(f"{file} does not fit '{name}' of this U-Net. It was made for another model.")
        rank = parts["down"].shape[0]
        factor = scale * float(parts.get("alpha", torch.tensor(rank))) / rank
        with torch.no_grad():
            weight.add_((factor * change).view_as(weight).to(weight))


def styled(pipe: Any, file: str, scale: float = 1.0) -> None:
    """Add a LoRA of a style to U-Net and text encoder for good, read by diffusers' own loader (diffusers or kohya).

    Args:
        pipe: the pipeline that brings both.
        file: a ``.safetensors`` file, or ``owner/name/file.safetensors`` on the hub.
        scale: how strongly; 1 as it was trained.

    Raises:
        StarringError: if PEFT is not installed, the file cannot be had, or nothing in it fits.
    """
    if importlib.util.find_spec("peft") is None:
        raise StarringError("A LoRA of a style is read by diffusers with PEFT: pip install 'starring[lora]'")
    path, place = Path(file).expanduser(), {"weight_name": Path(file).name}
    if path.suffix != ".safetensors":
        raise StarringError(f"{file} is no LoRA by its name. Give a .safetensors file; pickles are not read.")
    source = str(path.parent)
    if not path.is_file():
        owner, _, rest = file.partition("/")
        name, _, place["weight_name"] = rest.partition("/")
        source = f"{owner}/{name}"
        if not (owner and name and place["weight_name"]) or file.startswith((".", "~", "/")):
            raise StarringError(
                f"There is no file {file}. Give a LoRA, or one on the hub as owner/name/file.safetensors."
            )
    before = {name: p.detach().clone() for name, p in pipe.unet.named_parameters()}
    with quiet(), readable("LoRA", file, "It must be one for Stable Diffusion 1.5, of diffusers or kohya."):
        pipe.load_lora_weights(source, **place)
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    after = dict(pipe.unet.named_parameters())
    if after.keys() != before.keys() or (scale and all(torch.equal(after[name], before[name]) for name in before)):
        raise StarringError(f"Nothing in {file} fits this U-Net. It must be a LoRA for Stable Diffusion 1.5.")


def _layer(stem: str, layers: Mapping[str, nn.Module], flat: Mapping[str, str]) -> str | None:
    """The layer that a file's name is of."""
    name = stem.removeprefix("unet.").replace(".processor.", ".")
    for guess in (name, f"{name}.0"):
        if guess in layers:
            return guess
    short = name.removeprefix("lora_unet_").replace(".", "_")
    return flat.get(short) or flat.get(f"{short}_0")


def _read(source: str, file: str) -> dict[str, Tensor]:
    path = Path(source).expanduser() / file
    if is_hub_id(source):
        from huggingface_hub import hf_hub_download

        with quiet(), readable("LoRA", source, "Check the connection, or name a folder."):
            path = Path(hf_hub_download(source, file))
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StarringError(f"The LoRA {path} is missing or damaged ({type(error).__name__}). Get it again.") from error
