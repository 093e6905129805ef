"""AnimateDiff on Stable Diffusion 1.5 (arXiv 2307.04725): a 2D U-Net with motion modules in between."""

# pyright: reportPrivateImportUsage=none
# diffusers exports its classes lazily, which the checker cannot see

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from starring.backbones.base import Backbone, Moments, Reference, Text
from starring.backbones.loading import (
    ADAPTER,
    is_single_file,
    load_part,
    load_pipeline,
    load_single_file,
    local_folder,
    quiet,
    read_json,
    readable,
)
from starring.backbones.lora import fuse, styled
from starring.config import Sample, from_json, to_json
from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError

FRAMES_AT_ONCE = 16
"""How many frames the VAE takes in one batch, as in the stock pipeline."""

_PATTERNS = {
    "spatial": (".attentions.", ".attn1"),
    "cross": (".attentions.", ".attn2"),
    "temporal": (".motion_modules.", (".attn1", ".attn2")),
    "feedforward": (".attentions.", ".ff"),
}

_PIECES = (".resnets", ".attentions", ".motion_modules", ".downsamplers", ".upsamplers")
"""Lists whose members are blocks."""


def linear_lcm() -> LCMScheduler:
    """AnimateLCM's schedule (arXiv 2402.00769): four steps give t = 999, 759, 499, 259."""
    return LCMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="linear")


