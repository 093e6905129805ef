"""From a finished film to one with a higher reward: gradient ascent on its last, nearly clean latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Reward
from starring.diffusion.noise import white
from starring.errors import StarringError
from starring.layers.attach import recomputed
from starring.methods.base import Batch, Losses, Method, Request, draw
from starring.reward.ascent import Objective, Rewards, ancestral, ascent, average, looked, shrunk
from starring.reward.sight import Eyes, Unseen

SMALL = 2**14
"""Films of up to so many latent numbers, by networks of up to :data:`LIGHT` weights, keep their activations, which is
the same and a third faster: 16 frames of 64 x 64 pixels under a VAE of factor 4."""
LIGHT = 2**24
"""Stable Diffusion with motion modules has 80 times as many."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Result:
    """A film after the ascent."""

    latents: Tensor
    """Clean latents, ``1 c f h w``; those that were given, if nothing could be done."""
    history: tuple[Rewards, ...] = ()
    """What the film was worth before the first iteration, and what the film that was kept was after each of them."""
    told: str = ""
    """What a person should know; empty if all went well."""


def optimise(
    backbone: Backbone,
    method: Method,
    latents: Tensor,
    reference: Tensor,
    request: Request,
    eyes: Eyes,
    options: Reward,
    on_step: Callable[[int], None] | None = None,
) -> Result:
    """TTRO (section 4.2): make the subject of a finished film more like its reference image and photographs.

    The film is noised as at the sampler's last timestep; those latents are the leaf (B12). One call of the network
    under the method makes clean latents of them, without guidance; what these are worth is differentiated, and the
    leaf follows the gradient. Masks are those of the film as it came, and stay.

    Args:
        backbone: the network, of a family whose VAE decodes every frame alone.
        method: what is put on it.
        latents: the film, clean latents ``1 c f h w``.
        reference: the reference image, ``1 c 1 h w``.
        request: what was filmed: prompt, steps, and the generator that draws the noise.
        eyes: who looks.
        options: how.
        on_step: called with the number of finished iterations.

    Returns:
        The new film. If the subject is not found, the film as it came; if a reward is no number, the last film whose
        reward was one. Both are told by a warning as well.

    Raises:
        StarringError: if the VAE compresses time.
    """
    if latents.shape[2] != request.sample.frames:
        raise StarringError(f"{backbone.name} compresses time, so its frames cannot be rewarded one by one.")
    try:
        sight = eyes.sight(backbone, latents, reference)
    except Unseen as unseen:
        return _told(Result(latents=latents, told=f"{unseen} The film is left as it was, without reward optimization."))
    with method.attached(backbone), nullcontext() if small(backbone, latents) else recomputed(backbone.pieces()):
        clean = _Clean(backbone, method, request, options)
        z1, still = clean.noised(latents), clean.noised(reference)
        with torch.no_grad(), backbone.still():
            target = average(clean(still)[0], shrunk(sight.reference[None], latents.shape[3:]))[0]
        objective = Objective(
            backbone=backbone, encoder=eyes.encoder, sight=sight, target=target, reduction=options.latent
        )
        return _ascended(clean, objective, latents, z1, options, on_step or _nobody)


def small(backbone: Backbone, latents: Tensor) -> bool:
    """Whether a film's activations may all be kept, so that nothing is computed twice."""
    return latents.numel() <= SMALL and sum(p.numel() for p in backbone.denoiser.parameters()) <= LIGHT


