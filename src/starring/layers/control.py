"""A ControlNet beside a frozen U-Net (arXiv 2302.05543)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from starring.errors import StarringError


@contextmanager
def controlled(denoiser: nn.Module, network: Any, picture: Tensor, scale: float = 1.0) -> Iterator[None]:
    """Add what a ControlNet says about a picture to every call of a denoiser, as diffusers' pipelines do.

    Frames of a video ``b c f h w`` go through the ControlNet as single pictures. A call for a single picture beside the
    film, such as a reference image in step with it, follows the film's first.

    Args:
        denoiser: a U-Net that takes ``down_block_additional_residuals``.
        network: a diffusers ``ControlNetModel`` made for it.
        picture: what it looks at, ``f 3 H W`` in [0, 1].
        scale: weight of what it says.

    Raises:
        StarringError: if the denoiser takes no such residuals or reads words of another width than the ControlNet, or
            if it is called for another number of frames.
    """
    if "down_block_additional_residuals" not in inspect.signature(denoiser.forward).parameters:
        raise StarringError(
            f"A ControlNet speaks to U-Nets such as AnimateDiff's, and {type(denoiser).__name__} does not listen."
            " Leave --controlnet out, or choose another --backbone."
        )

    def listen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, t, words = args[0], args[1], kwargs["encoder_hidden_states"]
        width = int(network.config.cross_attention_dim)
        if width != words.shape[-1]:
            raise StarringError(
                f"This ControlNet reads words of width {width}, and the backbone's have {words.shape[-1]}. Take one"
                " that was made for the same base."
            )
        if x.shape[2] not in (1, len(picture)):
            raise StarringError(f"The ControlNet is shown {len(picture)} frames, and the film has {x.shape[2]}.")
        frames = x.transpose(1, 2).flatten(0, 1).to(network.dtype)
        seen = picture[: x.shape[2]].to(frames).repeat(x.shape[0], 1, 1, 1)
        with torch.no_grad():
            down, middle = network(
                frames, t, encoder_hidden_states=words.to(network.dtype), controlnet_cond=seen,
                conditioning_scale=scale, return_dict=False,
            )  # fmt: skip
        more = {
            "down_block_additional_residuals": tuple(part.to(x.dtype) for part in down),
            "mid_block_additional_residual": middle.to(x.dtype),
        }
        return args, {**kwargs, **more}

    handle = denoiser.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
