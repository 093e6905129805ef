"""A LoRA of somebody else added to a network's weights for good, as AnimateLCM's goes with its motion adapter.

Files in the names of diffusers and PEFT (``unet.<layer>.lora_A.weight``, ``unet.<layer>.lora.down.weight``,
``unet.<attention>.processor.to_q_lora.down.weight``) and of kohya (``lora_unet_<layer>.lora_down.weight``, with
``alpha``) are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

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
