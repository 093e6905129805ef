"""The miniature's networks: the real diffusers and transformers classes at small size, with random weights."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, MotionAdapter, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextConfig,
    CLIPTextModel,
    ConvNextConfig,
    ConvNextModel,
    ViTConfig,
    ViTModel,
)

from starring.miniature.words import CONTEXT, tokenizer
from starring.perception.iresnet import IResNet

WIDTH = 128
"""Width of the text embeddings that condition the U-Net."""
CHANNELS = (48, 80, 128)
IDENTITY = 128
"""Length of an identity embedding."""
CROP = 48
"""Side in pixels of what the identity encoders see."""
DINO_WIDTH = 96


def vae() -> AutoencoderKL:
    """Image VAE of factor 4: b 3 64 64 in [-1, 1] to b 4 16 16."""
    # diffusers declares its tuples with a single member.
    levels: dict[str, Any] = {
        "block_out_channels": (32, 48, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def text_encoder() -> CLIPTextModel:
    """The text tower that conditions the U-Net."""
    return CLIPTextModel(CLIPTextConfig(**_text(WIDTH, layers=3)))


def unet() -> UNet2DConditionModel:
    """Three resolutions; self- and cross-attention at the two finer ones and in the middle, as the places of SD 1.5."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def motion_adapter() -> MotionAdapter:
    """Temporal layers at every resolution and in the middle, for up to 32 frames."""
    return MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )


def scheduler() -> DDIMScheduler:
    """SD's noise levels with AnimateDiff's linear betas; epsilon-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def student_scheduler() -> LCMScheduler:
    """The same noise levels in the four-step model's schedule: t = 999, 759, 499, 259."""
    return LCMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="linear")


def clip() -> CLIPModel:
    """Text and image towers for scores and rewards; not the tower that conditions the U-Net."""
    vision = _vision(hidden=112, layers=4)
    return CLIPModel(CLIPConfig(text_config=_text(96, layers=3), vision_config=vision, projection_dim=96))


def dino() -> ViTModel:
    """A self-supervised image encoder; its class token is the embedding."""
    return ViTModel(ViTConfig(**_vision(hidden=DINO_WIDTH, layers=4)), add_pooling_layer=False)


def segmenter() -> CLIPSegForImageSegmentation:
    """Text-prompted segmentation of b 3 64 64."""
    text, vision = _text(96, layers=3), _vision(hidden=112, layers=3, patch=4)
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=96,
        extract_layers=[0, 1, 2],
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
        conditional_layer=0,
    )
    return CLIPSegForImageSegmentation(config)


def identity_reward() -> IResNet:
    """Identity encoder of the reward: the ArcFace family's network, small; crops in [-1, 1]."""
    return IResNet((1, 1, 1, 1), (16, 32, 64, 128), IDENTITY, CROP)


def identity_score() -> ConvNextModel:
    """Identity encoder of the scores, of another architecture; its pooled output is the embedding."""
    return ConvNextModel(
        ConvNextConfig(
            num_channels=3,
            patch_size=4,
            num_stages=3,
            hidden_sizes=[32, 64, IDENTITY],
            depths=[1, 2, 2],
            image_size=CROP,
        )
    )


def size_of(module: nn.Module) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in module.parameters()) / 1e6


def _text(hidden: int, layers: int) -> dict[str, Any]:
    words: Any = tokenizer()
    return {
        "vocab_size": len(words),
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "projection_dim": hidden,
        "bos_token_id": int(words.bos_token_id),
        "eos_token_id": int(words.eos_token_id),
        "pad_token_id": int(words.pad_token_id),
    }


def _vision(hidden: int, layers: int, patch: int = 8) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": patch,
    }
