"""VCD: Magic-Me, identity-specific video customized diffusion (Ma et al., arXiv 2402.09368).

A subject becomes a few learned word vectors, the *extended ID tokens* (section 4.2). They are trained on photographs
with the motion modules off and with a loss that looks inside the subject's mask only, so that no background is learned.
At inference the words stand in any prompt, on any base model of the family, and the initial noise of neighbouring
frames is correlated, the *3D Gaussian noise prior* (section 4.1).

Legend: ``b`` batch, ``c`` channel, ``f`` frame, ``h w`` latent size, ``n`` vectors, ``d`` text width.
``V1`` to ``V14`` number the places where the paper, the released code and this file differ; docs/methods/vcd.md has the
list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Data, Recipe, Reward, Sample, Stage, Train
from starring.diffusion.noise import white
from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError, unknown
from starring.layers.attach import lend
from starring.methods.base import PLACEHOLDER, Batch, Losses
from starring.methods.words import WORDS_STAGE, Worded, inside, masked_error, timesteps

RARE_WORDS = {"ktn": 42170, "pll": 47629, "ucd</w>": 43514}
"""The entries of CLIP's vocabulary that the released code starts from; the fourth vector starts like the third."""

BETAS = ("linear", "scaled_linear", "backbone")
INITS = ("rare", "class")


@dataclass(frozen=True, kw_only=True, slots=True)
class VCDConfig:
    """The choices inside VCD. Defaults are the released code's, or the paper's where the code does not decide."""

    vectors: int = 4
    """Extended ID tokens (V3: the paper gives no number; the released configuration and files have 4). More than 8 are
    learned by nobody, but embeddings of other programs have up to 75, all that a prompt can hold."""
    init: str = "rare"
    """Where the vectors start: ``rare`` words of the vocabulary (released code) or the ``class`` word."""
    class_word: str = ""
    """The subject's class, such as ``dog``; needed by ``init="class"``."""
    init_seed: int = 0
    """Which rare words are drawn, when the vocabulary lacks those of the released code."""
    betas: str = "linear"
    """Noise schedule of training (V5): ``linear`` (released code), ``scaled_linear`` (Stable Diffusion 1.5's own), or
    ``backbone``, the one that the backbone samples with."""
    offset_noise: float = 0.1
    """Standard deviation of a constant added to each channel's training noise (released code)."""
    legacy_scale: bool = False
    """Sum the squared error over the four channels, as the released code does, instead of averaging it (V4)."""
    vocabulary_shrink: float = 1.0
    """Factor that all other words have shrunk by at the end of training (V6). 1 leaves them alone; the released code
    decays the whole vocabulary, which gives 0.996 after 400 steps."""
    correlation: float = 0.15
    """The noise prior's gamma at inference, 0 for independent noise (V2, section 5.2); the released pipeline defaults
    to 0.05, its ComfyUI node to 0.2."""

    def __post_init__(self) -> None:
        if not 1 <= self.vectors <= 75:
            raise StarringError(f"VCD has 1 to 75 vectors, not {self.vectors}. The released configuration has 4.")
        for kind, name, known in (("VCD schedule", self.betas, BETAS), ("VCD start", self.init, INITS)):
            if name not in known:
                raise unknown(kind, name, known)
        if self.init == "class" and not self.class_word.strip():
            raise StarringError("VCD's init='class' needs a class word. Give one (--class-word dog), or init='rare'.")
        if not self.offset_noise >= 0:
            raise StarringError(f"offset_noise is {self.offset_noise}, but a standard deviation is 0 or more.")
        if not 0 <= self.correlation < 1:
            raise StarringError(f"The noise prior's correlation is {self.correlation}, but it must lie in [0, 1).")
        if not 0 < self.vocabulary_shrink <= 1:
            raise StarringError(f"vocabulary_shrink is {self.vocabulary_shrink}, but it must lie in (0, 1].")


