"""DualReal: an identity and a motion, learned together (Wang et al., arXiv 2505.02192).

Beside attention and beside the feed-forward layer of every block of a diffusion transformer stand two adapters, one for
who and one for how (section 3.2, eq. 1 to 3; ``layers/dual.py``). Each training step is on photographs of the subject
or on clips of the motion; both adapters act in both, but the other side's rest, bit for bit (eq. 4). The StageBlender
controller (section 3.3, eq. 5 to 7; ``layers/blender.py``) weighs the two for each moment and each group of blocks, and
learns in both.

Legend: ``b`` batch, ``c`` channel, ``f`` latent frame, ``h w`` latent size, ``e`` width of an image's embedding, ``g``
groups of blocks. ``D1`` to ``D8`` number the places where paper and released code leave a choice;
docs/methods/dualreal.md has the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Recipe
from starring.diffusion.noise import white
from starring.errors import StarringError, unknown
from starring.layers.attach import branch
from starring.layers.blender import StageBlender
from starring.layers.branches import Bottleneck
from starring.layers.dual import DualAdapter, Folded
from starring.methods.base import PLACEHOLDER, Batch, Losses, Method, Request
from starring.methods.dualreal_options import COMPONENTS, GROUPS, RECIPES, STAGE, DualRealConfig
from starring.methods.words import inside, masked_error, timesteps


@dataclass(kw_only=True, slots=True, eq=False)
class View:
    """What the layers need to know about the present call of the denoiser."""

    image: Tensor | None = None
    """The motion's image, ``b e`` or ``1 e``."""
    sides: str = "both"
    """Whose adapters act."""
    share: float = 0.5
    """The identity's part of the weights where no controller gives them."""
    time: Tensor | None = None
    """The timestep's embedding, ``b t``, once it was computed."""
    weights: Tensor | None = None
    """a and b of every group, ``b g 2``, once they were computed."""


