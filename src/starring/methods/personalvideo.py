"""PersonalVideo: identity by reward on films that the model itself makes (Li et al., arXiv 2411.17048).

Stage 1, *words* (section 4.4): textual inversion on photographs, with the motion modules off. Stage 2, *adapter*: the
Spatial Identity Adapter, a low-rank change of q, k and v of the self-attention within frames (section 4.2), open in the
last quarter of the sampling steps only. It learns from no photograph: a film of a simulated prompt is drawn in four
steps from pure noise, one frame of it is decoded, and a face or identity encoder says how like the photographs it is
(section 4.1). As the adapter is closed during the first three steps, no gradient passes through them.

Legend: ``b`` batch, ``c`` channel, ``f`` frame, ``h w`` latent size, ``H W`` pixels, ``d`` width of an identity vector.
``P1`` to ``P10`` number the places where the paper can be read in two ways; docs/methods/personalvideo.md has the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Recipe
from starring.data.simulated import simulated
from starring.diffusion.noise import gaussian_prior, white
from starring.diffusion.sampling import trajectory
from starring.errors import StarringError, unknown
from starring.layers.attach import branch
from starring.layers.branches import LowRank
from starring.methods.base import PLACEHOLDER, Batch, Losses, Request, plainly
from starring.methods.candidates import Candidates, mean_worth
from starring.methods.personalvideo_options import ADAPTER_STAGE, COMPONENTS, LAYERS, RECIPES, PersonalVideoConfig
from starring.methods.rewards import worth
from starring.methods.words import WORDS_STAGE, Worded, first_rows, inside, masked_error, timesteps
from starring.perception.identity import Identity

PROJECTIONS = ("to_q", "to_k", "to_v")
STARTS = 2**62
"""Kept starts draw their noise from seeds from here on, so that no film is asked for that was trained on."""


class PersonalVideo(Worded):
    """Learned words, and a Spatial Identity Adapter that learned from a reward on films."""

    name = "personalvideo"
    arxiv = "2411.17048"
    title = "PersonalVideo: High ID-Fidelity Video Customization without Dynamic and Semantic Degradation"
    config_type = PersonalVideoConfig
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(RECIPES)
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(COMPONENTS)
    columns = ("identity", "face", "dino_i", "motion_top", "clip_t", "clip_i", "consistency_clip")
    shaping = frozenset({"tuning", "simulated", "share", "layers"})
    lora = "adapter"

    def __init__(self, backbone: Backbone, config: PersonalVideoConfig | None = None) -> None:
        """First words, and an adapter that does nothing."""
        super().__init__(backbone, config)
        self.rows = nn.Parameter(first_rows(backbone, self.config))
        self.candidates = Candidates(self.rows, self.config.candidates) if self.config.candidates > 1 else None
        self.adapter = nn.ModuleDict()
        for name, linear in projections(backbone, self.config.layers).items():
            low_rank = LowRank.beside(linear, self.config.rank, self.config.alpha)
            # theta_0 of the weight-space loss; it follows from the run's seed, so no file holds it.
            low_rank.register_buffer("start", low_rank.down.weight.detach().clone(), persistent=False)
            self.adapter[name.replace(".", "/")] = low_rank
        self._opened = False
        self._kept: dict[tuple[int, int], Tensor] = {}

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """The words in the text encoder, and the adapter beside attention, closed until a late step opens it."""
        with ExitStack() as stack:
            stack.enter_context(self.spoken(backbone))
            for name, linear in projections(backbone, self.config.layers).items():
                stack.enter_context(branch(linear, self._beside(self.adapter[name.replace(".", "/")])))
            try:
                yield
            finally:
                self._opened = False

    def _beside(self, low_rank: nn.Module) -> Any:
        def add(out: Tensor, x: Tensor) -> Tensor:
            return out + low_rank(x) if self._opened else out

        return add

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """``tokens`` trains the words (textual inversion), ``adapter`` the Spatial Identity Adapter.

        Raises:
            StarringError: for another stage.
        """
        if stage == WORDS_STAGE:
            return (self.rows, *(self.candidates.others if self.candidates is not None else ()))
        if stage == ADAPTER_STAGE:
            return self.adapter.parameters()
        raise unknown("PersonalVideo stage", stage, [WORDS_STAGE, ADAPTER_STAGE])

    def predict(self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, request: Request | None = None) -> Tensor:
        """One call of the denoiser, with the adapter open from step ``floor((1 - share) N)`` on (P2).

        It stays as it is until the next call, since gradient checkpointing runs the network again during backward.
        """
        steps = self.config.steps if request is None else request.sample.steps
        self._opened = float(t.max()) <= opening(backbone, steps, self.config.share, self.config.opens)
        return backbone.predict(x, t, text)

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """The denoiser's error on stills, or, where the batch brings an identity, 1 minus the reward (eq. 4).

        Rewards that are no numbers are left out; without any other the batch is void.
        """
        if batch.identity is not None:
            return self._rewarded(backbone, batch, batch.identity)
        with self.attached(backbone), backbone.still():
            self._opened = False
            x0, process = batch.latents, backbone.parametrization
            t, noise = timesteps(batch, process.timesteps), white(x0.shape, batch.generator).to(x0)
            text = backbone.encode_text(self._said(batch.captions))
            prediction = backbone.predict(process.noised(x0, noise, t), t, text)
        error = masked_error(prediction.float(), process.target(x0, noise, t).float(), inside(batch).float()).mean()
        return Losses(total=error, parts={"error": error.detach()})

    def vocabulary(self) -> dict[str, Callable[[], Tensor]]:
        """The words, and as long as none was chosen those of all candidates."""
        found = super().vocabulary()
        if self.candidates is not None and self.candidates.count > 1:
            found |= self.candidates.vocabulary(self.tag)
        return found

    def _said(self, captions: Sequence[str]) -> list[str]:
        """Captions with words in place of ``<*>``, those of the candidates in turn.

        Raises:
            StarringError: if a batch has no caption for each of them.
        """
        if self.candidates is None or (count := self.candidates.count) == 1:
            return [self.prompt(caption) for caption in captions]
        if len(captions) < count:
            raise StarringError(
                f"{count} candidates learn from a batch of at least {count}, not of {len(captions)}. Give --batch"
                f" {4 * count}, or --options candidates=1."
            )
        sets = [self.names, *(self.candidates.names(self.tag, k) for k in range(1, count))]
        return [caption.replace(PLACEHOLDER, " ".join(sets[i % count])) for i, caption in enumerate(captions)]

    def _cast(self, backbone: Backbone, identity: Identity) -> dict[str, Tensor]:
        """Keep the words whose films the reward likes best, once; what each set was worth, for the log."""
        if self.candidates is None or self.candidates.count == 1:
            return {}

        def worth() -> float:
            takes = [torch.Generator().manual_seed(take) for take in range(self.config.auditions)]
            return mean_worth([self._reward(backbone, identity, take) for take in takes], self.config.semantic)

        found = self.candidates.keep_best(self.rows, worth)
        self._kept.clear()  # starts with other words
        return {f"words_{k + 1}": torch.tensor(value) for k, value in enumerate(found)}

    def _rewarded(self, backbone: Backbone, batch: Batch, identity: Identity) -> Losses:
        """``mean over films of 1 - cos`` plus lambda times the weight-space loss; films without the subject are out.

        A semantic reward adds its own ``1 - cos``, with its weight.

        Raises:
            StarringError: if there is such a reward and nobody to give it.
        """
        if self.config.semantic and identity.clip is None:
            raise StarringError("A semantic reward compares frames with prompts, so the identity has to bring a CLIP.")
        with self.attached(backbone):
            told = self._cast(backbone, identity)
            rewards = [self._reward(backbone, identity, batch.generator) for _ in batch.latents]
        seen = [reward for reward in rewards if reward is not None]
        finite = [reward for reward in seen if all(bool(each.isfinite()) for each in reward.values())]
        penalty = self.penalty()
        total = self.config.penalty * penalty
        parts = told | {
            "penalty": penalty.detach(),
            "seen": torch.tensor(len(seen) / len(rewards)),
            "skipped": torch.tensor(float(len(rewards) - len(finite))),
        }
        for name in finite[0] if finite else ():
            mean = torch.stack([reward[name] for reward in finite]).mean()
            weight = self.config.semantic if name == "semantics" else 1.0
            total, parts[name] = total + weight * (1 - mean), mean.detach()
        return Losses(total=total, parts=parts, void=bool(seen) and not finite)

    def _reward(
        self, backbone: Backbone, identity: Identity, generator: torch.Generator | None
    ) -> dict[str, Tensor] | None:
        """What a fresh film is worth; ``None`` if nobody is seen on it (P1)."""
        film, prompt = self.film(backbone, generator)
        return worth(film, plainly(prompt, self.config.class_word), backbone, identity, self.config, generator)

    def film(self, backbone: Backbone, generator: torch.Generator | None = None) -> tuple[Tensor, str]:
        """A training film, ``1 c f h w``, with gradient to the adapter, and its prompt; call it inside ``attached``.

        The steps before the adapter opens run without gradient, and once only for a kept start.

        Raises:
            StarringError: if the VAE compresses time, so that there is no frame to look at.
        """
        c, alone = self.config, self.config.tuning == "still"
        closed, prompts = closed_steps(backbone, c.steps, c.share, c.opens), self.simulated()
        starts = len(prompts) * max(1, math.ceil(c.pool / len(prompts)))
        number = int(torch.randint(starts, (), generator=generator))
        with backbone.still() if alone else nullcontext():
            with torch.no_grad():
                prompt = prompts[number % len(prompts)]
                asked = self.prompt(prompt)
                text = backbone.encode_text([asked] if c.guidance == 1 else [backbone.sample.negative, asked])

            def predict(x: Tensor, t: Tensor) -> Tensor:
                return self.predict(backbone, x, t, text)

            # Words that change make another start of it.
            key = (number, self.rows._version)
            if (x := self._kept.get(key)) is None:
                source = torch.Generator().manual_seed(STARTS + number) if c.pool else generator
                x = self._begun(backbone, predict, source, 1 if alone else c.frames or backbone.sample.frames, closed)
                if c.pool:
                    self._kept[key] = x
            scheduler = backbone.scheduler()
            # Not by the start's own generator, which a kept start would have left where it was.
            for step in trajectory(predict, scheduler, x, c.steps, c.guidance, closed, generator=generator):
                x = step.x
            return x, prompt

    @torch.no_grad()
    def _begun(
        self, backbone: Backbone, predict: Any, generator: torch.Generator | None, frames: int, closed: int
    ) -> Tensor:
        """Latents before the adapter opens: noise after ``closed`` steps of the model as it came."""
        shape = (1, *backbone.latent_shape(frames, backbone.sample.height, backbone.sample.width))
        if shape[2] != frames:
            raise StarringError(f"{backbone.name} compresses time, so its frames cannot be rewarded one by one.")
        x = gaussian_prior(shape, 0.0, generator=generator, device=backbone.device)
        if closed == 0:
            return x
        run = trajectory(predict, backbone.scheduler(), x, self.config.steps, self.config.guidance, generator=generator)
        for step in run:
            if step.index + 1 >= closed * step.total // self.config.steps:
                return step.x
        raise AssertionError("a trajectory has as many steps as it was asked for")

    def simulated(self) -> tuple[str, ...]:
        """The prompts of training films."""
        c = self.config
        if not c.simulated:
            return (" ".join(f"photo of a {PLACEHOLDER} {c.class_word}".split()),)
        return c.prompts or simulated(c.class_word, c.simulated, c.world)

    def penalty(self) -> Tensor:
        """``||theta - theta_0||^2`` over the whole adapter (section 4.4; P4)."""
        parts: list[Tensor] = []
        for low_rank in self.adapter.values():
            assert isinstance(low_rank, LowRank)
            if self.config.penalised == "product":
                parts.append(low_rank.delta().square().sum())
            else:
                start: Any = low_rank.start
                parts += [(low_rank.down.weight - start).square().sum(), low_rank.up.weight.square().sum()]
        return torch.stack(parts).sum()


def first_open(steps: int, share: float) -> int:
    """The first of ``steps`` in which the adapter is open, from 0: ``floor((1 - share) steps)`` (P2)."""
    return math.floor(round((1 - share) * steps, 6))


def opening(backbone: Backbone, steps: int, share: float, rule: str = "index") -> float:
    """The timestep of that step; the adapter is open at it and below, wherever in the schedule a film begins.

    By ``timestep`` it is the same in every schedule: a share of 0.25 opens at 260 of 1000, below which lie AnimateLCM's
    last of four, 259, and the last seven of 25.
    """
    if rule == "timestep":
        return (share + 0.01) * backbone.parametrization.timesteps
    times = _times(backbone, steps)
    return float(times[first_open(steps, share) * len(times) // steps])


def closed_steps(backbone: Backbone, steps: int, share: float, rule: str = "index") -> int:
    """How many of ``steps`` come before the adapter opens.

    Raises:
        StarringError: if by timestep it never opens in a schedule of so few steps.
    """
    if rule == "index":
        return first_open(steps, share)
    times = _times(backbone, steps)
    closed = int((times > opening(backbone, steps, share, rule)).sum()) * steps // len(times)
    if closed == steps:
        raise StarringError(
            f"With opens=timestep and share={share:g} the adapter stays closed in {steps} steps, whose last timestep is"
            f" {float(times.min()):g}. Take more steps, a larger share, or opens=index."
        )
    return closed


def _times(backbone: Backbone, steps: int) -> Tensor:
    scheduler = backbone.scheduler()
    scheduler.set_timesteps(steps)
    return scheduler.timesteps


def projections(backbone: Backbone, layers: str = "self") -> dict[str, nn.Linear]:
    """The maps to q, k and v of self-attention within frames, of cross-attention, or of both, by name."""
    sites: dict[str, Any] = {name: site for kind in LAYERS[layers] for name, site in backbone.sites(kind).items()}
    return {f"{name}.{part}": getattr(site, part) for name, site in sites.items() for part in PROJECTIONS}
