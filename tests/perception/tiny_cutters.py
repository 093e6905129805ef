"""Tiny random segmenters of the real classes, saved in the real layout with their processors, and a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from tests.tiny import tiny_text_encoder, tiny_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "dog", "cat", "face"]
SAM_SIDE = 64


def photograph(width: int = 150, height: int = 100, mode: str = "RGB") -> Image.Image:
    """A room with a light from the side, a large brown thing and a small one, and a camera's grain."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(90, 170, width)[None, :, None] * np.array([1.0, 0.95, 0.85])
    room = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(room)
    pen.ellipse((width * 0.15, height * 0.25, width * 0.55, height * 0.95), fill=(120, 72, 30))
    pen.ellipse((width * 0.75, height * 0.6, width * 0.9, height * 0.9), fill=(130, 80, 35))
    soft = np.asarray(room.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    return Image.fromarray((soft + rng.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)).convert(mode)


def tiny_detector(folder: Path, seed: int = 0, side: int = 128) -> Path:
    """``GroundingDinoForObjectDetection`` with a Swin and a BERT, for pictures whose short side becomes ``side``."""
    torch.manual_seed(seed)
    swin = SwinConfig(
        image_size=32, embed_dim=16, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    bert = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=24,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bbox_embed" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))  # else all boxes have one size
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    reader = GroundingDinoImageProcessorPil(size={"shortest_edge": side, "longest_edge": 2 * side})
    GroundingDinoProcessor(reader, tokenizer).save_pretrained(folder)
    return folder


def tiny_sam(folder: Path, seed: int = 0, side: int = SAM_SIDE) -> Path:
    """``SamModel`` for pictures whose long side becomes ``side``, in 8 x 8 patches."""
    torch.manual_seed(seed)
    model = SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=side,
                patch_size=side // 8, window_size=4, global_attn_indexes=[1], num_pos_feats=8, mlp_dim=16,
                initializer_range=0.1,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(
                hidden_size=16, image_size=side, patch_size=side // 8, mask_input_channels=4
            ),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
            ),
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    cutter = SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    SamProcessor(cutter).save_pretrained(folder)
    return folder


def tiny_concepts(folder: Path, seed: int = 0) -> Path:
    """``Sam3Model`` for pictures of 56x56; needs torchvision, as the class does."""
    from transformers import CLIPTextConfig, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(32)
    text: Any = tiny_text_encoder(tokenizer).config
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layered = {**small, "num_layers": 1, "intermediate_size": 32}
    model = Sam3Model(
        Sam3Config(
            vision_config={
                "backbone_config": {
                    **small, "model_type": "sam3_vit_model", "intermediate_size": 32, "num_hidden_layers": 2,
                    "image_size": 56, "patch_size": 14, "window_size": 2, "global_attn_indexes": [1],
                    "pretrain_image_size": 28,
                },
                "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            },
            text_config=CLIPTextConfig(**{**text.to_dict(), "projection_dim": 32}),
            geometry_encoder_config=layered, detr_encoder_config=layered,
            detr_decoder_config={**layered, "num_queries": 12}, mask_decoder_config=small,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(folder)
    reader = Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    Sam3Processor(reader, tokenizer).save_pretrained(folder)
    return folder
