"""What a run is made of, as frozen dataclasses that go to JSON and back.

A recipe names a backbone and a method, one or more training stages, how the photographs are prepared and how films
are sampled. Nothing here imports torch, so configurations can be read, listed and compared in an instant.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from starring.errors import StarringError, unknown

T = TypeVar("T")

FITS = ("square", "letterbox", "crop", "stretch")
PACES = ("first", "film")
INSTANCES = ("weightiest", "first")

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """How a film is drawn from a backbone. ``None`` means: the backbone's own default."""

    frames: int = 16
    """Number of frames."""
    height: int = 512
    """Frame height in pixels."""
    width: int = 512
    """Frame width in pixels."""
    steps: int = 25
    """Denoising steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale; 1 turns guidance off."""
    fps: int = 8
    """Frames per second of the written film."""
    negative: str = ""
    """Negative prompt."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise StarringError(f"Guidance is a number such as 7.5, or 1 to switch it off; it was {self.guidance}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """How one stage is optimised."""

    steps: int = 400
    """Optimiser steps."""
    batch: int = 4
    """Samples per step and process."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 1e-2
    """AdamW's weight decay, on the method's own parameters only."""
    schedule: str = "constant"
    """Learning-rate schedule, by diffusers' name (``constant``, ``constant_with_warmup``, ``cosine``, ...)."""
    warmup: int = 0
    """Warm-up steps of the schedule."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm; ``None`` leaves it alone."""
    precision: str = "no"
    """Mixed precision as accelerate spells it: ``no``, ``fp16`` or ``bf16``."""
    seed: int = 42
    """Seed of everything random in the stage."""
    checkpoint_every: int = 200
    """Save a resumable checkpoint every so many steps."""
    keep_checkpoints: int = 2
    """How many resumable checkpoints stay on disk."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise StarringError(f"Training needs {name} of at least 1, not {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise StarringError(f"The learning rate is {self.learning_rate}, but it must lie above 0, such as 1e-3.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """How photographs become training samples."""

    size: int | None = None
    """Side of the square training crop in pixels; ``None`` takes the shorter side of the backbone's films."""
    masks: bool = True
    """Cut the subject out by prompt-to-segmentation and train inside the mask only."""
    missing: str = "skip"
    """What to do with a photograph in which no subject was found: ``skip`` it, or use it ``unmasked``."""
    instance: str = "weightiest"
    """Which of several findings in a photograph is the subject: the ``weightiest``, by size and certainty, or the
    ``first``, as in VCD's released code (V14)."""
    unmasked: float = 0.05
    """Share of samples whose mask is all ones."""
    augment: bool = True
    """Zoom and rotate, with the matching caption prefixes."""
    flip: bool = True
    """Mirror half of the samples."""
    rotate: float = 0.7
    """Share of samples that are rotated by N(0, 10 degrees)."""
    variants: int = 256
    """Distinct augmented crops whose VAE moments are encoded once and cached."""
    template: str = "photo of a <*> {class_word}"
    """Caption of a photograph that has none of its own."""
    templates: tuple[str, ...] = ()
    """Several such captions, one drawn for each crop, instead of ``template``."""
    fit: str = "square"
    """Cut ``square`` crops of photographs, or take them whole and bring them to the film's height and width:
    ``letterbox`` (with bars, which nothing is learned from), ``crop`` (the middle) or ``stretch``."""
    pace: str = "first"
    """Which frames of a motion clip are learned from: its ``first`` ones whatever its speed, or as many as a ``film``
    of the same length in seconds has."""

    def __post_init__(self) -> None:
        for name, known in (("fit", FITS), ("pace", PACES), ("instance", INSTANCES)):
            if getattr(self, name) not in known:
                raise unknown(f"choice for '{name}'", str(getattr(self, name)), known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of training: which parameters learn is the method's answer to ``name``."""

    name: str
    """The stage's name, understood by the method."""
    train: Train = field(default_factory=Train)
    """How it is optimised."""
    class_images: int = 0
    """Pictures of the class that the backbone makes beforehand, for prior preservation (arXiv 2208.12242, section
    3.2); as many samples of them as of the subject are in each batch. 0 leaves that out."""
    backbone: str = ""
    """Another backbone of the same family that this stage trains on, such as a distilled one whose films take few
    steps; empty trains on the run's own."""
    rewarded: bool = False
    """Whether the method is judged in this stage by eyes that know the subject, and not by its photographs."""
    clips: int = 0
    """Motion clips in a batch, for methods that learn a motion together with a subject: each step is on so many clips
    or on photographs. 0 leaves clips out."""
    clip_share: float = 0.5
    """Share of the steps that are on clips, drawn at random."""
    clip_share_end: float | None = None
    """Share at the last step, to which it changes evenly from ``clip_share`` at the first; ``None`` keeps it."""

    def __post_init__(self) -> None:
        if self.clip_share_end is not None and not 0 <= self.clip_share_end <= 1:
            raise StarringError(
                f"clip_share_end is {self.clip_share_end}, but it is a share in [0, 1]. Choose one there."
            )
        if self.clips < 0:
            raise StarringError(f"clips is {self.clips}, but a stage takes 0 clips or more.")
        if not 0 < self.clip_share < 1:
            raise StarringError(
                f"clip_share is {self.clip_share}, but a stage learns from both kinds: choose one in (0, 1), as 0.5."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """How a finished film's latents are made more like the subject (BridgeIV, arXiv 2505.06985, section 4.2)."""

    iterations: int = 10
    """Steps of gradient ascent, K (B16: the paper gives no number)."""
    step: float = 0.02
    """lambda: the root mean square by which a step changes a frame's latents, or, with ``normalised`` off, the factor
    of the gradient."""
    normalised: bool = True
    """Divide each frame's gradient by its root mean square (B16)."""
    guarded: bool = True
    """Take back a step after which the reward is lower, and halve the steps from then on (ours); steps of constant
    length would go on around a maximum."""
    latent: str = "sum"
    """The latent reward of all frames: their ``sum``, as printed, or their ``mean`` (B15)."""
    estimate: str = "deterministic"
    """Clean latents as the ``deterministic`` estimate, or by a ``ddpm`` step of eq. 2 with noise (B13)."""

    def __post_init__(self) -> None:
        for name, known in (("latent", ("sum", "mean")), ("estimate", ("deterministic", "ddpm"))):
            if getattr(self, name) not in known:
                raise unknown(f"choice for a reward's '{name}'", str(getattr(self, name)), known)
        if self.iterations < 1 or self.step <= 0:
            raise StarringError(
                f"A reward needs at least 1 iteration and a positive step, not {self.iterations} and {self.step:g}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All choices of a run, with the paper's numbers as the method ships them."""

    method: str
    """Name in ``METHODS``."""
    backbone: str = "miniature"
    """Preset name, hub id or folder."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's own configuration, as plain JSON values."""
    stages: tuple[Stage, ...] = ()
    """Training stages, in order."""
    data: Data = field(default_factory=Data)
    """How photographs become samples."""
    sample: Sample | None = None
    """How films are drawn; ``None`` takes the backbone's defaults."""
    reward: Reward | None = None
    """How films are optimised if that is asked for without settings; ``None`` takes what the paper prints."""
    source: str = ""
    """Where the numbers come from."""


def to_json(config: Any) -> Any:
    """A dataclass as plain JSON values (dicts, lists, numbers, strings)."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in typing.cast("Mapping[Any, Any]", config).items()}
    if isinstance(config, tuple | list):
        return [to_json(value) for value in typing.cast("list[Any]", config)]
    return config


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a dataclass from :func:`to_json`'s output.

    Raises:
        StarringError: if a key is unknown, with the nearest known one, if a required key is missing, or if a value is
            of another kind than the field.
    """
    known = {f.name: f for f in fields(typing.cast("Any", kind))}
    for key in values:
        if key not in known:
            raise unknown(f"setting of {kind.__name__}", key, known)
    missing = [n for n, f in known.items() if n not in values and _required(f)]
    if missing:
        raise StarringError(f"{kind.__name__} lacks {', '.join(missing)}. It has: {', '.join(values) or 'nothing'}.")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _convert(f"{kind.__name__}'s {key}", hints[key], value) for key, value in values.items()})


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _convert(what: str, hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = [a for a in args if a is not type(None)]
        return None if value is None else _convert(what, chosen[0], value)
    if origin is tuple:
        open_ended = len(args) == 2 and args[1] is Ellipsis
        if not isinstance(value, list | tuple) or not (open_ended or len(value) == len(args)):
            kind = "a list" if open_ended else f"a list of {len(args)} values"
            raise StarringError(f"{what} must be {kind}, and it was given as {value!r}.")
        given = typing.cast("list[Any]", value)
        inner = [args[0]] * len(given) if open_ended else list(args)
        return tuple(_convert(what, a, v) for a, v in zip(inner, given, strict=True))
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(hint, typing.cast("Mapping[str, Any]", value))
    if hint in _SCALARS and not _is(hint, value):
        raise StarringError(f"{what} must be {_SCALARS[hint]}, and it was given as {value!r}.")
    return float(value) if hint is float else value


def _is(kind: type, value: Any) -> bool:
    """Whether a JSON value is of this kind: a whole number is a number too, true is none, and no number is NaN."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
