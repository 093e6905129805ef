"""Tiny random eyes of the real classes, saved in the real layout: CLIP, DINO's ViT and CLIPSeg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    ViTConfig,
    ViTModel,
)

from tests.tiny import tiny_tokenizer

SIDE = 32
PATCH = 8
TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION: dict[str, Any] = {**TEXT, "image_size": SIDE, "patch_size": PATCH}


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _settings(folder: Path, **values: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """``CLIPModel`` and ``CLIPTokenizer`` for 32x32 images and 16 tokens."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(16)
    config = CLIPConfig(text_config=_text(tokenizer), vision_config=VISION, projection_dim=16)
    model = CLIPModel(config)
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _settings(folder, size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, resample=3)
    return folder


def tiny_dino(folder: Path, seed: int = 0) -> Path:
    """``ViTModel`` for 32x32 images; the settings are those of the published DINO, which name a square only."""
    torch.manual_seed(seed)
    model = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    _spread(model)
    model.save_pretrained(folder)
    _settings(folder, size=SIDE, resample=2)
    return folder


def tiny_segmenter(folder: Path, seed: int = 0) -> Path:
    """``CLIPSegForImageSegmentation`` for 32x32 images."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(16)
    config = CLIPSegConfig(
        text_config=_text(tokenizer),
        vision_config=VISION,
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    model = CLIPSegForImageSegmentation(config)
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _settings(folder, size={"height": SIDE, "width": SIDE}, resample=2)
    return folder


def tiny_eyes(folder: Path) -> Path:
    """All three below ``folder``, as ``clip``, ``dino`` and ``segmenter``."""
    tiny_clip(folder / "clip")
    tiny_dino(folder / "dino")
    tiny_segmenter(folder / "segmenter")
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than transformers' start, so that different pictures give clearly different vectors."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
