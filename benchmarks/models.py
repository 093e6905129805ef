"""What the cases are run on: the bundled miniature on a CPU, networks of full size with random weights on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, CogVideoXTransformer3DModel, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.harness import Suite
from starring.backbones.animatediff import AnimateDiff, linear_ddim
from starring.backbones.base import Backbone
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import load_backbone
from starring.config import Sample
from starring.errors import StarringError
from starring.miniature import dit
from starring.perception.encoders import CLIP, load_clip
from starring.perception.transforms import clip_transform
from tests.tiny import tiny_tokenizer

WIDTH = 768
"""Of Stable Diffusion 1.5's text encoder."""
LEVELS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512, "latent_channels": 4,
}  # fmt: skip
"""Stable Diffusion 1.5's VAE."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class World:
    """Everything that a case may need."""

    suite: Suite
    """Small or full size."""
    device: torch.device
    """Where it computes."""
    backbone: Backbone
    """An AnimateDiff."""
    clip: CLIP
    """Compares pictures and texts."""
    seed: int
    """Of all random numbers."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the backbone."""
        return self.backbone.dtype

    @property
    def full(self) -> bool:
        """Whether networks are as large as published ones."""
        return self.suite == "gpu"

    def noise(self, *shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers in the backbone's precision; never zeros, which hardware multiplies faster."""
        generator = torch.Generator().manual_seed(self.seed * 1000 + seed)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)


def world(suite: Suite, seed: int, device: str | None = None) -> World:
    """The networks of a suite, on ``device`` or the suite's own.

    Raises:
        StarringError: if a GPU is asked for where there is none, or of the suite that is for the CPU.
    """
    if suite == "cpu" and device not in (None, "cpu"):
        raise StarringError(f"The cpu suite computes on the processor, not on {device}. Take --suite gpu.")
    if suite == "cpu":
        torch.set_num_threads(1)
        backbone = load_backbone("miniature", device="cpu")
        return World(suite=suite, device=torch.device("cpu"), backbone=backbone, clip=load_clip("miniature"), seed=seed)
    there = torch.accelerator.current_accelerator(check_available=True)
    place = there if device is None else torch.device(device)
    if place is None or (place.type != "cpu" and there is None):
        raise StarringError(
            "The gpu suite needs an accelerator, and torch sees none here. Take --suite cpu; or --device cpu, which"
            " computes the same networks on the processor, in hours and with ratios that say nothing of a GPU."
        )
    torch.backends.cudnn.benchmark = True
    return World(suite=suite, device=place, backbone=full_size(place), clip=large_clip(place), seed=seed)


def half(device: torch.device) -> torch.dtype:
    """The 16 bits that full-size networks have: processors are fast in bfloat16 only."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def full_size(device: torch.device) -> AnimateDiff:
    """Stable Diffusion 1.5 with AnimateDiff v2's motion modules, random weights, 16 bits: 16 frames of 512x512."""
    unet = UNetMotionModel(sample_size=64, cross_attention_dim=WIDTH, use_motion_mid_block=True)
    tokenizer: CLIPTokenizer = tiny_tokenizer()
    reader = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=12,
        num_attention_heads=12, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    backbone = AnimateDiff(
        denoiser=unet, vae=AutoencoderKL(**LEVELS), text_encoder=CLIPTextModel(reader), tokenizer=tokenizer,
        scheduler=linear_ddim(), sample=Sample(frames=16, height=512, width=512, steps=25, guidance=7.5),
    )  # fmt: skip
    for part in backbone.parts():
        _poisoned(part.to(device, half(device)))
    return backbone


def video_backbone(world: World, heads: int, blocks: int) -> CogVideoX:
    """A CogVideoX of the given width (64 for each head) and depth, random weights; texts are given as embeddings.

    Bfloat16 on a GPU. Its VAE and its text encoder, which nobody asks, are the miniature's.
    """
    build: Any = CogVideoXTransformer3DModel
    with torch.device("meta"):
        net = build(
            num_attention_heads=heads, attention_head_dim=64, text_embed_dim=4096 if world.full else dit.TEXT_WIDTH,
            num_layers=blocks, sample_width=90, sample_height=60, sample_frames=49, max_text_seq_length=226,
            use_rotary_positional_embeddings=True,
        )  # fmt: skip
    net = net.to_empty(device=world.device).to(world.dtype)
    for name, parameter in net.named_parameters():
        nn.init.ones_(parameter) if "norm" in name and name.endswith("weight") and parameter.ndim == 1 else None
    _poisoned(net)
    return CogVideoX(
        denoiser=net, vae=dit.vae(), text_encoder=dit.text_encoder(), tokenizer=dit.tokenizer(),
        scheduler=dit.scheduler(),
    )  # fmt: skip


def large_clip(device: torch.device) -> CLIP:
    """CLIP ViT-B/32's image tower with random weights, 16 bits, and the smallest text tower."""
    tower = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "patch_size": 32, "image_size": 224}  # fmt: skip
    tokenizer = tiny_tokenizer()
    reader = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 1, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    model = CLIPModel(CLIPConfig(vision_config=tower, text_config=reader, projection_dim=512))
    _poisoned(model.to(device, half(device)))
    return CLIP(model, tokenizer, clip_transform({"size": 224}))


def _poisoned(part: nn.Module) -> None:
    """Fill parameters with small random numbers, norms aside: what a fresh network leaves at zero costs less."""
    part.requires_grad_(False).eval()
    for name, parameter in part.named_parameters():
        if parameter.ndim > 1 or "bias" in name:
            nn.init.normal_(parameter, std=0.02)