def _ascended(
    clean: _Clean, objective: Objective, given: Tensor, z1: Tensor, options: Reward, tell: Callable[[int], None]
) -> Result:
    step, kept, history = options.step, _Place(z1, given, None, torch.zeros_like(z1)), list[Rewards]()
    for iteration in range(options.iterations + 1):
        last = iteration == options.iterations  # nothing follows its gradient
        z0, (latent, pixel), gradient = looked(clean, objective, z1) if last else ascent(clean, objective, z1)
        rewards = Rewards(latent=float(latent), pixel=float(pixel))
        if not math.isfinite(rewards.total):
            told = f"The reward was no number in iteration {iteration + 1}; the film is kept as it was before that."
            return _told(Result(latents=kept.z0, history=tuple(history), told=told))
        if options.guarded and kept.rewards is not None and rewards.total < kept.rewards.total:
            step /= 2
        else:
            kept = _Place(
                z1, z0, rewards, normalised(gradient, objective.sight.frames) if options.normalised else gradient
            )
        history.append(kept.rewards or rewards)
        z1 = kept.z1 + step * kept.direction
        tell(min(iteration + 1, options.iterations))
    return Result(latents=kept.z0, history=tuple(history))


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Somewhere on the way up."""

    z1: Tensor
    z0: Tensor
    rewards: Rewards | None
    direction: Tensor


def normalised(gradient: Tensor, frames: Sequence[int]) -> Tensor:
    """Each frame's gradient, ``1 c f h w``, divided by its root mean square (B16); frames without gradient stay.

    So do frames that do not show the subject: what little they get comes from their neighbours, through the motion
    modules, and would be blown up to a whole step.
    """
    size = gradient.square().mean((1, 3, 4), keepdim=True).sqrt()
    shown = torch.zeros(gradient.shape[2]).index_fill_(0, torch.tensor(list(frames)), 1).to(gradient)
    return gradient / size.clamp_min(torch.finfo(gradient.dtype).tiny) * shown[:, None, None]


class _Clean:
    """One call of the network at the sampler's last timestep: noisy latents in, clean latents out."""

    def __init__(self, backbone: Backbone, method: Method, request: Request, options: Reward) -> None:
        self.backbone, self.method, self.request = backbone, method, request
        self.process = backbone.parametrization
        scheduler = backbone.scheduler()
        scheduler.set_timesteps(request.sample.steps)
        self.t = scheduler.timesteps.min()
        with torch.no_grad():
            self.text: Text = backbone.encode_text(method.prompt(request.prompt))
        self.stochastic = options.estimate == "ddpm"
        if self.stochastic and self.process.alphas_cumprod is None:
            raise StarringError(f"{backbone.name} is a flow model, which has no ddpm step. Choose 'deterministic'.")
        if self.stochastic and int(self.t) > 1:
            raise StarringError(
                f"A ddpm step ends at clean latents only from timestep 1, and the last of {request.sample.steps} steps"
                f" of {backbone.name} is {int(self.t)}. Choose 'deterministic'."
            )
        self._drawn: dict[torch.Size, Tensor] = {}

    def noised(self, latents: Tensor) -> Tensor:
        """Clean latents as at the last timestep."""
        return self.process.noised(latents, self._noise(latents), self.t)

    def __call__(self, z1: Tensor) -> Tensor:
        prediction = self.method.predict(self.backbone, z1, self.t.to(z1.device), self.text, self.request)
        if not self.stochastic:
            return self.process.x0(z1, prediction, self.t)
        # One draw for all iterations: otherwise the reward would change without a step.
        if z1.shape not in self._drawn:
            self._drawn[z1.shape] = self._noise(z1)
        return ancestral(self.process, z1, prediction, int(self.t), self._drawn[z1.shape])

    def _noise(self, like: Tensor) -> Tensor:
        return white(like.shape, self.request.generator).to(like)


class Rewarded(Method):
    """A method whose films are optimised when they are finished. Its weights are that method's."""

    name = "reward"
    arxiv = "2505.06985"
    title = "Test-time reward optimization"
    config_type = Reward

    def __init__(self, method: Method, eyes: Eyes, options: Reward | None = None) -> None:
        """Keep what was given; ``result`` is that of the last film."""
        nn.Module.__init__(self)
        self.config = options or Reward()
        self.family = method.family
        self._open = False
        self.method = method
        self.eyes = eyes
        self.result: Result | None = None

    @property
    def correlation(self) -> float:
        """The method's own."""
        return self.method.correlation

    @property
    def referenced(self) -> bool:
        """Always: the latent reward compares with a reference image."""
        return True

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """The method's."""
        return self.method.picture_size(height, width)

    def prompt(self, text: str) -> str:
        """As the method says it."""
        return self.method.prompt(text)

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """The method."""
        return self.method.attached(backbone)

    def predict(self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, request: Request | None = None) -> Tensor:
        """The method's."""
        return self.method.predict(backbone, x, t, text, request)

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """The method's."""
        return self.method.loss(backbone, batch, progress)

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """The method's."""
        return self.method.learns(stage)

    def generate(self, backbone: Backbone, request: Request) -> Tensor:
        """The method's film, optimised, ``1 c f h w``; steps are told as so many more of the schedule.

        Raises:
            StarringError: if the networks are offloaded: the gradient goes back through one of them while another is on
                the accelerator.
        """
        if backbone.offloaded:
            raise StarringError(
                f"A reward follows its gradient through the VAE and the U-Net of {backbone.name} at once, and offload"
                "ing keeps one of them away. Leave --offload out; --vae-slicing and half precision (--dtype fp16) save"
                " memory too."
            )
        steps, more, tell = request.sample.steps, self.config.iterations, request.on_step or _no_step
        seen: list[Tensor] = []

        def step(done: int, total: int) -> None:
            tell(done, total + more)

        asked = replace(request, on_step=step, on_reference=seen.append)
        latents = self.method.generate(backbone, asked)
        reference = seen[0] if seen else request.reference
        if reference is None:
            reference = still(self.method, backbone, request)
        with torch.enable_grad():
            self.result = optimise(
                backbone, self.method, latents, reference, request, self.eyes, self.config,
                lambda done: tell(steps + done, steps + more),
            )  # fmt: skip
        return self.result.latents


def still(method: Method, backbone: Backbone, request: Request) -> Tensor:
    """An image of the same prompt from noise of its own (B17), by the network without its temporal layers.

    For methods that make no reference image themselves.

    Returns:
        Clean latents, ``1 c 1 h w``.
    """
    sample = replace(request.sample, frames=1)
    alone = replace(request, sample=sample, noise=None, init=None, on_step=None)
    with method.attached(backbone), backbone.still(), torch.no_grad():
        return draw(method, backbone, alone)


def _told(result: Result) -> Result:
    warnings.warn(result.told, stacklevel=4)
    return result


def _no_step(step: int, total: int) -> None:
    """Nobody listens."""


def _nobody(done: int) -> None:
    """Nobody listens."""
