"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from starring.cli import show
from starring.config import Recipe, Stage
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.backbones.base import Backbone
    from starring.run import Run

Number = Annotated[int | None, arg(metavar="INT")]
Real = Annotated[float | None, arg(metavar="FLOAT")]
Word = Annotated[str | None, arg(metavar="NAME")]
PARTS = ("base", "adapter", "vae", "lora", "lora_scale")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Which networks, and where they compute."""

    backbone: Annotated[str | None, arg(metavar="NAME", aliases=["--pretrained-model-name-or-path"])] = None
    """Preset, folder in diffusers layout or hub id; by default the run's own, or the bundled miniature."""
    base: Word = None
    """Another Stable Diffusion 1.5 (folder, hub id or single-file checkpoint) under the same motion modules."""
    adapter: Word = None
    """Other motion modules (folder or hub id)."""
    vae: Word = None
    """Another VAE (folder or hub id)."""
    lora: Annotated[str | None, arg(metavar="FILE")] = None
    """A LoRA of a style for Stable Diffusion 1.5, of diffusers or kohya (.safetensors); nothing is tuned."""
    lora_scale: Real = None
    """How strongly it is used; 1 by default."""
    device: Word = None
    """Where to compute, such as cuda or cpu; the accelerator by default if there is one."""
    dtype: Word = None
    """Precision of the weights: fp32, fp16 or bf16; fp32 by default."""
    offload: Annotated[bool, arg(aliases=["--enable-model-cpu-offload"])] = False
    """Keep only the network at work on the accelerator (for films; learning needs all of them)."""
    vae_slicing: Annotated[bool, arg(aliases=["--enable-slicing"])] = False
    """Encode and decode frame by frame: less memory."""
    vae_tiling: Annotated[bool, arg(aliases=["--enable-tiling"])] = False
    """Encode and decode large frames in tiles: less memory, approximate."""
    checkpointing: Annotated[bool, arg(aliases=["--gradient-checkpointing"])] = False
    """Recompute activations while learning: less memory, slower."""

    def load(self, run: Run | None = None, film: Mapping[str, Any] | None = None, usual: str = "miniature") -> Backbone:
        """The backbone that these options describe, or the one that ``run`` was learned on, or that a film was made on.

        Args:
            run: what was learned.
            film: what a film says about its backbone; its precision is kept too, unless the options say otherwise, and
                what its VAE did to save memory.
            usual: what is taken where nothing says otherwise.
        """
        from starring.backbones.presets import load_backbone

        require_device(self.device)
        origin = {"name_or_path": self.backbone or usual}
        if self.backbone is None and run is not None:
            origin = dict(run.record.origin)
        elif self.backbone is None and film is not None:
            origin = dict(film["origin"])
        origin |= {key: value for key in PARTS if (value := getattr(self, key)) is not None}
        dtype = self.dtype or (film["dtype"] if film is not None else None)
        family = None if run is None else run.record.family
        backbone = load_backbone(**origin, device=self.device, dtype=dtype, family=family)
        options = ("offload", "vae_slicing", "vae_tiling", "checkpointing")
        memory = {key: getattr(self, key) or bool(film and film.get(key)) for key in options}
        return backbone.save_memory(**memory) if any(memory.values()) else backbone


def require_device(name: str | None) -> None:
    """Refuse a device that is not there, before anything is loaded for it.

    Raises:
        StarringError: with what to do.
    """
    from starring.generate.films import is_here

    if name is not None and not is_here(name):
        raise StarringError(
            f"There is no device '{name}' on this machine. Give cpu, or leave --device out: then the accelerator is"
            " taken, if there is one."
        )


def chosen(method: str, name: str | None) -> Callable[[Backbone], Recipe]:
    """The recipe of a method by name, or its own for a backbone; names are checked before a backbone is loaded.

    Raises:
        StarringError: for an unknown method or recipe, with the nearest name.
    """
    from starring.methods import find, fitted, recipe, recipe_for

    find(method)
    if name is None:
        return lambda backbone: recipe_for(method, backbone)
    own = recipe(name)
    if own.method != method:
        raise StarringError(f"The recipe '{name}' is for '{own.method}', not for '{method}'. Name its own method.")
    return lambda backbone: fitted(own, backbone)


def changed(
    recipe: Recipe, train: Mapping[str, Any], data: Mapping[str, Any], options: Mapping[str, Any],
    clips: Mapping[str, Any] | None = None,
) -> Recipe:  # fmt: skip
    """The recipe with other settings in all stages, in its data and its options; ``None`` changes nothing.

    Args:
        recipe: what is changed.
        train: settings of every stage's training.
        data: settings of the photographs.
        options: the method's own.
        clips: settings of stages with clips.

    Raises:
        StarringError: for settings of clips where no stage has any.
    """
    own = {key: value for key, value in train.items() if value is not None}
    more = {key: value for key, value in (clips or {}).items() if value is not None}
    if more and not any(stage.clips for stage in recipe.stages):
        raise StarringError(f"{' and '.join(more)}: no stage of '{recipe.method}' learns from clips. Leave it out.")
    stages: Sequence[Stage] = tuple(
        replace(stage, train=replace(stage.train, **own), **(more if stage.clips else {})) for stage in recipe.stages
    )
    other = {key: value for key, value in data.items() if value is not None}
    return replace(
        recipe, stages=tuple(stages), data=replace(recipe.data, **other), options={**recipe.options, **options}
    )


def pairs(given: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a dictionary; values are read as JSON where they are JSON.

    Raises:
        StarringError: for a word without ``=``.
    """
    found: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise StarringError(f"'{word}' is no setting. Write it as key=value, for example correlation=0.2.")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def prompts_of(words: Sequence[str], file: Path | None) -> list[str]:
    """Prompts from the command line and from a file, one a line."""
    from starring.data.prompts import read_prompts

    return [*words, *(read_prompts(file) if file is not None else [])]


def small_world(backbone: Backbone) -> None:
    """Say what the bundled backbone cannot do, before somebody waits for it."""
    from starring.backbones.presets import MINIATURE

    if backbone.source == str(MINIATURE):
        show.remark(
            "The bundled miniature draws a small cartoon world, 64 x 64. Real photographs go through every step, but it"
            " cannot draw them well; for real films use --backbone animatediff and a GPU."
        )
