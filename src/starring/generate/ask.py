"""What a person asks for, checked, and filmed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Reward, Sample, to_json
from starring.data.footage import read_footage, read_photograph
from starring.data.masks import Segmenter
from starring.data.prompts import check_cast, check_prompt
from starring.errors import StarringError, unknown
from starring.generate.beside import beside, found_run
from starring.generate.control import ControlNet, guide
from starring.generate.films import Film, OnProgress, Progress, Shooting, film, repeatable, written
from starring.methods import METHODS, build, find
from starring.methods.base import Method, Plain, PlainConfig, require_family, require_fitting
from starring.methods.cast import Cast, roles
from starring.reward import Eyes, again, eyes_for, options_of, rewarded
from starring.run import Run

ENCODERS = ("own", "trained")
"""Whose text encoder reads the prompts."""


def generate(
    run: Run | str | Path | None, prompts: str | Sequence[str], *, seed: int = 0, num: int = 1,
    backbone: Backbone | str | Path | None = None, customized: bool = True, class_word: str | None = None,
    sample: Sample | Mapping[str, Any] | None = None, correlation: float | None = None,
    video: str | Path | None = None, strength: float = 0.8,
    reference: str | Path | Sequence[str | Path] | None = None, entity: str = "",
    segmenter: Segmenter | str | None = None,
    controlnet: ControlNet | str | None = None, control: str | Path | None = None, control_scale: float = 1.0,
    control_look: str = "pictures",
    text_encoder: str = "own", reward: Reward | Mapping[str, Any] | bool = False, eyes: Eyes | None = None,
    others: Sequence[Run | str | Path] = (),
    folder: str | Path | None = None, write: bool = True, on_progress: OnProgress | None = None,
) -> list[Film]:  # fmt: skip
    """Film prompts.

    Args:
        run: a finished run, its folder, or the name of a method that learned once for all subjects and whose run ships
            with the backbone; ``None`` films the bare backbone.
        prompts: one or several, with ``<*>`` where the subject goes (the bare backbone can do without, and so can
            methods to which the subject is shown).
        seed: of the first film of each prompt; the others follow by ones.
        num: films for each prompt.
        backbone: one of the run's family, or what :func:`load_backbone` understands; the run's own by default.
        customized: ``False`` films the same prompts with the class word and without what was learned, under the same
            noise: the floor that scores are compared with.
        class_word: what ``<*>`` becomes without customization; the run's own by default.
        sample: a whole ``Sample``, or single settings that replace the run's (the bare backbone's) own.
        correlation: gamma of the noise prior, in [0, 1), with any method (VCD, V2); the method's own by default.
        video: a clip to change by partial denoising, instead of filming from nothing: a video file of any format, or a
            folder of frames; resampled to the film's speed and size.
        strength: the share of the schedule that ``video`` goes through, in [0, 1], counted from its clean end: 0 is
            the clip as the VAE renders it, 1 begins with (nearly) pure noise.
        reference: a photograph of the subject that stands for the reference image beside which BridgeIV films, or with
            which a reward compares; by default that image is made. For methods to which the subject is shown, one or
            several pictures of it; by default the first photograph of a run that has any.
        entity: the word in the prompts for what these pictures show; by default the run's class word.
        segmenter: who cuts it out, or a name, or ``none`` for pictures that stay whole; see
            :func:`starring.generate.beside.beside`.
        controlnet: a network for the base that films follow, by folder or hub id; with ``control``.
        control: what it looks at, edges or poses for instance: a video file, or a folder with a picture a frame.
        control_scale: weight of what it says.
        control_look: ``pictures`` if it looks at them as they are, ``edges`` if at their edges.
        text_encoder: ``own`` reads prompts with the backbone's text encoder, ``trained`` with that of the backbone that
            the run was learned on (VCD, V7).
        reward: optimise each film after it was made (BridgeIV, section 4.2), with any method: ``True``, or options.
        eyes: who looks at films and photographs for the reward; by default networks that suit the backbone.
        others: more runs whose subjects appear in the same film (beyond the papers). Prompts then name everybody by
            class word, ``a <dog> dog and a <robot> robot``, or by name where two are of one class.
        folder: where films go; the run's ``videos`` by default, ``videos`` for a bare backbone.
        write: ``False`` leaves the films in memory only.
        on_progress: called with a :class:`Progress` after every step, and once more for every finished film.

    Returns:
        Films in the order of prompts, and of seeds within a prompt.

    Raises:
        StarringError: for anything that cannot be filmed as asked, before the first film is begun.
        OSError: if the disk is full; films written before stay, and nothing is half-written.
    """
    opened = found_run(run, backbone) if run is not None else None
    cast = [Run.open(other) if isinstance(other, str | Path) else other for other in others]
    shows = opened is not None and find(opened.record.recipe.method).paired
    check = _bare_prompt if opened is None or not customized or shows else check_prompt
    if cast:
        check = partial(check_cast, words=cast_words([opened, *cast] if opened and customized else []))
    if (controlnet is None) != (control is None):
        raise StarringError("A ControlNet looks at pictures: give both --controlnet and --control, or neither.")
    orders = _orders([prompts] if isinstance(prompts, str) else prompts, seed, num, check)
    shared = prepared(
        opened, backbone=backbone, customized=customized, class_word=class_word, sample=sample, correlation=correlation,
        text_encoder=text_encoder, reward=reward, eyes=eyes, others=cast,
    )  # fmt: skip
    if video is not None:
        shared = replace(shared, **clip(video, strength, shared))
    pictures = [] if reference is None else [reference] if isinstance(reference, str | Path) else list(reference)
    shared = _shown(shared, opened, [prompt for prompt, _ in orders], pictures, entity, segmenter)
    if controlnet is not None and control is not None:
        shared = replace(
            shared, guide=guide(controlnet, control, shared.backbone, shared.sample, control_scale, look=control_look)
        )
    own = opened.videos if opened is not None and str(run) not in METHODS else Path("videos")
    home = Path(folder).expanduser() if folder is not None else own
    return _all(shared, orders, home if write else None, on_progress)


def prepared(
    run: Run | None, *, backbone: Backbone | str | Path | None = None, customized: bool = True,
    class_word: str | None = None, sample: Sample | Mapping[str, Any] | None = None, correlation: float | None = None,
    text_encoder: str = "own", reward: Reward | Mapping[str, Any] | bool = False, eyes: Eyes | None = None,
    others: Sequence[Run] = (),
) -> Shooting:  # fmt: skip
    """Everything that films of one run share, loaded and checked; arguments as in :func:`generate`."""
    loaded = _backbone(backbone, run)
    if others and run is not None and customized:
        method, origin, wished = _cast([run, *others], loaded)
    else:
        method, origin, wished = _method(run, loaded, customized, class_word)
    if (options := options_of(reward, run.record.recipe.reward if run else None)) is not None:
        if others:
            raise StarringError("A reward knows the photographs of one subject. Film several without it.")
        if run is None or not customized:
            raise StarringError("A reward makes films more like a run's photographs. Film a run, with what it learned.")
        eyes = eyes or eyes_for(again(run.record.subject), loaded)
        method, origin = rewarded(method, origin, eyes, options)
    return Shooting(
        backbone=loaded, method=method, origin=origin,
        sample=_sample(sample, run.record.recipe.sample if run else None, loaded),
        correlation=gamma(wished if correlation is None else correlation),
        speaker=_speaker(text_encoder, run if customized else None),
    )  # fmt: skip


def _shown(
    shared: Shooting, run: Run | None, prompts: Sequence[str], pictures: Sequence[str | Path], entity: str,
    segmenter: Segmenter | str | None,
) -> Shooting:  # fmt: skip
    """The shooting with the pictures beside which films are made, as the method takes them.

    Raises:
        StarringError: if it takes none, or not so many.
    """
    if shared.method.paired and run is not None:
        subject = run.record.subject
        if not pictures and subject.digests:
            pictures = again(subject).paths[:1]
        return beside(shared, prompts, pictures, entity or subject.class_word, segmenter)
    if entity:
        these = ", ".join(name for name, kind in METHODS.items() if kind.paired)
        raise StarringError(f"{shared.origin['name']} is shown no subject by a picture, so leave --entity to {these}.")
    if not pictures:
        return shared
    if len(pictures) > 1:
        raise StarringError(f"{shared.origin['name']} films beside one reference image; {len(pictures)} were given.")
    return replace(shared, **photograph(pictures[0], shared))


def _all(
    shared: Shooting, orders: Sequence[tuple[str, int]], home: Path | None, on_progress: OnProgress | None
) -> list[Film]:
    """The films of all (prompt, seed), written into ``home`` one by one."""
    films: list[Film] = []
    steps = shared.sample.steps
    for number, (prompt, seed) in enumerate(orders, start=1):
        where = Progress(film=number, films=len(orders), step=0, steps=steps, prompt=prompt, seed=seed)
        made = film(shared, where, on_progress)
        films.append(written(made, home) if home is not None else made)
        if on_progress is not None:
            on_progress(replace(where, step=steps, done=films[-1]))
    return films


def _orders(prompts: Sequence[str], seed: int, num: int, check: Callable[[str], str]) -> list[tuple[str, int]]:
    """Every prompt with every seed."""
    if not prompts or num < 1:
        raise StarringError(
            f"Nothing to film: {len(prompts)} prompts with {num} films each. Give one of both at least."
        )
    if seed < 0:
        raise StarringError(f"The seed is {seed}, but seeds are whole numbers from 0.")
    return [(prompt, seed + i) for prompt in map(check, prompts) for i in range(num)]


def gamma(correlation: float) -> float:
    """A noise prior's correlation, checked.

    Raises:
        StarringError: if it lies outside [0, 1).
    """
    if not 0 <= correlation < 1:
        raise StarringError(
            f"The noise prior's correlation is {correlation}, but it must lie in [0, 1); 0 is plain noise."
        )
    return correlation


def _bare_prompt(prompt: str) -> str:
    prompt = " ".join(prompt.split())
    if not prompt:
        raise StarringError("A prompt is empty. Write for example 'a dog running on the beach'.")
    return prompt


def _backbone(backbone: Backbone | str | Path | None, run: Run | None) -> Backbone:
    if isinstance(backbone, Backbone):
        return backbone
    if backbone is not None:
        return load_backbone(backbone, family=None if run is None else run.record.family)
    if run is None:
        return load_backbone()
    return load_backbone(**run.record.origin)


def _like(run: Run, backbone: Backbone) -> Method:
    """A fresh method with the run's options."""
    require_family(run.record.recipe.method, run.record.family, backbone)
    return build(run.record.recipe.method, backbone, dict(run.record.recipe.options))


