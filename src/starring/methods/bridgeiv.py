"""BridgeIV: customized video at test time by propagating identity (Hu et al., arXiv 2505.06985).

Stage 1, *customization* (section 3): textual inversion and DreamBooth on photographs, with the motion modules off.
Stage 2, *STPM* (section 4.1): an image of the subject and the film are denoised in step, under one prompt; structure
and texture of the image are carried into the film's attention. ``layers/propagation.py`` has its equations.

Legend: ``b`` batch, ``c`` channel, ``f`` frame, ``h w`` latent size, ``d`` text width. ``B1`` to ``B21`` number the
places where the paper can be read in two ways; docs/methods/bridgeiv.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Data, Recipe, Reward, Sample, Stage, Train
from starring.diffusion.inversion import inverted, replayed
from starring.diffusion.noise import white
from starring.diffusion.sampling import Step, begins, first_step, trajectory
from starring.errors import StarringError, unknown
from starring.layers.attach import branch, lend
from starring.layers.branches import LowRank
from starring.layers.propagation import STPM, Propagation
from starring.layers.tokens import places
from starring.methods.base import PLACEHOLDER, Batch, Losses, Request, initial_noise, read
from starring.methods.words import INITS, WORDS_STAGE, Worded, first_rows, inside, masked_error, timesteps

DREAMBOOTHS = ("lowrank", "full", "none")
REFERENCES = ("own", "shared")
WORDS = ("subject", "class")


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeIVConfig(STPM):
    """The choices inside BridgeIV: those of customization, then those of :class:`STPM`."""

    class_word: str = ""
    """What the subject is, such as ``dog``."""
    vectors: int = 1
    """Learned words, 1 to 8; each has its own column in cross-attention (B6)."""
    init: str = "class"
    """Where they start: from the ``class`` word (arXiv 2208.01618, section 4), or from the ``average`` of the
    vocabulary."""
    dreambooth: str = "lowrank"
    """What DreamBooth trains: a ``lowrank`` change of the attention layers, the ``full`` image model as in the paper
    (3.4 GB a run on Stable Diffusion 1.5), or ``none``, which leaves the words alone."""
    rank: int = 32
    """Inner width of the low-rank change; the paper has none."""
    joint: bool = False
    """Train the words on during DreamBooth."""
    prior_weight: float = 1.0
    """Weight of the loss on pictures of the class (arXiv 2208.12242, eq. 2)."""
    reference: str = "own"
    """The reference image starts from its ``own`` noise, or from noise ``shared`` with the first frame (B17). Where a
    photograph is given with the request, it is inverted instead."""
    words: str = "subject"
    """Whose columns are propagated: the ``subject``'s learned words, or those and the ``class`` word (B6)."""
    correlation: float = 0.0
    """Gamma of the noise prior (arXiv 2402.09368, eq. 4) at inference; the paper has none."""

    def __post_init__(self) -> None:
        STPM.__post_init__(self)
        for kind, name, known in (
            ("DreamBooth", self.dreambooth, DREAMBOOTHS),
            ("reference", self.reference, REFERENCES),
            ("choice of words", self.words, WORDS),
            ("start of words", self.init, INITS),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        if not 1 <= self.vectors <= 8:
            raise StarringError(f"BridgeIV learns 1 to 8 words, not {self.vectors}. Textual inversion has 1.")
        if self.words == "class" and not self.class_word.strip():
            raise StarringError("BridgeIV's words='class' needs a class word. Give one, or words='subject'.")
        if self.prior_weight < 0:
            raise StarringError(f"prior_weight is {self.prior_weight}, but it cannot be negative.")
        if not 0 <= self.correlation < 1:
            raise StarringError(f"The noise prior's correlation is {self.correlation}, but it must lie in [0, 1).")


VIEWS = (
    "photo of", "picture of", "snapshot of", "clear photo of", "close photo of", "bright picture of",
    "dim picture of", "detailed image of", "plain image of",
)  # fmt: skip
TEMPLATES = tuple(f"{view} {which} <*> {{class_word}}" for view in VIEWS for which in ("a", "the", "this"))
"""The 27 captions of textual inversion, in words of our own (section 3; arXiv 2208.01618 has 27 of its own)."""
PLAIN_VIEWS = ("", "photo of ", "a photo of ", "a picture of ", "an image of ", "a view of ", "a film of ")
"""The same for a text encoder of few words."""

PAPER = Recipe(
    method="bridgeiv",
    backbone="animatediff",
    stages=(
        Stage(name=WORDS_STAGE, train=Train(steps=1000, batch=4, learning_rate=5e-4, checkpoint_every=200)),
        Stage(
            name="dreambooth",
            train=Train(steps=800, batch=2, learning_rate=1e-4, checkpoint_every=200),
            class_images=200,
        ),
    ),
    data=Data(size=512, masks=False, unmasked=0.0, augment=False, variants=64, templates=TEMPLATES),
    sample=Sample(steps=50, guidance=7.5),
    source="arXiv 2505.06985, section 3, names the stages and gives no numbers; these are usual ones for SD 1.5",
)


def staged(recipe: Recipe, tokens: Train, dreambooth: Train, class_images: int) -> tuple[Stage, ...]:
    """The two stages of ``recipe`` with other numbers."""
    first, second = recipe.stages
    return replace(first, train=tokens), replace(second, train=dreambooth, class_images=class_images)


RECIPES = {
    "bridgeiv": PAPER,
    "bridgeiv-full": replace(
        PAPER,
        options={"dreambooth": "full"},
        stages=staged(PAPER, PAPER.stages[0].train, replace(PAPER.stages[1].train, learning_rate=5e-6), 200),
        source="arXiv 2505.06985, section 3, with the image model's own weights; DreamBooth's learning rate",
    ),
    "bridgeiv-miniature": replace(
        PAPER,
        backbone="miniature",
        # Its images are no better than its films, so one that resembles the film does least harm.
        options={"rank": 16, "reference": "shared"},
        stages=staged(
            PAPER, Train(steps=120, batch=4, learning_rate=1e-2), Train(steps=300, batch=2, learning_rate=2e-3), 16
        ),
        data=replace(PAPER.data, size=64, templates=tuple(f"{view}a <*> {{class_word}}" for view in PLAIN_VIEWS)),
        sample=None,
        # Its stills miss the subject now and then, and a latent reward that weighs sixteen times more follows them.
        reward=Reward(latent="mean"),
        source="tuned on subjects of the miniature that nothing was trained on: two minutes on one core",
    ),
}


COMPONENTS: dict[str, dict[str, Any]] = {
    "TI + DreamBooth": {"options": {"structure": False, "texture": False}},
    "SPM": {"options": {"structure": True, "texture": False}},
    "TPM": {"options": {"structure": False, "texture": True}},
    "SPM + TPM": {"options": {"structure": True, "texture": True}},
    "SPM + TPM + reward": {"options": {"structure": True, "texture": True}, "reward": True},
}
"""The rows of Table 2."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bridged:
    """A film and the image it was made beside."""

    film: Tensor
    """Clean latents, ``1 c f h w``."""
    reference: Tensor
    """Clean latents of the reference image, ``1 c 1 h w``; of a photograph, its own."""


class BridgeIV(Worded):
    """Learned words, a customized image model, and a film that is bridged to an image of the subject."""

    name = "bridgeiv"
    arxiv = "2505.06985"
    title = (
        "BridgeIV: Bridging Customized Image and Video Generation through Test-Time Autoregressive Identity Propagation"
    )
    config_type = BridgeIVConfig
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(RECIPES)
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)

    def __init__(self, backbone: Backbone, config: BridgeIVConfig | None = None) -> None:
        """First words, and a change of the image model that does nothing."""
        super().__init__(backbone, config)
        self.rows = nn.Parameter(first_rows(backbone, self.config))
        self.change = nn.ModuleDict()
        self.weights = nn.ParameterDict()
        if self.config.dreambooth == "lowrank":
            for name, linear in projections(backbone).items():
                self.change[_key(name)] = LowRank.beside(linear, self.config.rank)
        elif self.config.dreambooth == "full":
            for name, own in backbone.image_weights().items():
                self.weights[_key(name)] = nn.Parameter(own.detach().float().clone())

    @property
    def referenced(self) -> bool:
        """Whether anything is propagated from the reference image."""
        return self.config.structure or self.config.texture

    # --- stage 1: customization -----------------------------------------------------------------------------------

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """The words in the text encoder; the low-rank change beside attention, or other weights in the image model."""
        with ExitStack() as stack:
            stack.enter_context(self.spoken(backbone))
            if self.change:
                for name, linear in projections(backbone).items():
                    stack.enter_context(branch(linear, partial(_beside, self.change[_key(name)])))
            if self.weights:
                place, weights = backbone.device, backbone.image_weights()  # offloaded ones are somewhere else
                lent = {name: self.weights[_key(name)].to(place, own.dtype) for name, own in weights.items()}
                stack.enter_context(lend(backbone.denoiser, lent))
            yield

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """``tokens`` trains the words (textual inversion), ``dreambooth`` the image model, ``joint`` also the words.

        Raises:
            StarringError: for another stage.
        """
        if stage == WORDS_STAGE:
            return (self.rows,)
        if stage == "dreambooth":
            own = (*self.change.parameters(), *self.weights.parameters())
            return (self.rows, *own) if self.config.joint else own
        raise unknown("BridgeIV stage", stage, [WORDS_STAGE, "dreambooth"])

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """Eq. 1, squared (B18), on stills; with pictures of the class, their loss beside it (prior preservation)."""
        with self.attached(backbone), backbone.still():
            subject = self._error(backbone, batch)
            if batch.prior is None:
                return Losses(total=subject, parts={"subject": subject.detach()})
            prior = self._error(backbone, batch.prior)
        total = subject + self.config.prior_weight * prior
        return Losses(total=total, parts={"subject": subject.detach(), "prior": prior.detach()})

    def _error(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The denoiser's squared error at random timesteps, averaged; inside the masks, where there are any."""
        x0, process = batch.latents, backbone.parametrization
        t, noise = timesteps(batch, process.timesteps), white(x0.shape, batch.generator).to(x0)
        text = backbone.encode_text([self.prompt(caption) for caption in batch.captions])
        prediction = self.predict(backbone, process.noised(x0, noise, t), t, text)
        target = process.target(x0, noise, t)
        return masked_error(prediction.float(), target.float(), inside(batch).float()).mean()

    # --- stage 2: structure and texture propagation ---------------------------------------------------------------

    def generate(self, backbone: Backbone, request: Request) -> Tensor:
        """The film of stage 2, ``1 c f h w``; with SPM and TPM both off, that of the customized model alone.

        Raises:
            StarringError: if the prompt does not name the subject.
        """
        if not self.referenced:
            return super().generate(backbone, request)
        made = self.bridged(backbone, request)
        if request.on_reference is not None:
            request.on_reference(made.reference)
        return made.film

    def bridged(self, backbone: Backbone, request: Request) -> Bridged:
        """The film, and the reference image beside which it was denoised, under the same prompt and schedule.

        The film's noise is what any other method would start from under the same seed; the image's does not disturb it.
        A film that starts from a clip (``request.init``) joins the image at the same step of the schedule.

        Raises:
            StarringError: if the prompt does not name the subject.
        """
        with self.attached(backbone), torch.no_grad():
            noise, text = initial_noise(backbone, request, self.correlation), read(self, backbone, request)
            s, init = request.sample, None if request.init is None else request.init.to(noise)
            stpm = self.propagation(backbone, text, (noise.shape[2], noise.shape[3], noise.shape[4]), request)

            def film(x: Tensor, t: Tensor) -> Tensor:
                with stpm.bridged():
                    return self.predict(backbone, x, t, text, request)

            start = 0 if init is None else first_step(request.strength, s.steps)
            frames = trajectory(
                film, backbone.scheduler(), noise, s.steps, s.guidance, start, init, request.generator
            )  # fmt: skip
            x, image, first = noise if init is None else init, None, begins(backbone.scheduler(), s.steps, start)
            for image in self._image(backbone, request, stpm, text, noise):
                if image.index < first:
                    continue
                stpm.step = image.index
                x = next(frames).x
                if request.on_step is not None:
                    request.on_step(image.index + 1, image.total)
            assert image is not None
            return Bridged(film=x, reference=image.x if request.reference is None else request.reference.to(x))

    def propagation(self, backbone: Backbone, text: Text, size: tuple[int, int, int], request: Request) -> Propagation:
        """What ties film and image together, for a film of so many frames, height and width in latents.

        Raises:
            StarringError: if the prompt does not name the subject, or the backbone has no such layers.
        """
        phrases = [*self.names, self.config.class_word] if self.config.words == "class" else self.names
        ids: list[int] = text.ids[-1].tolist()
        if not places(backbone.tokenizer, ids, self.names):
            raise StarringError(
                f"The prompt '{request.prompt}' does not name the subject, whose structure and texture are propagated."
                f" Put {PLACEHOLDER} where it goes, near the front if the prompt is long."
            )
        levels, enlarged = list(backbone.sites("decoder").values()), list(backbone.sites("upsampler").values())
        taps = {"level": levels[-2:-1], "enlarged": enlarged[-1:], "two": enlarged[-2:]}[self.config.features]
        columns = places(backbone.tokenizer, ids, phrases)
        return Propagation(self.config, backbone.sites("cross"), backbone.sites("spatial"), taps, columns, size)

    def _image(
        self, backbone: Backbone, request: Request, stpm: Propagation, text: Text, noise: Tensor
    ) -> Iterator[Step]:
        """The reference image, step by step: drawn from noise, or a photograph's way from noise (B17)."""
        sample = request.sample

        def image(x: Tensor, t: Tensor) -> Tensor:
            with backbone.still(), stpm.watched():
                return self.predict(backbone, x, t, text, request)

        def alone(x: Tensor, t: Tensor) -> Tensor:
            with backbone.still():
                return self.predict(backbone, x, t, text[-1:], request)

        if request.reference is not None:
            photograph = request.reference.to(noise)
            latents = inverted(alone, backbone.scheduler(), photograph, sample.steps)
            return replayed(image, backbone.scheduler(), latents, sample.steps, sample.guidance)
        own = aside(request.generator)
        begin = noise[:, :, :1] if self.config.reference == "shared" else white(noise[:, :, :1].shape, own).to(noise)
        return trajectory(image, backbone.scheduler(), begin, sample.steps, sample.guidance, generator=own)


def projections(backbone: Backbone) -> dict[str, nn.Linear]:
    """The linear maps of all attention within frames and to the text, by name."""
    sites: dict[str, Any] = {**backbone.sites("spatial"), **backbone.sites("cross")}
    found: dict[str, nn.Linear] = {}
    for name, site in sites.items():
        found |= {f"{name}.{part}": getattr(site, part) for part in ("to_q", "to_k", "to_v")}
        found[f"{name}.to_out"] = site.to_out[0]
    return found


def aside(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator of its own that follows from another one's state, and leaves that one where it is."""
    if generator is None:
        return None
    seed = torch.randint(2**62, (), generator=generator.clone_state(), device=generator.device)
    return torch.Generator(device=generator.device).manual_seed(int(seed))


def _beside(low_rank: nn.Module, out: Tensor, x: Tensor) -> Tensor:
    return out + low_rank(x)


def _key(name: str) -> str:
    """A parameter's name where dots mean something else."""
    return name.replace(".", "/")