class DualReal(Method):
    """Identity and motion adapters in every block, and the controller that weighs them."""

    name = "dualreal"
    arxiv = "2505.02192"
    title = "DualReal: Adaptive Joint Training for Lossless Identity-Motion Fusion in Video Customization"
    state = "experimental: in the miniature its sides learn less well together than apart"
    config_type = DualRealConfig
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(RECIPES)
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)
    columns = ("clip_t", "clip_i", "dino_i", "course", "trajectory", "motion_top", "motion_share")
    shaping = frozenset({"joint", "controller", "groups"})
    moving = True
    neutral = False

    def __init__(self, backbone: Backbone, config: DualRealConfig | None = None) -> None:
        """Fresh adapters, which add a share of each layer's input to its output and nothing else.

        Raises:
            StarringError: if the backbone is no transformer over text and video, or the groups do not divide its
                blocks (with the numbers that do).
        """
        super().__init__(backbone, config)
        attention, feedforward = backbone.sites("joint"), backbone.sites("feedforward")
        self.groups = grouped(len(attention), self.config.groups)
        self._per_group = len(attention) // self.groups
        first: Any = next(iter(attention.values()))
        width, image = int(first.to_q.in_features), self.config.image_width
        self.adapters = nn.ModuleDict(
            {_key(name): DualAdapter(width, self.config.hidden, image) for name in [*attention, *feedforward]}
        )
        self.blender: StageBlender | None = None
        if self.config.controller:
            (clock,) = backbone.sites("time").values()
            time = int(clock.get_submodule("linear_2").out_features)  # pyright: ignore[reportArgumentType]
            self.blender = StageBlender(time, width, self.groups, self.config.squash)
        self.register_buffer("image", torch.zeros(image))
        self.tape: dict[float, Tensor] | None = None
        """If somebody put a dictionary here: every group's identity weight as a share of ``total``, ``b g``, by
        timestep."""
        self._view = View()
        self._folded: dict[str, Folded] = {}
        self._read: WeakKeyDictionary[nn.Module, dict[str, Text]] = WeakKeyDictionary()

    @property
    def choices(self) -> dict[str, Any]:
        """The options, with the number of groups that these blocks make."""
        return {**super().choices, "groups": self.groups}

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """The adapters beside attention and feed-forward, and the controller before the first block."""
        sites = {kind: backbone.sites(kind) for kind in ("time", "stem", "joint", "feedforward")}
        with ExitStack() as stack:
            for kind, listen in (("time", self._clocked), ("stem", self._weighed)):
                for site in sites[kind].values():
                    stack.enter_context(branch(site, listen))
            for kind, beside in (("joint", self._beside_attention), ("feedforward", self._beside_feedforward)):
                for block, (name, site) in enumerate(sites[kind].items()):
                    stack.enter_context(branch(site, beside(_key(name), block // self._per_group)))
            try:
                yield
            finally:
                self._view = View()

    # --- eq. 1 to 3: the adapters of a block ---------------------------------------------------------------------

    def _beside_attention(self, key: str, group: int) -> Any:
        """Beside joint attention, which is given video and text apart, as it returns them."""

        def add(
            out: tuple[Tensor, Tensor], hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            video, words = out
            return self._onto(key, group, video, hidden_states), self._onto(key, group, words, encoder_hidden_states)

        return add

    def _beside_feedforward(self, key: str, group: int) -> Any:
        def add(out: Tensor, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
            return self._onto(key, group, out, hidden_states)

        return add

    def _onto(self, key: str, group: int, out: Tensor, x: Tensor) -> Tensor:
        view, adapter = self._view, self.adapters[key]
        assert isinstance(adapter, DualAdapter)
        assert view.weights is not None
        weights = view.weights[:, group]
        if self._folded:
            return self._folded[key].onto(out, x, weights, self.config.total)
        return out + adapter(x, weights, view.image, view.sides)

    # --- eq. 5 to 7: the controller -------------------------------------------------------------------------------

    def _clocked(self, out: Tensor, *_: Any, **__: Any) -> Tensor:
        self._view.time = out
        return out

    def _weighed(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """The weights a and b of every group for the call that has just embedded its tokens."""
        total, time = self.config.total, self._view.time
        if self.blender is None:
            a = tokens.new_full((len(tokens), self.groups), total * self._view.share)
        else:
            assert time is not None
            a = total * self.blender(time, tokens)
        self._view.weights = torch.stack([a, total - a], dim=2)
        return tokens

    # --- prompts and calls ----------------------------------------------------------------------------------------

    def prompt(self, text: str) -> str:
        """``text`` with the class word and a star where it said ``<*>`` or ``<*> class_word`` (D7)."""
        word, named = self.config.class_word, f"{self.config.class_word} {self.config.star}".strip()
        if word:
            text = re.sub(rf"{re.escape(PLACEHOLDER)} {re.escape(word)}\b", lambda _: named, text)
        return " ".join(text.replace(PLACEHOLDER, named).split())

    def predict(self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, request: Request | None = None) -> Tensor:
        """One call of the denoiser in a film: the subject's photograph conditions the motion, in all rows alike."""
        # What is folded holds the photograph already, and to ask whether there is one waits for the accelerator.
        return self._called(backbone, x, t, text, None if self._folded else self.shown, self.config.sides)

    @property
    def shown(self) -> Tensor | None:
        """The embedding of the subject's photograph, ``1 e``; ``None`` if none was given (it is all zeros then)."""
        image: Any = self.image
        return image[None] if bool(image.any()) else None

    def _called(
        self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, image: Tensor | None, sides: str, share: float = 0.5
    ) -> Tensor:
        # It stays until the next call, since gradient checkpointing runs the blocks again during backward.
        self._view = View(image=image, sides=sides, share=share)
        out = backbone.predict(x, t, text)
        if self.tape is not None and self._view.weights is not None:
            taped = self._view.weights[..., 0] / self.config.total
            self.tape[float(torch.as_tensor(t).max())] = taped.detach().float().cpu()
        return out

    def generate(self, backbone: Backbone, request: Request) -> Tensor:
        """Latents ``1 c f h w`` of one film, with every pair of adapters folded into one (exact; once per film)."""
        with self.attached(backbone):
            pairs = {key: each for key, each in self.adapters.items() if isinstance(each, DualAdapter)}
            image, sides, dtype = self.shown, self.config.sides, backbone.dtype
            self._folded = {key: pair.folded(image, sides, dtype) for key, pair in pairs.items()}
            try:
                return super().generate(backbone, request)
            finally:
                self._folded = {}

    # --- section 3.2: joint training -------------------------------------------------------------------------------

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """Squared error of the velocity, on clips or on photographs, inside what is no bar around them.

        Raises:
            StarringError: if clips come without embeddings of their frames.
        """
        if batch.motion and batch.images is None:
            raise StarringError("The motion's adapters are conditioned on a frame of each clip, and no embedding came.")
        alone = "motion" if batch.motion else "identity"
        image = batch.images if batch.motion else self.shown if self.config.identity_image else None
        with self.attached(backbone):
            x0, process = batch.latents, backbone.parametrization
            t, noise = timesteps(batch, process.timesteps), white(x0.shape, batch.generator).to(x0)
            text = self._text(backbone, [self.prompt(caption) for caption in batch.captions])
            sides = "both" if self.config.joint else alone
            share = 0.5 if self.config.apart == "half" else float(alone == "identity")
            out = self._called(backbone, process.noised(x0, noise, t), t, text, image, sides, share)
        error = masked_error(out.float(), process.target(x0, noise, t).float(), inside(batch).float()).mean()
        return Losses(total=error, parts={alone: error.detach()})

    def _text(self, backbone: Backbone, prompts: list[str]) -> Text:
        """Prompts, each read once by each text encoder: it is frozen, and they are few."""
        known = self._read.setdefault(backbone.text_encoder, {})
        for prompt in set(prompts) - known.keys():
            with torch.no_grad():
                known[prompt] = backbone.encode_text([prompt])
        texts = [known[prompt] for prompt in prompts]
        return Text(embeddings=torch.cat([t.embeddings for t in texts]), ids=torch.cat([t.ids for t in texts]))

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """Adapters of both sides and the controller, in the stage ``joint``.

        Raises:
            StarringError: for another stage.
        """
        if stage != STAGE:
            raise unknown("stage of dualreal", stage, (STAGE,))
        return self.parameters()

    def rate(self, parameter: nn.Parameter) -> float:
        """That of the bottlenecks may be another."""
        pairs = (part for pair in self.adapters.values() for part in pair.children() if isinstance(part, Bottleneck))
        return self.config.adapter_rate if any(parameter is p for part in pairs for p in part.parameters()) else 1.0

    def rests(self, batch: Batch) -> Iterable[nn.Parameter]:
        """The other side's adapters (eq. 4): no gradient, no decay, no moment of theirs; unless D2 and D3 say other."""
        alone, other = _sides(batch)
        idle = self.blender is not None and self.config.controller_learns not in ("both", alone)
        return [
            *(self.side(other) if self.config.resting == "none" else ()),
            *(self.blender.parameters() if self.blender is not None and idle else ()),
        ]

    def stills(self, batch: Batch) -> Iterable[nn.Parameter]:
        """The other side's adapters, where D3 is read so."""
        return self.side(_sides(batch)[1]) if self.config.resting == "zero" else ()

    def side(self, which: str) -> list[nn.Parameter]:
        """Adapters of ``identity`` or of ``motion``, whose are the images as well."""
        parts = ("identity",) if which == "identity" else ("motion", "condition")
        return [p for pair in self.adapters.values() for part in parts for p in pair.get_submodule(part).parameters()]


def _sides(batch: Batch) -> tuple[str, str]:
    """The side that a step on a batch is for, and the other one."""
    return ("motion", "identity") if batch.motion else ("identity", "motion")


def grouped(blocks: int, groups: int | None) -> int:
    """How many groups ``blocks`` blocks make.

    Raises:
        StarringError: if the number does not divide the blocks, with those that do.
    """
    divisors = [n for n in range(1, blocks + 1) if blocks % n == 0]
    wanted = max(n for n in divisors if n <= GROUPS) if groups is None else groups or blocks
    if wanted not in divisors:
        raise StarringError(
            f"{wanted} groups do not divide {blocks} blocks. Choose one of {', '.join(map(str, divisors))}."
        )
    return wanted


def _key(name: str) -> str:
    """A site's name as a key of the state dict, in which a dot would nest."""
    return name.replace(".", "__")
