"""CogVideoX (arXiv 2408.06072): one transformer over text and video tokens, under a causal video VAE."""

# pyright: reportPrivateImportUsage=none
# diffusers exports its classes lazily, which the checker cannot see

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from torch import Tensor, nn

from starring.backbones.base import Backbone, Moments, Reference, Text
from starring.backbones.frames_beside import followed, modulated
from starring.backbones.loading import load_cogvideox, load_part, local_folder, read_json
from starring.backbones.positions import Rows, film_rows, joined_rows, reference_rows
from starring.config import Sample, from_json, to_json
from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError


class CogVideoX(Backbone):
    """CogVideoX-2B or -5B or a model of their kind, from the networks themselves or by :meth:`load`.

    Latent frame 0 holds one frame and each later one holds ``time_factor``; the VAE works on two latent frames at once
    after the first, so a film has ``8 N + 1`` frames.
    """

    denoiser: Any
    """A ``CogVideoXTransformer3DModel``."""
    vae: Any
    """An ``AutoencoderKLCogVideoX``."""
    text_encoder: Any
    """A ``T5EncoderModel``."""

    def __init__(
        self,
        *,
        denoiser: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        name: str = "cogvideox",
        source: str = "",
        sample: Sample | None = None,
    ) -> None:
        """``scheduler`` is copied whenever a fresh one is asked for; ``sample`` defaults to the transformer's own size.

        Raises:
            StarringError: for CogVideoX 1.5, which joins latent frames in pairs.
        """
        if denoiser.config.patch_size_t is not None:
            raise StarringError(
                f"{name} is a CogVideoX 1.5, whose tokens span two latent frames; only CogVideoX-2B, -5B and models of"
                " their kind are supported. Choose cogvideox-2b or cogvideox-5b."
            )
        self._scheduler: tuple[Any, dict[str, Any]] = (type(scheduler), dict(scheduler.config))
        if "DPM" in type(scheduler).__name__:  # its step also wants the step before, which a trajectory does not keep
            self._scheduler = (CogVideoXDDIMScheduler, self._scheduler[1])
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.time_factor = int(vae.config.temporal_compression_ratio)
        self._still = False
        config = denoiser.config
        if sample is None:
            sample = Sample(
                frames=config.sample_frames,
                height=config.sample_height * self.factor,
                width=config.sample_width * self.factor,
                steps=50,
                guidance=6.0,
            )
        super().__init__(
            name=name,
            family="cogvideox",
            source=source,
            denoiser=denoiser,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            parametrization=Parametrization.of(self.scheduler()),
            sample=sample,
        )

    @classmethod
    def load(
        cls,
        source: str,
        *,
        vae: str | None = None,
        sample: Sample | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CogVideoX:
        """Put a backbone together, on the CPU.

        Args:
            source: a CogVideoX text-to-video pipeline: folder in diffusers layout, or hub id.
            vae: another ``AutoencoderKLCogVideoX``, folder or hub id.
            sample: how films are drawn by default; else ``starring.json`` beside ``model_index.json`` says so.
            name: for messages.
            dtype: precision of the weights.

        Raises:
            StarringError: if something is missing, damaged or does not fit together.
        """
        folder = local_folder(source)
        pipe = load_cogvideox(folder, dtype)
        if vae is not None:
            pipe.vae = load_part(AutoencoderKLCogVideoX, "VAE", vae, dtype)
        if pipe.vae.config.latent_channels != pipe.transformer.config.in_channels:
            raise StarringError(
                f"The VAE has {pipe.vae.config.latent_channels} latent channels and the transformer of {source} reads"
                f" {pipe.transformer.config.in_channels}. Name a VAE made for it."
            )
        backbone = cls(
            denoiser=pipe.transformer,
            vae=pipe.vae,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            scheduler=pipe.scheduler,
            name=name or source,
            source=source,
            sample=sample,
        )
        saved = read_json(folder / "starring.json").get("sample") if sample is None else None
        if isinstance(saved, dict):
            backbone.sample = from_json(Sample, to_json(backbone.sample) | cast("dict[str, Any]", saved))
        return backbone

    def encode_text(self, prompts: str | Sequence[str]) -> Text:
        """Prompts to :class:`Text`: T5's last hidden states over the whole length, padding too, which is attended."""
        batch = [prompts] if isinstance(prompts, str) else list(prompts)
        length = int(self.denoiser.config.max_text_seq_length)
        tokens = self.tokenizer(batch, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        whole = self.tokenizer(batch, verbose=False)["input_ids"]
        for prompt, ids in zip(batch, whole, strict=True):
            if len(ids) > length:
                warnings.warn(
                    f"The prompt '{prompt}' has {len(ids)} tokens and was cut to {length}; shorten it.", stacklevel=2
                )
        embeddings = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return Text(embeddings=embeddings.float(), ids=tokens.input_ids)

    def encode_moments(self, pixels: Tensor) -> Moments:
        """The whole film through the causal VAE; see :meth:`Backbone.encode_moments`.

        Raises:
            StarringError: if the number of frames or their size is none that the model takes.
        """
        b, _, frames, height, width = pixels.shape
        self.latent_shape(frames, height, width)
        if self._still:
            pixels = _apart(pixels)
        coded = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        scale = float(self.vae.config.scaling_factor)
        mean, std = coded.mean.float() * scale, coded.std.float() * scale
        return Moments(mean=_joined(mean, b), std=_joined(std, b)) if self._still else Moments(mean=mean, std=std)

    def decode_video(self, latents: Tensor) -> Tensor:
        """The whole film through the causal VAE; see :meth:`Backbone.decode_video`.

        Raises:
            StarringError: for an even number of latent frames: the VAE would make another number of frames of them.
        """
        b, _, f, _, _ = latents.shape
        if self._still:
            latents = _apart(latents)
        elif f % 2 == 0:
            raise StarringError(f"{self.name} decodes an odd number of latent frames, and these are {f}.")
        z = (latents / float(self.vae.config.scaling_factor)).to(self.device, self.vae.dtype)
        pixels = self.vae.decode(z, return_dict=False)[0].float()
        return _joined(pixels, b) if self._still else pixels

    def predict(self, x: Tensor, t: Tensor | int, text: Text, reference: Reference | Tensor | None = None) -> Tensor:
        """One call of the transformer; see :meth:`Backbone.predict`.

        Reference frames follow the video's tokens, at rotary positions of their own (:attr:`Reference.place`) and
        modulated as at a timestep of their own (:attr:`Reference.t`); their part of the output is dropped.

        Raises:
            StarringError: if a reference is given that does not fit, or the positions are not rotary.
        """
        b = len(x)
        at, words = torch.as_tensor(t, device=self.device), text.expand(b).embeddings
        self.current_timestep = at
        given = Reference(latents=reference) if isinstance(reference, Tensor) else reference
        if self._still:
            f, x = x.shape[2], _apart(x)
            words = words.repeat_interleave(f, 0)
            at = at.repeat_interleave(f) if at.ndim else at
        x = x.to(self.device, self.dtype).transpose(1, 2)
        rows = self.rotary(x.shape[1], *x.shape[-2:])
        with ExitStack() as stack:
            if given is not None:
                clean = self._fitting(given, x)
                rows = joined_rows(rows, reference_rows(self.denoiser.config, given, x.shape[1], self.device))
                stack.enter_context(followed(self.denoiser, clean))
                if given.t is not None:
                    stack.enter_context(modulated(self.denoiser, clean, given.t))
            out = self._call(x, at, words, rows)
        return _joined(out.transpose(1, 2), b) if self._still else out.transpose(1, 2)

    def read_reference(self, reference: Reference, text: Text, frames: int) -> None:
        """Reference frames alone through the transformer, for what its layers make of them; see the contract.

        Raises:
            StarringError: if the reference has no timestep of its own, or the positions are not rotary.
        """
        if reference.t is None:
            raise StarringError("A reference that is read once needs a timestep of its own: it has that of no step.")
        clean = self._fitting(reference, None)
        rows = reference_rows(self.denoiser.config, reference, frames, self.device)
        at = torch.as_tensor(reference.t, device=self.device)
        # What layers write down in this call is used after it, so that it is not to be computed again; and it is no
        # step of a film, which a cache would count.
        checkpointing, self.denoiser.gradient_checkpointing = self.denoiser.gradient_checkpointing, False
        caching: Any = self.denoiser._cache_config if self.denoiser.is_cache_enabled else None
        if caching is not None:
            self.denoiser.disable_cache()
        try:
            self._call(clean, at, text.expand(len(clean)).embeddings, rows)
        finally:
            self.denoiser.gradient_checkpointing = checkpointing
            if caching is not None:
                self.denoiser.enable_cache(caching)

    def _call(self, x: Tensor, t: Tensor, words: Tensor, rows: Rows | None) -> Tensor:
        """``b f c h w`` through the transformer, returned in float32."""
        with self.denoiser.cache_context("cond_uncond"):  # as the stock pipeline calls it
            out = self.denoiser(
                hidden_states=x,
                encoder_hidden_states=words.to(self.device, self.dtype),
                timestep=t.expand(len(x)),
                image_rotary_emb=rows,
                return_dict=False,
            )[0]
        return out.float()

    def rotary(self, frames: int, h: int, w: int) -> Rows | None:
        """Rotary positions of a film of so many latent frames, ``h w`` latents each, in the order of its tokens.

        ``None`` where positions are added to the tokens instead (2B).
        """
        if not self.denoiser.config.use_rotary_positional_embeddings:
            return None
        return film_rows(self.denoiser.config, frames, h, w, self.device)

    def require_reference(self) -> None:
        """Refuse CogVideoX-2B and its kind; see the contract.

        Raises:
            StarringError: if positions are not rotary.
        """
        if not self.denoiser.config.use_rotary_positional_embeddings:
            raise StarringError(
                f"{self.name} adds sine and cosine positions to its tokens and has no rotary ones, so reference frames"
                " cannot be told from video frames by a shift of positions. Choose cogvideox-5b or miniature-dit."
            )

    def _fitting(self, reference: Reference, x: Tensor | None) -> Tensor:
        """A reference's latents as the transformer reads them, ``b r c h w``, one for each film in ``x``."""
        self.require_reference()
        clean = reference.latents.to(self.device, self.dtype).transpose(1, 2)
        if x is None:
            return clean
        p = int(self.denoiser.config.patch_size)
        if clean.shape[2] != x.shape[2] or clean.shape[-2] % p or clean.shape[-1] % p or len(x) % len(clean):
            raise StarringError(
                f"Reference latents of shape {tuple(reference.latents.shape)} do not fit a film of"
                f" {tuple(x.transpose(1, 2).shape)}: encode a picture for all films or for each, whose height and width"
                f" are multiples of {self.factor * p} pixels."
            )
        return (
            clean.repeat(len(x) // len(clean), 1, 1, 1, 1) if len(clean) > 1 else clean.expand(len(x), -1, -1, -1, -1)
        )

    @contextmanager
    def still(self) -> Iterator[None]:
        """Every latent frame is a film of one frame, which this model takes for a picture."""
        former, self._still = self._still, True
        try:
            yield
        finally:
            self._still = former

    def sites(self, kind: str) -> dict[str, nn.Module]:
        """Places by name, in the order of the blocks: ``joint``, ``feedforward``, ``stem`` and ``time``."""
        blocks = enumerate(self.denoiser.transformer_blocks)
        if kind == "joint":
            return {f"transformer_blocks.{i}.attn1": block.attn1 for i, block in blocks}
        if kind == "feedforward":
            return {f"transformer_blocks.{i}.ff": block.ff for i, block in blocks}
        if kind == "stem":
            return {"patch_embed": self.denoiser.patch_embed}
        if kind == "time":
            return {"time_embedding": self.denoiser.time_embedding}
        raise self.no_site(kind)

    def pieces(self) -> list[nn.Module]:
        """The transformer's blocks and the decoder's residual blocks; see :meth:`Backbone.pieces`."""
        found = [m for name, m in self.vae.decoder.named_modules() if name.rpartition(".")[0].endswith(".resnets")]
        return [*self.denoiser.transformer_blocks, *found]

    def scheduler(self) -> Any:
        """A fresh scheduler of the pipeline's kind; DDIM in place of DPM."""
        kind, config = self._scheduler
        return kind.from_config(config)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of a film's latents; within :meth:`still` any number of frames, each by itself.

        Raises:
            StarringError: with the nearest legal number of frames, height or width.
        """
        step = 2 * self.time_factor
        if not self._still and (frames < 1 or frames % step != 1):
            legal = sorted({max(1, (frames - 1) // step * step + 1), max(1, (frames - 1) // step * step + 1 + step)})
            raise StarringError(
                f"{self.name} makes films of {step} N + 1 frames, not of {frames}. Nearest:"
                f" {' or '.join(str(count) for count in legal)}."
            )
        multiple = self.factor * int(self.denoiser.config.patch_size)
        for side, value in (("height", height), ("width", width)):
            if value < multiple or value % multiple:
                legal = sorted({max(multiple, value // multiple * multiple), (value // multiple + 1) * multiple})
                raise StarringError(
                    f"{self.name} makes frames whose {side} is a multiple of {multiple}, not {value}. Nearest:"
                    f" {' or '.join(str(size) for size in legal)}."
                )
        f = frames if self._still else (frames - 1) // self.time_factor + 1
        return int(self.denoiser.config.in_channels), f, height // self.factor, width // self.factor


def _apart(x: Tensor) -> Tensor:
    """``b c f ...`` to films of one frame, ``(b f) c 1 ...``."""
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def _joined(x: Tensor, batch: int) -> Tensor:
    """Films of one frame back to ``b c f ...``."""
    return x.squeeze(2).unflatten(0, (batch, -1)).transpose(1, 2)