def _method(
    run: Run | None, backbone: Backbone, customized: bool, class_word: str | None
) -> tuple[Method, dict[str, Any], float]:
    """The method to film with, where it came from, and the noise correlation that the run asks for."""
    fresh = _like(run, backbone) if run is not None else None
    wished = fresh.correlation if fresh is not None else 0.0
    if run is None or fresh is None or not customized:
        word = class_word if class_word is not None else run.record.subject.class_word if run else ""
        plain = Plain(backbone, PlainConfig(class_word=word))
        return plain, {"name": plain.name, "options": to_json(plain.config), "file": None}, wished
    method = filled(fresh, backbone, run.load_weights(), run.weights, run.record.origin.get("name_or_path", ""))
    origin = {
        "name": method.name,
        "family": method.family,
        "options": to_json(method.config),
        "file": str(run.weights.resolve()),
        "sha256": hashlib.sha256(run.weights.read_bytes()).hexdigest(),
        "learned": run.record.provenance(),
    }
    return method, origin, wished


def cast_words(runs: Sequence[Run]) -> list[str]:
    """What stands in prompts for the subject of each of several runs.

    Raises:
        StarringError: if there is no run to be the first, or two subjects would have the same word.
    """
    if not runs:
        raise StarringError("Several subjects in one film are several runs, customized. Name the first run too.")
    return roles([(run.record.subject.class_word, run.record.subject.name) for run in runs])