NEGATIVE = (
    "cgi, 3d render, sketch, cartoon, drawing, anime, worst quality, low quality, jpeg artifacts, blurry, cropped,"
    " out of frame, extra limbs, missing limbs, extra fingers, missing fingers, bad anatomy, bad proportions, long neck"
)
"""Style, quality and anatomy terms, after the kinds that the released configuration names."""

PAPER = Recipe(
    method="vcd",
    backbone="animatediff",
    stages=(Stage(name=WORDS_STAGE, train=Train(steps=400, batch=4, learning_rate=1e-3, checkpoint_every=200)),),
    data=Data(size=512, unmasked=0.05),
    sample=Sample(negative=NEGATIVE),
    source="arXiv 2402.09368, section 5.2; steps and data from the released configuration",
)


COMPONENTS: dict[str, dict[str, Any]] = {
    "VCD": {},
    "without masks": {"data": {"masks": False}},
    "one word": {"options": {"vectors": 1}},
    "without the noise prior": {"options": {"correlation": 0.0}},
    "none of these": {"data": {"masks": False}, "options": {"vectors": 1, "correlation": 0.0}},
}
"""Each of the three parts (sections 4.1 and 4.2) left out, and all of them: words of textual inversion."""


def with_steps(recipe: Recipe, steps: int, source: str) -> Recipe:
    """``recipe`` with another number of optimiser steps in its only stage."""
    (stage,) = recipe.stages
    train = replace(stage.train, steps=steps, checkpoint_every=min(stage.train.checkpoint_every, steps))
    return replace(recipe, stages=(replace(stage, train=train),), source=source)


class VCD(Worded):
    """Extended ID tokens: ``n`` word vectors of the text encoder's width, and nothing else."""

    name = "vcd"
    arxiv = "2402.09368"
    title = "Magic-Me: Identity-Specific Video Customized Diffusion"
    config_type = VCDConfig
    embedding = "rows"
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)
    columns = ("identity", "dino_i", "clip_i", "clip_t", "consistency_dino", "motion_top")
    shaping = frozenset({"vectors"})
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "vcd": PAPER,
            "vcd-200": with_steps(PAPER, 200, "arXiv 2402.09368, section 5.2, with the paper's number of steps"),
            "vcd-miniature": replace(
                with_steps(PAPER, 300, "tuned on subjects of the miniature that nothing was trained on"),
                backbone="miniature",
                options={"betas": "backbone"},
                data=Data(size=64, unmasked=0.05, variants=128),
                sample=None,
                reward=Reward(latent="mean"),
            ),
        }
    )

    def __init__(self, backbone: Backbone, config: VCDConfig | None = None) -> None:
        """Copy the starting rows out of the backbone's vocabulary (section 4.2, *Extended ID tokens*)."""
        super().__init__(backbone, config)
        self.rows = nn.Parameter(starting_rows(backbone, self.config).float())

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """The extra words, and nothing else (V11: each ``<*>`` becomes all of them)."""
        return self.spoken(backbone)

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """The rows, in the only stage, ``tokens`` (V6: the rest of the vocabulary is no parameter)."""
        if stage != WORDS_STAGE:
            raise unknown("VCD stage", stage, [WORDS_STAGE])
        return (self.rows,)

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """Eq. 2 inside the subject's mask, on stills: noise, predict with the motion modules off, compare.

        Raises:
            StarringError: if a caption is so long that the extra words in it are cut off.
        """
        x0, process = batch.latents, forward_process(backbone, self.config.betas)
        t = timesteps(batch, process.timesteps)
        noise = offset_noise(x0, self.config.offset_noise, batch.generator)
        xt, target = process.noised(x0, noise, t), process.target(x0, noise, t)
        shrink = self.config.vocabulary_shrink**progress
        with vocabulary_scaled(backbone, shrink), self.attached(backbone), backbone.still():
            text = backbone.encode_text([self.prompt(caption) for caption in batch.captions])
            require_words(backbone, text, batch.captions, len(self.names))
            prediction = self.predict(backbone, xt, t, text)
        scale = self.config.legacy_scale
        each = masked_error(prediction.float(), target.float(), inside(batch).float(), legacy_scale=scale)
        return Losses(total=each.mean(), parts={"masked_error": each.detach().mean()})


