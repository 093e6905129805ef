"""The second miniature's networks: the classes CogVideoX is made of at small size, with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from starring.miniature.captions import corpus
from starring.miniature.words import CONTEXT
from starring.miniature.world import SIZE

FRAMES = 17
"""Frames of a film: the VAE decodes 8 N + 1 only."""
TEXT_WIDTH = 128
LEVELS = (32, 48, 64)
"""Channels of the VAE's levels: those of the first miniature's VAE, whose weights it starts from."""
LATENT_CHANNELS = 8
SPREAD = (1.0,) * 4 + (0.25,) * 4
"""Deviation of each latent channel. In the last four, noise of unit deviation changes a film's pixels a hundred times
less than in the others; were they as large, most of what a transformer learns would be details that nobody sees."""
WIDTH, HEADS, LAYERS, TIME_WIDTH = 192, 6, 8, 64
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()-_<>*/&+"


@cache
def tokenizer() -> T5Tokenizer:
    """A real T5 tokenizer (unigram) in which every word of the world is one piece, at the start of a prompt too.

    Other words fall apart into letters.
    """
    words = corpus()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(f"▁{word}", -4.0) for word in (*words, *(word.capitalize() for word in words))]
    pieces += [(letter, -12.0) for letter in LETTERS]
    return T5Tokenizer(vocab=list(dict(pieces).items()), extra_ids=0, model_max_length=CONTEXT)


def encode(texts: list[str]) -> list[list[int]]:
    """Token ids of captions, each cut or padded to the first miniature's context length."""
    return tokenizer()(texts, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]  # pyright: ignore


def vae() -> AutoencoderKLCogVideoX:
    """Video VAE, 4 in time and 4 in space: b 3 17 64 64 in [-1, 1] to b 8 5 16 16."""
    # diffusers declares its tuples with a single member.
    levels: dict[str, Any] = {
        "block_out_channels": LEVELS,
        "down_block_types": ("CogVideoXDownBlock3D",) * 3,
        "up_block_types": ("CogVideoXUpBlock3D",) * 3,
    }
    return AutoencoderKLCogVideoX(
        **levels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=SIZE,
        sample_width=SIZE,
        scaling_factor=1.0,
    )


def text_encoder() -> T5EncoderModel:
    """The text tower that conditions the transformer."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer()),
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=2 * TEXT_WIDTH,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def transformer() -> CogVideoXTransformer3DModel:
    """3D rotary positions and patches of 2, as in CogVideoX-5B: 64 tokens for a latent frame of 16 x 16.

    What modulates the blocks starts at zero (arXiv 2212.09748, adaLN-Zero), so each begins as the identity.
    """
    net = CogVideoXTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=TIME_WIDTH,
        text_embed_dim=TEXT_WIDTH,
        num_layers=LAYERS,
        sample_width=SIZE // 4,
        sample_height=SIZE // 4,
        sample_frames=FRAMES,
        max_text_seq_length=CONTEXT,
        use_rotary_positional_embeddings=True,
    )
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("norm1.linear", "norm2.linear", "norm_out.linear")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    return net


def scheduler() -> CogVideoXDDIMScheduler:
    """CogVideoX-5B's schedule: v-prediction down to zero signal, steps spaced from the noisy end."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    )


def inflated(flat: AutoencoderKL, deep: AutoencoderKLCogVideoX) -> AutoencoderKLCogVideoX:
    """A video VAE that begins as an image VAE: each kernel lies at the last moment of the causal one.

    A still then passes as through the image VAE (but for its rim, where a bias of ``post_quant_conv`` met padding).
    Latent channels beyond the image VAE's start small in the encoder and unread in the decoder.

    Args:
        flat: an image VAE with as many levels, layers and channels and without attention.
        deep: the video VAE, changed in place.
    """
    found = _folded(flat)
    state = deep.state_dict()
    for name, value in state.items():
        source = found.get(_flat_name(name))
        if source is None:
            if not name.endswith(
                (".conv_y.conv.weight", ".conv_b.conv.weight", ".conv_y.conv.bias", ".conv_b.conv.bias")
            ):
                raise KeyError(f"{name} has no counterpart in the image VAE.")
            value.fill_(1.0 if name.endswith(".conv_y.conv.bias") else 0.0)
        elif name.startswith("encoder.conv_out") or name == "decoder.conv_in.conv.weight":
            _widened(name, value, source, int(flat.config["latent_channels"]))
        elif value.ndim == 5:
            value.zero_()
            value[:, :, -1] = source
        else:
            value.copy_(source)
    deep.load_state_dict(state)
    return deep


def balanced(net: AutoencoderKLCogVideoX, std: Tensor, spread: Sequence[float] = SPREAD) -> AutoencoderKLCogVideoX:
    """The same VAE with latent channels of deviation ``spread``; decoded films do not change.

    Args:
        net: the VAE, changed in place.
        std: deviation that each latent channel has, ``(c,)``.
        spread: the one that it shall have.
    """
    std = std / torch.tensor(spread)
    state, channels = net.state_dict(), len(std)
    for name, value in state.items():
        if name.startswith("encoder.conv_out."):
            value[:channels] /= std.view(-1, *[1] * (value.ndim - 1))
            if value.ndim == 1:
                value[channels:] -= 2 * std.log()
        elif name.endswith((".conv_y.conv.weight", ".conv_b.conv.weight")) or name == "decoder.conv_in.conv.weight":
            value *= std.view(1, -1, 1, 1, 1)
    net.load_state_dict(state)
    return net


def _folded(flat: AutoencoderKL) -> Mapping[str, Tensor]:
    """The image VAE's tensors, with the 1 x 1 convolutions around its latents made part of their neighbours."""
    state = {name: value.clone() for name, value in flat.state_dict().items()}
    after, before = state.pop("quant_conv.weight", None), state.pop("post_quant_conv.weight", None)
    if after is not None:
        matrix = after[:, :, 0, 0]
        state["encoder.conv_out.weight"] = torch.einsum("oi,ichw->ochw", matrix, state["encoder.conv_out.weight"])
        state["encoder.conv_out.bias"] = matrix @ state["encoder.conv_out.bias"] + state.pop("quant_conv.bias")
    if before is not None:
        kernel = state["decoder.conv_in.weight"]
        state["decoder.conv_in.weight"] = torch.einsum("oihw,ic->ochw", kernel, before[:, :, 0, 0])
        state["decoder.conv_in.bias"] += kernel.sum((2, 3)) @ state.pop("post_quant_conv.bias")
    return state


def _flat_name(name: str) -> str:
    """What a tensor of the video VAE is called in the image VAE; a name it has not, where there is no such tensor."""
    name = name.replace("norm_layer.", "").replace("coder.norm_out.", "coder.conv_norm_out.")
    for conv in ("conv_in", "conv_out", "conv1", "conv2"):
        name = name.replace(f".{conv}.conv.", f".{conv}.")
    return name


def _widened(name: str, value: Tensor, source: Tensor, known: int) -> None:
    """Put a tensor that touches the latents into one of more latent channels, of which the first are the known ones."""
    more = LATENT_CHANNELS
    if name.startswith("decoder"):
        value.zero_()
        value[:, :known, -1] = source
        return
    value.zero_()
    rows = [*range(known), *range(more, more + known)]  # means, then logarithms of variances
    if value.ndim == 1:
        value[rows] = source
        value[more + known :] = -6.0
        return
    value[rows, :, -1] = source
    spread = float(source[:known].std())
    value[known:more] = torch.randn(value[known:more].shape, generator=torch.Generator().manual_seed(0)) * spread / 2
