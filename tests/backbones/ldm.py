"""Stable Diffusion 1.5's original single-file key names, for writing tiny checkpoints in that form.

Facts of the format: input blocks, a middle block and output blocks are numbered in running order, the decoder's levels
are counted from the other end, and the VAE's attention projections are 1x1 convolutions.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def write_single_file(
    path: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel, layers: int = 1
) -> Path:
    """Write the three networks as one checkpoint; ``layers`` is the U-Net's ``layers_per_block``."""
    tensors: dict[str, Tensor] = {}
    for key, value in unet.state_dict().items():
        tensors["model.diffusion_model." + _unet_key(key, len(unet.down_blocks), layers)] = value
    for key, value in vae.state_dict().items():
        name = _vae_key(key, len(vae.encoder.down_blocks))
        is_projection = ".attn_1." in name and "norm" not in name and name.endswith("weight")
        tensors["first_stage_model." + name] = value[..., None, None] if is_projection else value
    for key, value in text_encoder.state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + key] = value
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)
    return path


def _resnet(rest: str) -> str:
    part, leaf = rest.split(".")
    return f"{_RESNET[part]}.{leaf}"


def _unet_key(key: str, levels: int, layers: int) -> str:
    head, _, rest = key.partition(".")
    fixed = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    }  # fmt: skip
    for ours, theirs in fixed.items():
        if key.startswith(ours + "."):
            return key.replace(ours, theirs)
    if head == "mid_block":
        kind, i, tail = rest.split(".", 2)
        return f"middle_block.1.{tail}" if kind == "attentions" else f"middle_block.{2 * int(i)}.{_resnet(tail)}"
    level, kind, i, tail = rest.split(".", 3)
    if head == "down_blocks":
        block = 1 + int(level) * (layers + 1) + int(i)
        if kind == "downsamplers":
            return f"input_blocks.{block + layers}.0.op.{tail.removeprefix('conv.')}"
        return f"input_blocks.{block}." + (f"1.{tail}" if kind == "attentions" else f"0.{_resnet(tail)}")
    block = int(level) * (layers + 1) + int(i)
    if kind == "upsamplers":
        with_attention = int(level) > 0  # the lowest level of these tiny U-Nets has no attention before its upsampler
        return f"output_blocks.{block + layers}.{2 if with_attention else 1}.{tail}"
    assert int(level) < levels
    return f"output_blocks.{block}." + (f"1.{tail}" if kind == "attentions" else f"0.{_resnet(tail)}")


def _vae_key(key: str, levels: int) -> str:
    swaps = {
        "conv_norm_out": "norm_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1", "conv_shortcut": "nin_shortcut",
        "downsamplers.0": "downsample", "upsamplers.0": "upsample", "resnets": "block",
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    }  # fmt: skip
    for ours, theirs in swaps.items():
        key = key.replace(ours, theirs)
    if "up_blocks." in key:
        before, after = key.split("up_blocks.")
        level, rest = after.split(".", 1)
        return f"{before}up.{levels - 1 - int(level)}.{rest}"
    return key.replace("down_blocks.", "down.")