def require_words(backbone: Backbone, text: Text, captions: Sequence[str], count: int) -> None:
    """Refuse captions so long that nothing is left of the ``count`` extra words, since nothing would be learned.

    Raises:
        StarringError: with the caption.
    """
    read = (text.ids >= vocabulary(backbone).num_embeddings).sum(1).tolist()
    for caption, found in zip(captions, read, strict=True):
        if PLACEHOLDER in caption and found < count:
            raise StarringError(
                f"The caption '{caption}' is too long: the text encoder does not get as far as {PLACEHOLDER}."
                f" Put {PLACEHOLDER} at its beginning, or shorten it."
            )


def offset_noise(like: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Unit Gaussian noise plus ``strength`` times one Gaussian number for each sample and channel (released code).

    Args:
        like: ``b c f h w``, for shape, device and precision.
        strength: standard deviation of the offset; 0 is plain noise.
        generator: a CPU generator gives the same numbers on every device.

    Returns:
        ``b c f h w``.
    """
    noise = white(like.shape, generator)
    if strength:
        noise = noise + strength * white((*like.shape[:2], 1, 1, 1), generator)
    return noise.to(like)


def forward_process(backbone: Backbone, betas: str) -> Parametrization:
    """The forward process of eq. 1 that training noises with (V5).

    Args:
        backbone: says what its denoiser predicts. A flow model has no betas, so its own process is taken.
        betas: one of ``BETAS``.
    """
    own = backbone.parametrization
    if betas == "linear" and own.kind != "flow":
        return Parametrization.from_betas(own.kind, schedule="linear")
    if betas == "scaled_linear" and own.kind != "flow":
        return Parametrization.from_betas(own.kind, schedule="scaled_linear")
    return own


@contextmanager
def vocabulary_scaled(backbone: Backbone, factor: float) -> Iterator[None]:
    """All words of the frozen vocabulary, but not the extra ones, times ``factor`` inside the context (V6)."""
    if factor == 1:
        yield
        return
    table = vocabulary(backbone)
    with lend(table, {"weight": table.weight.detach() * factor}):
        yield


def vocabulary(backbone: Backbone) -> nn.Embedding:
    """The text encoder's table of words."""
    encoder: Any = backbone.text_encoder
    return encoder.get_input_embeddings()


def starting_rows(backbone: Backbone, config: VCDConfig) -> Tensor:
    """The rows of the vocabulary that the extra words start from, ``n d``, copied.

    Raises:
        StarringError: if the class word has no token.
    """
    tokenizer: Any = backbone.tokenizer
    if config.init == "class":
        ids = list(tokenizer(config.class_word, add_special_tokens=False).input_ids)
        if not ids:
            raise StarringError(f"The class word '{config.class_word}' has no token in {backbone.name}'s vocabulary.")
        chosen = [ids[i % len(ids)] for i in range(config.vectors)]
    else:
        ids = rare_ids(tokenizer, config.init_seed)
        chosen = [ids[min(i, len(ids) - 1)] for i in range(config.vectors)]
    return vocabulary(backbone).weight.detach()[chosen].clone()


def rare_ids(tokenizer: Any, seed: int) -> list[int]:
    """The released code's three rare words, or three seeded ones from the rarest quarter of another vocabulary.

    A vocabulary of merges is ordered by frequency, so its last quarter is its rarest.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if all(vocabulary.get(word) == number for word, number in RARE_WORDS.items()):
        return list(RARE_WORDS.values())
    plain = sorted(set(vocabulary.values()) - set(tokenizer.all_special_ids))
    pool = plain[-max(len(RARE_WORDS), len(plain) // 4) :]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return [pool[i] for i in order[: len(RARE_WORDS)].tolist()]
