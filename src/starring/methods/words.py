"""What methods share that learn words for a subject (textual inversion, Gal et al., arXiv 2208.01618).

A subject is a few vectors of the text encoder's width. In captions and prompts they stand where ``<*>`` is, and they
are trained on stills by the denoiser's own error.

Legend: ``b`` batch, ``c`` channel, ``f`` frame, ``h w`` latent size, ``n`` vectors, ``d`` text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.layers.tokens import vocabulary_row, words
from starring.methods.base import PLACEHOLDER, Batch, Method

WORDS_STAGE = "tokens"
"""The stage in which words are learned."""
INITS = ("class", "average")
"""Where they may start."""


class Worded(Method):
    """A method with learned words; its options hold ``vectors``, their number, and ``correlation``."""

    rows: nn.Parameter
    """The words' embeddings, ``n d``."""

    @property
    def names(self) -> tuple[str, ...]:
        """The words, ``<new1>`` and on."""
        return tuple(f"<{self.tag}{i + 1}>" for i in range(self.config.vectors))

    @property
    def correlation(self) -> float:
        """Gamma of the noise prior (arXiv 2402.09368, eq. 4) at inference."""
        return self.config.correlation

    def prompt(self, text: str) -> str:
        """``text`` with the words, separated by spaces, in place of ``<*>``."""
        return text.replace(PLACEHOLDER, " ".join(self.names))

    @contextmanager
    def spoken(self, backbone: Backbone) -> Iterator[None]:
        """The frozen text encoder taught the words; its table is neither resized nor written."""
        with words(backbone, self.vocabulary()):
            yield

    def vocabulary(self) -> dict[str, Callable[[], Tensor]]:
        """What each word's embedding is.

        It is looked up whenever a word is read, so that one attachment can last over many optimiser steps.
        """
        return {name: partial(self.rows.__getitem__, i) for i, name in enumerate(self.names)}


def first_rows(backbone: Backbone, config: Any) -> Tensor:
    """The words' first embeddings, ``n d``, by a method's options ``class_word``, ``vectors`` and ``init``.

    Raises:
        StarringError: if they start from a class word that has no token.
    """
    return class_rows(backbone, config.class_word if config.init == "class" else "", config.vectors)


def class_rows(backbone: Backbone, class_word: str, vectors: int) -> Tensor:
    """The words' first embeddings, ``n d``: the pieces of the class word in turn, or without one the average word.

    Where there are more pieces than words, each word starts from the mean of its part of them.

    Raises:
        StarringError: if the class word has no token.
    """
    encoder: Any = backbone.text_encoder
    if not class_word.strip():
        mean = encoder.get_input_embeddings().weight.detach().float().mean(0)
        return mean.expand(vectors, -1).clone()
    ids = list(backbone.tokenizer(class_word, add_special_tokens=False).input_ids)
    if not ids:
        raise StarringError(f"The class word '{class_word}' has no token in {backbone.name}'s vocabulary.")
    pieces = torch.stack([vocabulary_row(backbone, each) for each in ids])
    if len(ids) > vectors:
        return torch.stack([part.mean(0) for part in pieces.tensor_split(vectors)])
    return pieces[torch.arange(vectors) % len(ids)]


def timesteps(batch: Batch, count: int) -> Tensor:
    """A uniform timestep below ``count`` for each sample, ``b``, from the batch's generator, on the latents' device."""
    device: Any = "cpu" if batch.generator is None else batch.generator.device
    return torch.randint(count, (len(batch.latents),), generator=batch.generator, device=device).to(
        batch.latents.device
    )


def inside(batch: Batch) -> Tensor:
    """Where the subject is, ``b 1 f h w``: everywhere, if the batch has no masks."""
    return torch.ones_like(batch.latents[:, :1]) if batch.masks is None else batch.masks


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor, *, legacy_scale: bool = False) -> Tensor:
    """The squared error inside the subject, divided by the subject's area (VCD, arXiv 2402.09368, section 4.2).

    Every photograph counts the same, however small its subject. The error is averaged over channels, or summed with
    ``legacy_scale`` (V4), which is what the broadcasting of VCD's released code comes to.

    Args:
        prediction: ``b c f h w``.
        target: ``b c f h w``.
        mask: ``b 1 f h w`` in [0, 1]; a sample with an empty mask gives zero.
        legacy_scale: sum over channels.

    Returns:
        One number for each sample, ``b``.
    """
    error = (prediction - target).square().mul(mask).sum((1, 2, 3, 4))
    each = error / mask.sum((1, 2, 3, 4)).clamp_min(1e-6)
    return each if legacy_scale else each / prediction.shape[1]
