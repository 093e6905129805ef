"""The contract every backbone fulfils, and the legend of tensor layouts.

Axes: ``b`` batch, ``c`` channel, ``f`` latent frame, ``F H W`` pixel frames, height, width, ``h w`` latent size,
``n`` text tokens, ``d`` text width. Above a backbone every video is ``b c f h w``; pixels are ``b 3 F H W`` in [-1, 1];
a backbone permutes at its own border. What it returns is float32, whatever precision its networks run in, so that
sampling and losses are computed alike everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from starring.config import Sample
from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError, unknown

KINDS: dict[str, str] = {
    "spatial": "self-attention within one frame",
    "cross": "attention from image to text",
    "temporal": "attention along time",
    "joint": "attention over text and video together",
    "feedforward": "feed-forward layers of the image (or joint) blocks",
    "stem": "the first convolution or patch embedding",
    "time": "the embedding of the timestep, which runs before the stem",
    "decoder": "levels of a U-Net's decoder, the last layer of each before it is enlarged",
    "upsampler": "layers that enlarge the levels of a U-Net's decoder",
}
"""Every kind of place a method may ask for; a backbone answers where it is, or that it has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Text:
    """Prompts as the denoiser reads them."""

    embeddings: Tensor
    """``b n d``; carries gradient when the prompt holds learned words."""
    ids: Tensor
    """``b n`` token ids, learned words with their own ids; on the CPU or the backbone's device."""

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def __add__(self, other: Text) -> Text:
        """Join two batches, as guidance does with ``negative + positive``."""
        return Text(embeddings=torch.cat([self.embeddings, other.embeddings]), ids=torch.cat([self.ids, other.ids]))

    def __getitem__(self, rows: slice) -> Text:
        return Text(embeddings=self.embeddings[rows], ids=self.ids[rows])

    def expand(self, batch: int) -> Text:
        """One prompt for ``batch`` videos; a text of ``batch`` prompts is returned as it is.

        Raises:
            StarringError: if it holds neither one nor ``batch`` prompts.
        """
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise StarringError(f"{len(self)} prompts were given for {batch} videos. Give one, or one for each video.")
        return Text(embeddings=self.embeddings.expand(batch, -1, -1), ids=self.ids.expand(batch, -1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """The Gaussian a VAE encodes a video to, already multiplied by the VAE's scaling factor; both ``b c f h w``."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents. Noise comes from the generator's own device, so a CPU generator gives one draw anywhere."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + self.std * noise.to(self.mean)


PLACES: dict[str, str] = {
    "width": "beside the film: one trained width further right",
    "both": "diagonally beside it: one trained height further down as well",
    "after": "in time, after the film's last latent frame",
    "before": "in time, before its first",
    "none": "on its first frame",
}
"""Where the rotary positions of a reference frame can lie, seen from those of the film."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """Clean pictures that a film's tokens attend to, for backbones with joint attention.

    Raises:
        StarringError: for an unknown place.
    """

    latents: Tensor
    """``b c r h w``: ``r`` pictures, one set of them for all films or one for each; of the film's ``h w``
    or another that films may have."""
    place: str = "width"
    """Where their rotary positions lie (:data:`PLACES`; CustomVideoX, arXiv 2502.06527, eq. 5); each further picture
    lies as far from the one before."""
    t: int | None = 0
    """The timestep that modulates their tokens: 0, since they are clean, or ``None`` for that of the film."""

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise unknown("place for a reference", self.place, PLACES)

    def shift(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """How far in time, down and right the first picture lies from a film of so many latent frames.

        Args:
            frames: latent frames of the film.
            height: rows of tokens at the trained size.
            width: columns of tokens at the trained size.
        """
        times = {"after": frames, "before": -1}
        down = height if self.place == "both" else 0
        return times.get(self.place, 0), down, width if self.place in ("width", "both") else 0


class Backbone(ABC):
    """A frozen text-to-video model taken apart: tokenizer, text encoder, VAE, denoiser and noise schedule.

    Its networks are in evaluation mode and take no gradient to their own weights; gradient flows through them.
    """

    name: str
    """Preset name, hub id or folder name, for messages and records."""
    family: str
    """Runs are interchangeable between backbones of one family (``"animatediff"``)."""
    source: str
    """Where it was loaded from: the folder, or the hub ids."""
    origin: dict[str, str]
    """The arguments of ``load_backbone`` that load it again, from any working directory: ``name_or_path``, and
    ``base``, ``adapter``, ``vae`` where given; device and precision are not among them."""
    denoiser: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    """A transformers tokenizer. Learned words replace it by an extended copy while they are attached."""
    parametrization: Parametrization
    """What the denoiser predicts, under the schedule it is sampled with."""
    sample: Sample
    """How films are drawn when nobody says otherwise."""
    current_timestep: Tensor | int | None = None
    """That of the last call, for those of diffusers' caches that ask for it (``current_timestep_callback``)."""

    def __init__(
        self,
        *,
        name: str,
        family: str,
        source: str,
        denoiser: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        parametrization: Parametrization,
        sample: Sample,
    ) -> None:
        self.name, self.family, self.source = name, family, source
        self.denoiser, self.vae, self.text_encoder, self.tokenizer = denoiser, vae, text_encoder, tokenizer
        self.parametrization, self.sample = parametrization, sample
        self.origin = {"name_or_path": name}
        self._device: torch.device | None = None
        for part in self.parts():
            part.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the networks compute (also while they are offloaded)."""
        return self._device or next(self.denoiser.parameters()).device

    @property
    def offloaded(self) -> bool:
        """Whether each network is on the accelerator only while it is called."""
        return self._device is not None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the denoiser."""
        return next(self.denoiser.parameters()).dtype

    @property
    def precision(self) -> str:
        """That, by name: ``float32``."""
        return str(self.dtype).removeprefix("torch.")

    def forget(self) -> None:
        """Drop what one of diffusers' caches (``denoiser.enable_cache``) holds of the film before."""
        reset: Any = getattr(self.denoiser, "_reset_stateful_cache", None)
        if reset is not None:
            reset()

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Text encoder, denoiser and VAE, in the order a film needs them."""
        return self.text_encoder, self.denoiser, self.vae

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move and cast all networks, in place.

        Raises:
            StarringError: if its parts are offloaded: accelerate then decides where they are.
        """
        if self.offloaded:
            raise StarringError(f"{self.name} is offloaded and moves its own parts; load it anew to place it.")
        # diffusers warns about a dtype argument even when it is None
        wanted: dict[str, Any] = {"device": device, "dtype": dtype}
        for part in self.parts():
            part.to(**{name: value for name, value in wanted.items() if value is not None})
        return self

    def save_memory(
        self,
        *,
        offload: bool = False,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        checkpointing: bool = False,
    ) -> Self:
        """Trade time for memory, in place; each option only ever switches on.

        Args:
            offload: keep only the network at work on the accelerator (for generating; training needs all at once).
            vae_slicing: encode and decode frame by frame.
            vae_tiling: encode and decode large frames in overlapping tiles (approximate).
            checkpointing: recompute the denoiser's activations during backward.

        Raises:
            StarringError: if ``offload`` is asked for without an accelerator.
        """
        vae, denoiser = cast("Any", self.vae), cast("Any", self.denoiser)
        if vae_slicing:
            vae.enable_slicing()
        if vae_tiling:
            vae.enable_tiling()
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        if offload and self._device is None:
            device = torch.accelerator.current_accelerator(check_available=True)
            if device is None:
                raise StarringError(
                    "Offloading parks networks on the CPU until an accelerator needs them; there is none."
                )
            self._offload_to(device)
        return self

    def _offload_to(self, device: torch.device) -> None:
        """Let each network come to ``device`` when it is called, and send the one before it back to the CPU."""
        from accelerate import cpu_offload_with_hook

        self._device = device
        former = None
        for part in self.parts():
            part.to("cpu")
            _, former = cpu_offload_with_hook(part, device, prev_module_hook=former)

    @abstractmethod
    def encode_text(self, prompts: str | Sequence[str]) -> Text:
        """Tokenize and encode; ``n`` is always the tokenizer's full length. Warns when a prompt had to be cut."""

    @abstractmethod
    def encode_moments(self, pixels: Tensor) -> Moments:
        """Pixels ``b 3 F H W`` in [-1, 1] to the VAE's mean and standard deviation, scaled, ``b c f h w`` float32."""

    def encode_video(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels ``b 3 F H W`` in [-1, 1] to latents ``b c f h w``: the mean, or a draw when a generator is given."""
        moments = self.encode_moments(pixels)
        return moments.mean if generator is None else moments.sample(generator)

    @abstractmethod
    def decode_video(self, latents: Tensor) -> Tensor:
        """Latents ``b c f h w`` to pixels ``b 3 F H W`` around [-1, 1], not clamped; carries gradient."""

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor | int, text: Text, reference: Reference | Tensor | None = None) -> Tensor:
        """One call of the denoiser.

        Args:
            x: noisy latents ``b c f h w``, as the scheduler scales them.
            t: timesteps: a number, ``()`` or ``(b,)``.
            text: one prompt, or ``b`` of them.
            reference: pictures that the film's tokens attend to, for backbones that can; latents alone, ``b c r h w``,
                mean a :class:`Reference` with its defaults.

        Returns:
            The prediction, ``b c f h w`` float32, as :attr:`parametrization` says.
        """

    def read_reference(self, reference: Reference, text: Text, frames: int) -> None:
        """The reference alone through the denoiser, at its place beside a film, for what its layers make of it.

        Args:
            reference: one set of pictures, with a timestep of its own.
            text: one prompt of any length; the denoiser cannot do without.
            frames: latent frames of the film.

        Raises:
            StarringError: if the denoiser cannot attend to pictures.
        """
        self.require_reference()

    def require_reference(self) -> None:
        """Refuse a backbone whose denoiser cannot attend to pictures (:class:`Reference`), before anything is made.

        Raises:
            StarringError: if it cannot, with the reason.
        """
        raise StarringError(f"{self.name} ({self.family}) cannot attend to a reference image; use another backbone.")

    @abstractmethod
    def still(self) -> AbstractContextManager[None]:
        """Within this context every frame is an image of its own: the temporal layers are bypassed."""

    @abstractmethod
    def sites(self, kind: str) -> dict[str, nn.Module]:
        """All places of a kind (see :data:`KINDS`) by name, in the order the denoiser runs them.

        Raises:
            StarringError: if the kind is unknown, or this backbone has no such place.
        """

    def image_weights(self) -> dict[str, nn.Parameter]:
        """The denoiser's own weights without its temporal layers', by name: those of the image model inside it.

        Raises:
            StarringError: if there is no image model inside it.
        """
        raise StarringError(
            f"{self.name} ({self.family}) has no image model inside it whose weights could be fine-tuned. Choose"
            " low-rank fine-tuning, or another --backbone."
        )

    @abstractmethod
    def pieces(self) -> list[nn.Module]:
        """The blocks of denoiser and decoder, none within another.

        What is inside one is large and quickly computed, so that memory is saved by recomputing it during backward.
        """

    @abstractmethod
    def scheduler(self) -> Any:
        """A fresh diffusers scheduler each time; schedulers carry state."""

    @abstractmethod
    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of a film's latents.

        Raises:
            StarringError: if the backbone cannot make films of that size.
        """

    def no_site(self, kind: str) -> StarringError:
        """The error for a kind of place this backbone has none of."""
        if kind not in KINDS:
            return unknown("kind of site", kind, KINDS)
        return StarringError(
            f"{self.name} ({self.family}) has no '{kind}' sites ({KINDS[kind]}), which this method works on. "
            "Choose another --backbone; `starring methods` lists which go together."
        )
