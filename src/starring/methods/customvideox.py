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
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Reference, Text
from starring.config import Recipe
from starring.data.prompts import mentioned
from starring.diffusion.multistep import CogVideoXMultistep
from starring.errors import StarringError, unknown
from starring.layers.attach import swap
from starring.layers.branches import FullRank, LowRank
from starring.layers.reference import ReferenceAttention, View
from starring.layers.tokens import tokens_of
from starring.methods.base import PLACEHOLDER, Batch, Losses, Method, Request, draw
from starring.methods.customvideox_options import BINDING, COMPONENTS, RECIPES, STAGE, CustomVideoXConfig
from starring.methods.words import inside, masked_error


class CustomVideoX(Method):
    """A film beside a photograph of its subject, without any training for that subject."""

    name = "customvideox"
    arxiv = "2502.06527"
    title = (
        "CustomVideoX: 3D Reference Attention Driven Dynamic Adaptation for Zero-Shot Customized Video Diffusion"
        " Transformers"
    )
    config_type = CustomVideoXConfig
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(RECIPES)
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)
    binding = BINDING
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
                {
                    which: FullRank.beside(layer) if self.config.whole else LowRank.beside(layer, self.config.rank)
                    for which, layer in layers.items()
                }
            )
        self._view = View()
        self._read_for: tuple[Tensor, int] | None = None
        self._attached: list[ReferenceAttention] = []

    @property
    def referenced(self) -> bool:
        """Always: that is the method."""
        return True

    def scheduler(self, backbone: Backbone) -> Any:
        """DDIM, as in the paper, or DPM for the same schedule (C21)."""
        usual = backbone.scheduler()
        return CogVideoXMultistep.from_config(usual.config) if self.config.sampler == "dpm" else usual

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """The film's own, unless another was chosen (C17)."""
        return self.config.reference_height or height, self.config.reference_width or width

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Every joint attention layer attends to the reference of the present call."""

        def make(name: str, _: nn.Module, previous: Any) -> ReferenceAttention:
            own: Any = self.adapters[name.replace(".", "__")] if self.config.adapted else {}
            before = self._attached[-1] if self._attached else None
            made = ReferenceAttention({which: own[which] for which in own}, lambda: self._view, previous, before)
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
        if request is None or reference is None or not self.config.shown:
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
        time = self.bias(backbone, t, request.sample.steps)
        return self._beside(backbone, x, t, text, reference, entity, time)

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
            time = self.bias(backbone, t) if biased else None
            out = self._beside(backbone, noisy, t, text, batch.references * kept, entity, time)
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
            for layer in self._attached:
                layer.seen = None
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
        """Rank, layers and width of the changes in a state dict."""
        full = [value for name, value in state.items() if name.endswith("full.weight") and value.ndim == 2]
        if full:
            return f"changes of full rank for {len(full)} layers of width {full[0].shape[1]}"
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
        time: Tensor | None,
    ) -> Tensor:
        """One denoiser call beside reference latents ``b c r h w``, in the configured form.

        Raises:
            StarringError: if they are of another size than the film.
        """
        c = self.config
        self._check_size(backbone, reference, x)
        given = Reference(latents=reference, place=c.place, t=0 if c.clean_time else None)
        if c.form == "cached" and not self._is_read(reference, x.shape[2]):
            self._view = View(form="read", pictures=reference.shape[2], everywhere=c.everywhere)
            first = Text(embeddings=text.embeddings[:1, :1], ids=text.ids[:1, :1])
            backbone.read_reference(given, first, x.shape[2])
            self._read_for = reference, x.shape[2]
        self._view = View(
            form=c.form, frames=x.shape[2], pictures=reference.shape[2],
            sizes=(x[0, 0, 0].numel(), reference[0, 0, 0].numel()),
            everywhere=c.everywhere, time=time if c.tab else None, all_queries=c.tab_queries == "all",
            decoupled=c.decoupled, columns=entity[0] if entity else None, entity=entity[1] if entity else None,
            map=c.erae_map, threshold=c.erae_threshold, boost=c.erae_boost, product=c.product, way=c.erae_way,
            over=c.erae_over,
        )  # fmt: skip
        return backbone.predict(x, t, text, given if c.form == "joint" else None)

    def _check_size(self, backbone: Backbone, reference: Tensor, x: Tensor) -> None:
        """The pictures are as large as the film, or as they were asked to be (C17)."""
        c = self.config
        if c.reference_height:
            if reference.shape[-2:] != backbone.latent_shape(1, c.reference_height, c.reference_width)[2:]:
                raise StarringError(
                    f"Reference latents of shape {tuple(reference.shape)} do not fit: encode the picture at the height"
                    f" and width that it is to have, {c.reference_height} x {c.reference_width}."
                )
        elif reference.shape[-2:] != x.shape[-2:]:
            raise StarringError(
                f"Reference latents of shape {tuple(reference.shape)} do not fit a film of {tuple(x.shape)}: encode the"
                " picture at the film's own height and width."
            )

    def _is_read(self, reference: Tensor, frames: int) -> bool:
        """Whether the layers have read this very reference; only kept while nothing is learned."""
        kept = self._read_for
        if kept is None or torch.is_grad_enabled():
            return False
        return kept[1] == frames and kept[0].shape == reference.shape and torch.equal(kept[0], reference)

    def bias(self, backbone: Backbone, t: Tensor, steps: int | None = None) -> Tensor:
        """The time-aware bias at ``t`` (eq. 6 and 7), shaped as ``t``: about 0.1 half way and -1 at both ends.

        Args:
            backbone: has the schedule.
            t: timesteps.
            steps: of the film; ``None`` in training, whose steps are all timesteps.
        """
        c, t = self.config, torch.as_tensor(t, device=backbone.device)
        share = t.float() / (backbone.parametrization.timesteps - 1)
        if c.tab_unit == "step" and steps is not None:
            scheduler = backbone.scheduler()
            scheduler.set_timesteps(steps)
            times: Tensor = scheduler.timesteps.to(t.device)
            share = 1 - (times > t.unsqueeze(-1)).sum(-1).float() / max(len(times) - 1, 1)
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
