"""Tiny real models: the classes the library meets in the wild, a few thousand random weights each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

WORDS = """
a an the of on in with and photo video film picture far away very small zoomed close up dog cat robot turtle
man woman person face red green blue black white brown running walking jumping turning standing still beach
forest snow city street room house left right ktn pll ucd
""".split()  # noqa: SIM905  (a list would be a page long)

LETTERS = "abcdefghijklmnopqrstuvwxyz<*>0123456789"

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


def tiny_t5_tokenizer(length: int = 16) -> T5Tokenizer:
    """A real unigram tokenizer: :data:`WORDS` as single pieces, and letters for everything else."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(f"▁{word}", -4.0) for word in WORDS] + [(letter, -12.0) for letter in LETTERS]
    return T5Tokenizer(vocab=list(dict(pieces).items()), extra_ids=0, model_max_length=length)


def tiny_controlnet(folder: Path, width: int = 32) -> Path:
    """A random ControlNet for the tiny U-Net whose answers are not nothing, as a fresh one's are.

    The published ones halve pictures three times, for a VAE of factor 8; this one twice, since the tiny VAE has 4.
    """
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(tiny_unet(width), conditioning_embedding_out_channels=(16, 32, 96))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    return folder


def tiny_video_vae() -> AutoencoderKLCogVideoX:
    """Three levels: 4 in time and 4 in space; four latent channels; a scaling factor that must not be forgotten."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_height=32,
        sample_width=32,
        scaling_factor=0.7,
    )


def tiny_transformer(
    rotary: bool = True, patch_size_t: int | None = None, blocks: int = 2
) -> CogVideoXTransformer3DModel:
    """Blocks of two heads over patches of 2."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=blocks,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size_t=patch_size_t,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=rotary,
    )


def tiny_cogvideox(
    folder: Path, seed: int = 0, rotary: bool = True, patch_size_t: int | None = None, blocks: int = 2
) -> Path:
    """Write a random CogVideoX pipeline: rotary positions as in 5B or sincos as in 2B; ``patch_size_t`` as in 1.5."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_t5_tokenizer()
        encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, dropout_rate=0.0
            )
        )
        vae, transformer = tiny_video_vae(), tiny_transformer(rotary, patch_size_t, blocks)
    for name, part in {"text_encoder": encoder, "vae": vae, "transformer": transformer}.items():
        part.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if rotary else 3.0,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    index: dict[str, object] = {
        "_class_name": "CogVideoXPipeline",
        "_diffusers_version": "0.42.0",
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "starring.json").write_text(json.dumps({"sample": SAMPLE | {"frames": 9}}, indent=2))
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
