"""CustomVideoX: zero-shot customization from one photograph (She et al., arXiv 2502.06527).

The photograph's latents stand beside the film's in every joint attention (eq. 4, 5), changed there by low-rank
adapters, which are all that is trained, once and for all subjects. How much the film sees of them follows a bias over
time (TAB, eq. 6 and 7) and where the entity appears (ERAE, eq. 8). ``layers/reference.py`` has the attention.

Legend: ``b`` batch, ``c`` channel, ``f`` latent frame, ``r`` reference pictures, ``h w`` latent size. ``C1`` to ``C22``
number the places where the paper can be read in two ways; docs/methods/customvideox.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import PLACES, Backbone, Reference, Text
from starring.config import Data, Recipe, Sample, Stage, Train
from starring.data.prompts import mentioned
from starring.errors import StarringError, unknown
from starring.layers.attach import swap
from starring.layers.branches import LowRank
from starring.layers.reference import FORMS, MAPS, ReferenceAttention, View
from starring.layers.tokens import tokens_of
from starring.methods.base import PLACEHOLDER, Batch, Losses, Method, Request, draw
from starring.methods.words import inside, masked_error


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomVideoXConfig:
    """The choices inside CustomVideoX."""

    rank: int = 128
    """Inner width of the low-rank changes (appendix B)."""
    form: str = "joint"
    """``joint``: film and reference attend to each other in every step (eq. 4). ``cached``: the reference attends to
    itself alone, once, and its keys and values serve all steps (Algorithm 1). Training and filming must agree (C10)."""
    place: str = "width"
    """Where the reference's rotary positions lie beside the film's (eq. 5, C13)."""
    clean_time: bool = True
    """Modulate reference tokens as at timestep 0, or, if false, as the film's (C12)."""
    adapted: bool = True
    """Let the low-rank changes act at all. Without, the reference is one more frame to a model that never saw any: the
    naive way, for comparison."""
    everywhere: bool = False
    """Let the low-rank changes act on all tokens, and not on the reference's alone (C11)."""
    tab: bool = True
    """Time-aware attention bias (section 4.2)."""
    tab_gamma: float = 10.0
    """gamma of M(t) = -gamma (2 t / T - 1)^2 + epsilon (eq. 6)."""
    tab_epsilon: float = 0.1
    """epsilon of M(t) (C22)."""
    tab_squash: str = "tanh"
    """``tanh``, which keeps the bias in (-1, 1), or ``none``, which switches the reference off at both ends (C3)."""
    tab_scale: float = 1.0
    """Factor of the squashed bias (C3)."""
    tab_flipped: bool = False
    """Strongest at both ends and weakest in the middle (C2)."""
    tab_queries: str = "video"
    """Whose attention to the reference is biased: that of ``video`` tokens, or of ``all`` (C5)."""
    erae: bool = True
    """Entity region-aware enhancement (section 4.3); it needs the entity's word."""
    erae_threshold: float = 0.1
    """lambda of eq. 8."""
    erae_boost: float = 0.1
    """beta_1 of eq. 8."""
    erae_map: str = "minmax"
    """What is held against lambda (C7); see :attr:`starring.layers.reference.View.map`."""
    product: bool = False
    """The time-aware bias inside the entity's region and none outside, instead of the sum of both biases (C9)."""
    bias_in_training: bool = False
    """Bias the attention in training too (C6)."""
    text_dropout: float = 0.1
    """Share of captions left out in training (C18)."""
    reference_dropout: float = 0.1
    """Share of references replaced by empty latents in training (C18)."""
    guided: str = "both"
    """Which branch of guidance sees the reference: ``both``, or only the ``positive`` one, where the other sees empty
    latents (C18)."""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("form", self.form, FORMS),
            ("place for a reference", self.place, PLACES),
            ("squashing of the time-aware bias", self.tab_squash, ("tanh", "none")),
            ("queries of the time-aware bias", self.tab_queries, ("video", "all")),
            ("map of the entity", self.erae_map, MAPS),
            ("guided branch", self.guided, ("both", "positive")),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if self.rank < 1:
            raise StarringError(f"CustomVideoX needs a rank of at least 1, not {self.rank}. The paper has 128.")
        for name in ("text_dropout", "reference_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise StarringError(f"{name} is {getattr(self, name)}, but it is a share in [0, 1).")
        if self.product and not (self.tab and self.erae):
            raise StarringError("product=True multiplies the two biases, so it needs tab and erae.")
        if self.form == "cached" and not self.clean_time:
            raise StarringError(
                "A reference that is read once for all steps has the timestep of none. Choose clean_time=True, or"
                " form='joint'."
            )


STAGE = "adapter"
"""The one stage."""
PAPER = Recipe(
    method="customvideox",
    backbone="cogvideox-5b",
    stages=(
        Stage(
            name=STAGE,
            train=Train(
                steps=10_000, batch=1, accumulate=2, learning_rate=1e-5, weight_decay=1e-2, precision="bf16",
                checkpoint_every=500,
            ),
        ),
    ),
    data=Data(masks=False, unmasked=0.0, augment=False, flip=False, fit="crop", pace="film"),
    sample=Sample(frames=25, height=480, width=720, steps=50, guidance=6.0, fps=8),
    source="arXiv 2502.06527, section 6.1 and appendix B; guidance is CogVideoX's own (C18); 16 GPUs there",
)  # fmt: skip
RECIPES = {
    "customvideox": PAPER,
    "customvideox-miniature": replace(
        PAPER,
        backbone="miniature-dit",
        options={"rank": 64},
        stages=(
            replace(
                PAPER.stages[0],
                train=replace(
                    PAPER.stages[0].train, steps=2000, batch=8, accumulate=1, learning_rate=1e-3, warmup=100,
                    schedule="cosine", precision="no",
                ),
            ),
        ),
        sample=None,
        source="the paper's recipe at the miniature's size: rank, steps and rate are ours; not measured yet",
    ),
}  # fmt: skip
COMPONENTS: dict[str, dict[str, Any]] = {
    "3D reference attention": {"options": {"tab": False, "erae": False, "product": False}},
    "with TAB": {"options": {"tab": True, "erae": False, "product": False}},
    "with ERAE": {"options": {"tab": False, "erae": True, "product": False}},
    "CustomVideoX": {"options": {"tab": True, "erae": True}},
    "naive injection": {
        "options": {
            "tab": False,
            "erae": False,
            "product": False,
            "form": "joint",
            "adapted": False,
            "place": "none",
            "clean_time": False,
        }
    },
}
"""The rows of the paper's component table: the reference as a plain frame on the film's first one (no component there),
3D reference attention, TAB with it, and all three. ERAE without TAB is ours."""


class CustomVideoX(Method):
    """A film beside a photograph of its subject, without any training for that subject."""

    name = "customvideox"
    arxiv = "2502.06527"
    title = (
        "CustomVideoX: 3D Reference Attention Driven Dynamic Adaptation for Zero-Shot Customized Video Diffusion"
        " Transformers"
    )
    state = "experimental: no film of a trained adapter has been measured yet"
    config_type = CustomVideoXConfig
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(RECIPES)
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)
    binding = frozenset({"form", "place", "clean_time", "everywhere"})
    paired = True

    def __init__(self, backbone: Backbone, config: CustomVideoXConfig | None = None) -> None:
        """Fresh adapters, which change nothing.

        Raises:
            StarringError: if the backbone is no transformer over text and video, or its positions are not rotary.
        """
        super().__init__(backbone, config)
        self.adapters = nn.ModuleDict()
        sites = backbone.sites("joint")
        backbone.require_reference()
        for name, site in sites.items():
            found: Any = site
            layers = {"to_q": found.to_q, "to_k": found.to_k, "to_v": found.to_v, "to_out": found.to_out[0]}
            # A dot would nest in the state dict.
            self.adapters[name.replace(".", "__")] = nn.ModuleDict(
                {which: LowRank.beside(layer, self.config.rank) for which, layer in layers.items()}
            )
        self._view = View()
        self._read_for: tuple[Tensor, int] | None = None
        self._attached: list[ReferenceAttention] = []

    @property
    def referenced(self) -> bool:
        """Always: that is the method."""
        return True

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Every joint attention layer attends to the reference of the present call."""

        def make(name: str, _: nn.Module, previous: Any) -> ReferenceAttention:
            own: Any = self.adapters[name.replace(".", "__")] if self.config.adapted else {}
            made = ReferenceAttention({which: own[which] for which in own}, lambda: self._view, previous)
            self._attached.append(made)
            return made

        try:
            with swap(backbone.sites("joint"), make):
                yield
        finally:
            self._view, self._read_for = View(), None
            self._attached.clear()

    def prompt(self, text: str) -> str:
        """``text`` without the placeholder: the subject is named by its own word."""
        return " ".join(text.replace(PLACEHOLDER, " ").split())

    def predict(self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, request: Request | None = None) -> Tensor:
        """One call of the denoiser beside ``request.reference``; without one it is the plain denoiser's.

        Raises:
            StarringError: if the entity is not in the prompt.
        """
        reference = request.reference if request is not None else None
        if request is None or reference is None:
            self._view = View()
            return backbone.predict(x, t, text)
        entity = None
        if self.config.erae and request.entity:
            negative = request.sample.negative if request.negative is None else request.negative
            prompts = [*[negative] * (len(text) - 1), self.prompt(request.prompt)]
            # What a negative prompt names is not to be shown.
            entities = [*[""] * (len(text) - 1), request.entity]
            entity = self._entity(backbone, text, prompts, entities)
            if entity is None:
                raise _unnamed(prompts[-1], request.entity)
        if self.config.guided == "positive" and len(text) > 1:
            reference = torch.cat([torch.zeros_like(reference), reference])
        return self._beside(backbone, x, t, text, reference, entity, biased=True)

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """Squared error of the prediction on video tokens, beside clean references (section 6.1), where no bars are.

        Raises:
            StarringError: if the batch has no references.
        """
        if batch.references is None:
            raise StarringError("CustomVideoX learns from pairs of a picture and a clip, and got clips alone.")
        x0, generator = batch.latents.float(), batch.generator
        place: Any = generator.device if generator is not None else x0.device
        noise = torch.randn(x0.shape, generator=generator, device=place).to(x0)
        t = torch.randint(backbone.parametrization.timesteps, (len(x0),), generator=generator, device=place)
        dropped = torch.rand(2, len(x0), generator=generator, device=place)
        t = t.to(x0.device)
        captions = [
            "" if gone < self.config.text_dropout else self.prompt(caption)
            for caption, gone in zip(batch.captions, dropped[0].tolist(), strict=True)
        ]
        kept = (dropped[1] >= self.config.reference_dropout).to(batch.references).view(-1, 1, 1, 1, 1)
        noisy, target = backbone.parametrization.noised(x0, noise, t), backbone.parametrization.target(x0, noise, t)
        text = backbone.encode_text(captions)
        biased, entity = self.config.bias_in_training, None
        if biased and self.config.erae and batch.entities is not None:
            entity = self._entity(backbone, text, captions, batch.entities)
        with self.attached(backbone):
            self._read_for = None
            out = self._beside(backbone, noisy, t, text, batch.references * kept, entity, biased)
        error = masked_error(out, target, inside(batch).to(out)).mean()
        return Losses(total=error, parts={"error": error.detach()})

    def generate(self, backbone: Backbone, request: Request) -> Tensor:
        """Latents ``1 c f h w`` of one film beside ``request.reference``.

        Raises:
            StarringError: if there is no reference, or the entity is not in the prompt.
        """
        if request.reference is None:
            raise StarringError("CustomVideoX films beside a photograph of the subject. Give one with --reference.")
        with self.attached(backbone), torch.no_grad():
            self._read_for = None  # the adapters may have learned since
            return draw(self, backbone, request)

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """All adapters that anything reads, in the stage ``adapter``.

        Raises:
            StarringError: for another stage.
        """
        if stage != STAGE:
            raise unknown("stage of customvideox", stage, (STAGE,))
        idle = {id(parameter) for parameter in self.idle()}
        return [parameter for parameter in self.parameters() if id(parameter) not in idle]

    def idle(self) -> Iterable[nn.Parameter]:
        """What would change the reference's own queries in the last block: they are dropped with the reference.

        The paper counts them (appendix B: 4 layers of each block).
        """
        *_, last = self.adapters.values()
        unread = () if self.config.everywhere else ("to_q", "to_out")
        return [parameter for which in unread for parameter in last.get_submodule(which).parameters()]

    def described(self, state: Mapping[str, Tensor]) -> str:
        """Rank, layers and width of the low-rank changes in a state dict."""
        downs = [value for name, value in state.items() if name.endswith("down.weight") and value.ndim == 2]
        if not downs:
            return super().described(state)
        return f"low-rank changes of rank {len(downs[0])} for {len(downs)} layers of width {downs[0].shape[1]}"

    def _beside(
        self,
        backbone: Backbone,
        x: Tensor,
        t: Tensor,
        text: Text,
        reference: Tensor,
        entity: tuple[Tensor, Tensor] | None,
        biased: bool,
    ) -> Tensor:
        """One denoiser call beside reference latents ``b c r h w``, in the configured form.

        Raises:
            StarringError: if they are of another size than the film.
        """
        c = self.config
        if reference.shape[-2:] != x.shape[-2:]:  # in the cached form the denoiser never sees the two together
            raise StarringError(
                f"Reference latents of shape {tuple(reference.shape)} do not fit a film of {tuple(x.shape)}: encode the"
                " picture at the film's own height and width."
            )
        given = Reference(latents=reference, place=c.place, t=0 if c.clean_time else None)
        if c.form == "cached" and not self._is_read(reference, x.shape[2]):
            self._view = View(form="read", pictures=reference.shape[2], everywhere=c.everywhere)
            first = Text(embeddings=text.embeddings[:1, :1], ids=text.ids[:1, :1])
            backbone.read_reference(given, first, x.shape[2])
            self._read_for = reference, x.shape[2]
        self._view = View(
            form=c.form, frames=x.shape[2], pictures=reference.shape[2], everywhere=c.everywhere,
            time=self.bias(backbone, t) if biased and c.tab else None, all_queries=c.tab_queries == "all",
            columns=entity[0] if entity else None, entity=entity[1] if entity else None, map=c.erae_map,
            threshold=c.erae_threshold, boost=c.erae_boost, product=c.product,
        )  # fmt: skip
        return backbone.predict(x, t, text, given if c.form == "joint" else None)

    def _is_read(self, reference: Tensor, frames: int) -> bool:
        """Whether the layers have read this very reference; only kept while nothing is learned."""
        kept = self._read_for
        if kept is None or torch.is_grad_enabled():
            return False
        return kept[1] == frames and kept[0].shape == reference.shape and torch.equal(kept[0], reference)

    def bias(self, backbone: Backbone, t: Tensor) -> Tensor:
        """The time-aware bias at ``t`` (eq. 6 and 7), shaped as ``t``: about 0.1 half way and -1 at both ends."""
        c = self.config
        share = torch.as_tensor(t, device=backbone.device).float() / (backbone.parametrization.timesteps - 1)
        away = (2 * share - 1).square()
        away = 1 - away if c.tab_flipped else away
        bias = c.tab_epsilon - c.tab_gamma * away
        return c.tab_scale * (bias.tanh() if c.tab_squash == "tanh" else bias)

    def _entity(
        self, backbone: Backbone, text: Text, prompts: Sequence[str], entities: Sequence[str]
    ) -> tuple[Tensor, Tensor] | None:
        """The places ``k`` at which prompts name entities, and 1 where a row's own is, ``b k``; ``None`` if none is."""
        found = torch.zeros(text.ids.shape)
        for row, (prompt, entity) in enumerate(zip(prompts, entities, strict=True)):
            for span in mentioned(prompt, entity):
                found[row, tokens_of(backbone.tokenizer, prompt, span)] = 1
        if not found.any():
            return None
        columns = found.any(0).nonzero()[:, 0]
        return columns.to(backbone.device), found[:, columns].to(backbone.device)


def _unnamed(prompt: str, entity: str) -> StarringError:
    """The error for a prompt that does not name an entity, or not where the denoiser reads it."""
    if mentioned(prompt, entity):
        return StarringError(f"The prompt is cut before it names '{entity}'. Shorten it, or name the entity earlier.")
    words = ", ".join(dict.fromkeys(prompt.split()))
    return StarringError(f"The entity '{entity}' is not in the prompt, whose words are: {words}. Name one.")