def _cast(runs: Sequence[Run], backbone: Backbone) -> tuple[Method, dict[str, Any], float]:
    """The subjects of several runs together."""
    made = dict(zip(cast_words(runs), (_method(run, backbone, True, None) for run in runs), strict=True))
    method = Cast(backbone, {word: member for word, (member, _, _) in made.items()}).eval()
    members = {word: origin for word, (_, origin, _) in made.items()}
    origin = {"name": Cast.name, "family": backbone.family, "options": {}, "file": None, "members": members}
    return method, origin, method.correlation


def filled(
    method: Method, backbone: Backbone, weights: Mapping[str, Tensor], file: Path, learned_on: str = ""
) -> Method:
    """``method`` with the weights of ``file`` in it, where ``backbone`` is; ``learned_on`` names their own.

    Raises:
        StarringError: if they do not fit.
    """
    require_fitting(method, weights, file, backbone, learned_on)
    method.load_state_dict(dict(weights))
    return method.to(backbone.device).requires_grad_(False).eval()


def _sample(asked: Sample | Mapping[str, Any] | None, own: Sample | None, backbone: Backbone) -> Sample:
    if isinstance(asked, Sample):
        sample = asked
    else:
        changes = {key: value for key, value in (asked or {}).items() if value is not None}
        known = {f.name for f in dataclasses.fields(Sample)}
        for key in changes:
            if key not in known:
                raise unknown("sampling setting", key, known)
        sample = replace(own or backbone.sample, **changes)
    for key in ("steps", "fps"):
        if getattr(sample, key) < 1:
            raise StarringError(f"A film needs {key} of at least 1, not {getattr(sample, key)}.")
    backbone.latent_shape(sample.frames, sample.height, sample.width)
    return sample


