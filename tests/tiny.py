"""Tiny real models: the classes the library meets in the wild, a few thousand random weights each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = """
a an the of on in with and photo video film picture far away very small zoomed close up dog cat robot turtle
man woman person face red green blue black white brown running walking jumping turning standing still beach
forest snow city street room house left right ktn pll ucd
""".split()  # noqa: SIM905  (a list would be a page long)

SAMPLE = {"frames": 4, "height": 32, "width": 32, "steps": 3, "guidance": 3.0, "fps": 8}


def tiny_tokenizer(length: int = 77) -> CLIPTokenizer:
    """A real byte-pair tokenizer: every byte, and the merges that spell :data:`WORDS` as single tokens."""
    byte_symbols = _byte_symbols()
    vocab = [*byte_symbols, *(symbol + "</w>" for symbol in byte_symbols)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        joined = parts[0]
        for part in parts[1:]:
            if (joined, part) not in merges:
                merges.append((joined, part))
            joined += part
            if joined not in vocab:
                vocab.append(joined)
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={s: i for i, s in enumerate(vocab)}, merges=merges, model_max_length=length)


def tiny_text_encoder(tokenizer: CLIPTokenizer, width: int = 32) -> CLIPTextModel:
    """Two layers, ``width`` wide, over the tokenizer's vocabulary and length."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tiny_vae() -> AutoencoderKL:
    """Three levels, so a factor of 4, and four latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 32),
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    )


def tiny_unet(width: int = 32) -> UNet2DConditionModel:
    """Three levels, attention at the upper two and in the middle."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def tiny_adapter() -> MotionAdapter:
    """Motion modules for :func:`tiny_unet`, for up to 32 frames; random, so they do something."""
    return MotionAdapter(
        block_out_channels=(16, 32, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
    )


def tiny_animatediff(folder: Path, seed: int = 0) -> Path:
    """Write a random AnimateDiff pipeline in the layout of the bundled weights: 2D U-Net and motion adapter apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        encoder, vae, unet, adapter = tiny_text_encoder(tokenizer), tiny_vae(), tiny_unet(), tiny_adapter()
    for name, part in {"text_encoder": encoder, "vae": vae, "unet": unet, "motion_adapter": adapter}.items():
        part.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1
    )
    scheduler.save_pretrained(folder / "scheduler")
    index: dict[str, object] = {
        "_class_name": "AnimateDiffPipeline",
        "_diffusers_version": "0.35.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "motion_adapter": ["diffusers", "MotionAdapter"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "starring.json").write_text(json.dumps({"sample": SAMPLE}, indent=2))
    return folder


def stock_pipeline(folder: Path) -> AnimateDiffPipeline:
    """The stock pipeline on the same weights, silent."""
    pipe = AnimateDiffPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _byte_symbols() -> list[str]:
    """The stand-ins of byte-level BPE (GPT-2's table): printable bytes as themselves, the rest shifted up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in range(256)]