def linear_ddim() -> DDIMScheduler:
    """The schedule AnimateDiff's motion modules were trained with, by DDIM: 25 steps give t = 961, 921, ..., 41, 1."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


class AnimateDiff(Backbone):
    """Stable Diffusion 1.5 with motion modules, from the networks themselves or by :meth:`load`."""

    denoiser: Any
    """A ``UNetMotionModel``."""
    vae: Any
    """An ``AutoencoderKL``."""
    text_encoder: Any
    """A ``CLIPTextModel``."""

    def __init__(
        self,
        *,
        denoiser: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        name: str = "animatediff",
        source: str = "",
        sample: Sample | None = None,
    ) -> None:
        """``scheduler`` is copied whenever a fresh one is asked for; ``sample`` defaults to the U-Net's own size."""
        self._scheduler: tuple[Any, dict[str, Any]] = (type(scheduler), dict(scheduler.config))
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if sample is None:
            side = int(denoiser.config.sample_size or 64) * self.factor
            sample = Sample(height=side, width=side)
        super().__init__(
            name=name,
            family="animatediff",
            source=source,
            denoiser=denoiser,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            parametrization=Parametrization.of(scheduler),
            sample=sample,
        )

    @classmethod
    def load(
        cls,
        source: str,
        *,
        base: str | None = None,
        adapter: str | None = None,
        vae: str | None = None,
        scheduler: Any = None,
        sample: Sample | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
        lora: tuple[str, str, float] | None = None,
        style: tuple[str, float] | None = None,
    ) -> AnimateDiff:
        """Put a backbone together, on the CPU.

        Args:
            source: an AnimateDiff pipeline (folder in diffusers layout, or hub id), or a Stable Diffusion 1.5 base
                (folder, hub id, or single-file checkpoint).
            base: another Stable Diffusion 1.5 base, in any of these forms, under ``source``'s motion modules.
            adapter: motion adapter, folder or hub id; by default ``source``'s own, or AnimateDiff's v1-5-2.
            vae: VAE, folder or hub id; by default that of the base.
            scheduler: a diffusers scheduler; by default the AnimateDiff pipeline's own, or :func:`linear_ddim`.
            sample: how films are drawn by default; else ``starring.json`` beside ``model_index.json`` says so.
            name: for messages.
            dtype: precision of the weights.
            lora: folder or hub id, file in it and strength of a LoRA that is added to the U-Net's weights.
            style: file and strength of a LoRA that somebody made for the base.

        Raises:
            StarringError: if something is missing, damaged or does not fit together.
        """
        for file in (source, base):
            if file is not None and is_single_file(file) and not Path(file).expanduser().is_file():
                raise StarringError(f"There is no file {file}. Name a .safetensors checkpoint of Stable Diffusion 1.5.")
        folder = None if is_single_file(source) else local_folder(source)
        motion = _adapter(folder, adapter, base is not None, dtype)
        pipe = _base(source, folder, base, motion, dtype)
        if vae is not None:
            pipe.vae = load_part(AutoencoderKL, "VAE", vae, dtype)
        if lora is not None:
            fuse(pipe.unet, *lora)
        if style is not None:
            styled(pipe, *style)
        if scheduler is None:
            whole = folder is not None and base is None and type(pipe).__name__ == "AnimateDiffPipeline"
            scheduler = pipe.scheduler if whole else linear_ddim()
        backbone = cls(
            denoiser=_with_motion(pipe.unet, motion, base or source),
            vae=pipe.vae,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            scheduler=scheduler,
            name=name or source,
            source=f"{source} on {base}" if base else source,
            sample=sample,
        )
        saved = read_json(folder / "starring.json").get("sample") if folder is not None and sample is None else None
        if isinstance(saved, dict):
            backbone.sample = from_json(Sample, to_json(backbone.sample) | cast("dict[str, Any]", saved))
        return backbone

    def encode_text(self, prompts: str | Sequence[str]) -> Text:
        """Prompts to :class:`Text`: the encoder's last hidden states over its full length (77 tokens in SD 1.5)."""
        batch = [prompts] if isinstance(prompts, str) else list(prompts)
        config = self.text_encoder.config
        length = min(self.tokenizer.model_max_length, config.max_position_embeddings)
        tokens = self.tokenizer(batch, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        whole = self.tokenizer(batch, verbose=False)["input_ids"]
        for prompt, ids in zip(batch, whole, strict=True):
            if len(ids) > length:
                warnings.warn(
                    f"The prompt '{prompt}' has {len(ids)} tokens and was cut to {length}; shorten it.", stacklevel=2
                )
        mask = tokens.attention_mask.to(self.device) if getattr(config, "use_attention_mask", False) else None
        embeddings = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return Text(embeddings=embeddings.float(), ids=tokens.input_ids)

    def encode_moments(self, pixels: Tensor) -> Moments:
        """Frame by frame through the VAE; see :meth:`Backbone.encode_moments`.

        Raises:
            StarringError: if height or width is no multiple of the VAE's factor.
        """
        b, _, f, height, width = pixels.shape
        self._check_size(height, width)
        frames = pixels.transpose(1, 2).flatten(0, 1).to(self.device, self.vae.dtype)
        coded = [self.vae.encode(chunk).latent_dist for chunk in frames.split(FRAMES_AT_ONCE)]
        scale = float(self.vae.config.scaling_factor)
        return Moments(
            mean=_frames_apart(torch.cat([c.mean for c in coded]), b, f) * scale,
            std=_frames_apart(torch.cat([c.std for c in coded]), b, f) * scale,
        )

    def decode_video(self, latents: Tensor) -> Tensor:
        """Frame by frame through the VAE; see :meth:`Backbone.decode_video`."""
        b, _, f, _, _ = latents.shape
        frames = (latents / float(self.vae.config.scaling_factor)).transpose(1, 2).flatten(0, 1)
        frames = frames.to(self.device, self.vae.dtype)
        pixels = [self.vae.decode(chunk, return_dict=False)[0] for chunk in frames.split(FRAMES_AT_ONCE)]
        return _frames_apart(torch.cat(pixels), b, f)

    def predict(self, x: Tensor, t: Tensor | int, text: Text, reference: Reference | Tensor | None = None) -> Tensor:
        """One call of the U-Net; see :meth:`Backbone.predict`.

        Raises:
            StarringError: if a reference is given: this U-Net has nothing that could attend to one.
        """
        if reference is not None:
            raise StarringError(f"{self.name} (animatediff) cannot attend to a reference image; use another backbone.")
        b, _, f, _, _ = x.shape
        at = torch.as_tensor(t, device=self.device)
        words = text.expand(b).embeddings.to(self.device, self.dtype).repeat_interleave(f, dim=0)
        answer = self.denoiser(x.to(self.device, self.dtype), at, encoder_hidden_states=words, return_dict=False)[0]
        return answer.float()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Every motion module hands on what it is given, so the U-Net is the 2D U-Net it was made from."""
        modules = [m for name, m in self.denoiser.named_modules() if name.rpartition(".")[0].endswith("motion_modules")]
        # A forward in the instance's own dictionary is found before the class's; offloading may have put one there.
        former = [(m, vars(m).get("forward")) for m in modules]
        try:
            for module in modules:
                vars(module)["forward"] = _hand_on
            yield
        finally:
            for module, forward in former:
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = forward

    def sites(self, kind: str) -> dict[str, nn.Module]:
        """Places by name, down, middle, up; see :meth:`Backbone.sites`. There is no ``joint`` attention."""
        if kind == "stem":
            return {"conv_in": self.denoiser.conv_in}
        if kind == "decoder":
            return {f"up_blocks.{i}": block.motion_modules[-1] for i, block in enumerate(self.denoiser.up_blocks)}
        if kind == "upsampler":
            blocks = enumerate(self.denoiser.up_blocks)
            return {f"up_blocks.{i}": block.upsamplers[-1] for i, block in blocks if block.upsamplers is not None}
        if kind not in _PATTERNS:
            raise self.no_site(kind)
        within, ending = _PATTERNS[kind]
        found = {n: m for n, m in self.denoiser.named_modules() if within in n and n.endswith(ending)}
        order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
        return dict(sorted(found.items(), key=lambda item: order[item[0].split(".", 1)[0]]))

    def image_weights(self) -> dict[str, nn.Parameter]:
        """All weights but those of the motion modules; see :meth:`Backbone.image_weights`."""
        return {name: p for name, p in self.denoiser.named_parameters() if ".motion_modules." not in name}

    def pieces(self) -> list[nn.Module]:
        """Residual blocks, attention and motion modules, and what changes the size; see :meth:`Backbone.pieces`."""
        named = (*self.denoiser.named_modules(), *self.vae.decoder.named_modules())
        return [module for name, module in named if name.rpartition(".")[0].endswith(_PIECES)]

    def scheduler(self) -> Any:
        """A fresh scheduler in the backbone's configuration."""
        kind, config = self._scheduler
        return kind.from_config(config)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of a film; see :meth:`Backbone.latent_shape`."""
        self._check_size(height, width)
        most = int(self.denoiser.config.motion_max_seq_length)
        if not 1 <= frames <= most:
            raise StarringError(f"{self.name} makes films of 1 to {most} frames, and {frames} were asked for.")
        return int(self.vae.config.latent_channels), frames, height // self.factor, width // self.factor

    def _check_size(self, height: int, width: int) -> None:
        if height < self.factor or width < self.factor or height % self.factor or width % self.factor:
            raise StarringError(
                f"{self.name} needs height and width in multiples of {self.factor}, and was given {height}x{width}."
            )


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _frames_apart(frames: Tensor, b: int, f: int) -> Tensor:
    """``(b f) c h w`` to ``b c f h w`` in float32."""
    return frames.unflatten(0, (b, f)).transpose(1, 2).float()


def _adapter(folder: Path | None, adapter: str | None, other_base: bool, dtype: torch.dtype) -> MotionAdapter | None:
    """The motion adapter to put on the base; ``None`` if the pipeline in ``folder`` brings its own by itself."""
    if adapter is not None:
        return load_part(MotionAdapter, "motion adapter", adapter, dtype)
    if folder is None or read_json(folder / "model_index.json").get("_class_name") != "AnimateDiffPipeline":
        return load_part(MotionAdapter, "motion adapter", ADAPTER, dtype)
    if (folder / "motion_adapter" / "config.json").is_file():
        return load_part(MotionAdapter, "motion adapter", str(folder), dtype, "motion_adapter") if other_base else None
    if other_base or read_json(folder / "unet" / "config.json").get("_class_name") != "UNetMotionModel":
        raise StarringError(
            f"{folder} is an AnimateDiff pipeline without a motion_adapter/. It holds: "
            f"{', '.join(sorted(p.name for p in folder.iterdir()))}. Restore it, or pass adapter= a folder or hub id."
        )
    return None


def _base(source: str, folder: Path | None, base: str | None, motion: MotionAdapter | None, dtype: torch.dtype) -> Any:
    """The pipeline that brings U-Net, VAE, text encoder and tokenizer."""
    if base is not None and is_single_file(base):
        return load_single_file(base, folder, dtype)
    if base is not None:
        folder = local_folder(base)
    if folder is None:
        return load_single_file(source, None, dtype)
    own = read_json(folder / "model_index.json").get("_class_name") == "AnimateDiffPipeline"
    return load_pipeline(folder, dtype, **({"motion_adapter": motion} if own and motion is not None else {}))


def _with_motion(
    unet: UNet2DConditionModel | UNetMotionModel, motion: MotionAdapter | None, source: str
) -> UNetMotionModel:
    advice = "The motion adapter must be made for this U-Net (Stable Diffusion 1.5)."
    with quiet(), readable("motion modules", source, advice):
        if isinstance(unet, UNet2DConditionModel):
            return cast("UNetMotionModel", UNetMotionModel.from_unet2d(unet, motion))
        if motion is not None:
            unet.load_motion_modules(motion)
    return unet