def clip(video: str | Path, strength: float, shared: Shooting, numbers: Sequence[int] | None = None) -> dict[str, Any]:
    """The clip to change, as fields of :class:`Shooting`.

    Args:
        video: a file or a folder of frames.
        strength: how much of the schedule it goes through.
        shared: which film it is to become.
        numbers: which of its frames to take, as an earlier film did.
    """
    if not 0 <= strength <= 1:
        raise StarringError(
            f"The strength is {strength}, but it must lie in [0, 1]: how much of the clip is made anew."
        )
    sample = shared.sample
    footage = read_footage(
        video, frames=sample.frames, fps=sample.fps, size=(sample.height, sample.width), numbers=numbers
    )
    with torch.no_grad(), repeatable():
        latents = shared.backbone.encode_video(footage.pixels.to(shared.backbone.device))
    about = {
        "file": str(Path(video).expanduser().resolve()),
        "sha256": footage.sha256,
        "strength": strength,
        "frames": list(footage.numbers),
    }
    return {"video": about, "init": latents}


def photograph(path: str | Path, shared: Shooting) -> dict[str, Any]:
    """The photograph that stands for the reference image, as fields of :class:`Shooting`.

    Raises:
        StarringError: if it cannot be read, or the method films beside no image.
    """
    if not shared.method.referenced:
        raise StarringError(
            f"{shared.origin['name']} films beside no reference image. Film a bridgeiv run with structure or texture"
            " on, or with a reward."
        )
    sample = shared.sample
    pixels, sha256 = read_photograph(path, (sample.height, sample.width))
    with torch.no_grad(), repeatable():
        latents = shared.backbone.encode_video(pixels.to(shared.backbone.device))
    return {"photograph": {"file": str(Path(path).expanduser().resolve()), "sha256": sha256}, "reference": latents}


def _speaker(text_encoder: str, run: Run | None) -> Backbone | None:
    if text_encoder not in ENCODERS:
        raise unknown("text encoder", text_encoder, ENCODERS)
    if text_encoder == "own" or run is None:
        return None
    # Only its text encoder is needed, and that goes to the backbone's device when it is asked.
    return load_backbone(**run.record.origin, device="cpu")
