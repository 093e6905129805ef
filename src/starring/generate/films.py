"""One film: sampled, decoded, described, written."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Sample, to_json
from starring.data.files import write_json
from starring.data.subject import slug
from starring.data.video import to_uint8, write_video
from starring.errors import StarringError
from starring.generate.control import Guide, following
from starring.methods.base import PLACEHOLDER, Method, Request
from starring.reward import Rewarded
from starring.run import libraries

VERSION = 2
"""Of the sidecar's layout."""
MEMORY = ("vae_slicing", "vae_tiling")
"""What :meth:`Backbone.save_memory` switches on that a film's bits depend on."""
DECODE = 4
"""Frames that the VAE decodes at once: at 512x512 a frame takes more than a gigabyte."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Film:
    """One film, in memory and, when it was written, on disk."""

    frames: NDArray[np.uint8]
    """The frames as they were decoded, before any video compression, ``F H W 3``."""
    prompt: str
    """The prompt as it was asked for, with ``<*>``."""
    seed: int
    """Its seed."""
    facts: dict[str, Any]
    """What the sidecar holds."""
    path: Path | None = None
    """The mp4."""
    sidecar: Path | None = None
    """The JSON beside it."""
    notes: tuple[str, ...] = ()
    """What a person should know: of a film made again, what differs; empty if nothing does."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Progress:
    """Where the work stands; told after every denoising step, and once more when a film is finished."""

    film: int
    """Which film, from 1."""
    films: int
    """How many were asked for."""
    step: int
    """Position in the schedule."""
    steps: int
    """Length of the schedule."""
    prompt: str
    """The film's prompt."""
    seed: int
    """The film's seed."""
    done: Film | None = None
    """The finished film."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shooting:
    """Everything that the films of one call share."""

    backbone: Backbone
    """The network."""
    method: Method
    """What is put on it."""
    sample: Sample
    """How films are drawn."""
    correlation: float
    """Gamma of the noise prior."""
    origin: dict[str, Any]
    """Where the method came from, for the sidecar."""
    speaker: Backbone | None = None
    """Whose text encoder is used, when it is not the backbone's own."""
    video: dict[str, Any] | None = None
    """The clip that is changed: path, digest and strength."""
    init: Tensor | None = None
    """Its latents."""
    photograph: dict[str, Any] | None = None
    """The photograph beside which films are made: path and digest."""
    reference: Tensor | None = None
    """Its latents."""
    beside: dict[str, Any] | None = None
    """The pictures of the subject beside which films are made, by methods that need any: files, digests, and who cut
    the subject out."""
    entity: str = ""
    """The word for it in the prompts."""
    guide: Guide | None = None
    """What their layout follows."""


def shoot(method: Method, backbone: Backbone, request: Request) -> NDArray[np.uint8]:
    """The frames of one film, ``F H W 3``: sampling, decoding in small groups of frames, and nothing on disk.

    Raises:
        StarringError: if the film came out as no numbers, which half precision can cause.
    """
    with torch.no_grad(), repeatable():
        latents = method.generate(backbone, request)
        # Where latent frames are frames, the VAE sees each alone; one that compresses time needs them all.
        alone = latents.shape[2] == request.sample.frames
        groups = latents.split(DECODE, dim=2) if alone else (latents,)
        pixels = torch.cat([backbone.decode_video(group).float().cpu() for group in groups], dim=2)
    if not torch.isfinite(pixels).all():
        raise StarringError(
            f"The film of '{request.prompt}' holds values that are no numbers. In half precision that is an overflow: "
            "load the backbone with dtype float32 or bfloat16. Otherwise the learned weights are damaged: learn again."
        )
    return to_uint8(pixels)


def film(shared: Shooting, where: Progress, on_progress: OnProgress | None) -> Film:
    """The film at ``where``, in memory, with all its facts."""

    def tell(step: int, steps: int) -> None:
        if on_progress is not None:
            on_progress(replace(where, step=step, steps=steps))

    backbone = shared.backbone
    request = Request(
        prompt=where.prompt, sample=shared.sample, correlation=shared.correlation, init=shared.init,
        reference=shared.reference, entity=shared.entity, strength=shared.video["strength"] if shared.video else 1.0,
        generator=torch.Generator().manual_seed(where.seed), on_step=tell,
    )  # fmt: skip
    with speaking(backbone, shared.speaker), following(backbone, shared.guide):
        frames = shoot(shared.method, backbone, request)
    facts = described(shared, where.prompt, where.seed, frames)
    return Film(frames=frames, prompt=where.prompt, seed=where.seed, facts=facts)


def described(shared: Shooting, prompt: str, seed: int, frames: NDArray[np.uint8]) -> dict[str, Any]:
    """All that the sidecar of ``frames`` says."""
    backbone = shared.backbone
    return {
        "version": VERSION,
        "prompt": prompt,
        "seed": seed,
        "sample": to_json(shared.sample),
        "correlation": shared.correlation,
        "method": shared.origin,
        "backbone": about(backbone),
        "text_encoder": about(shared.speaker) if shared.speaker else None,
        "video": shared.video,
        "photograph": shared.photograph,
        "beside": shared.beside,
        "control": shared.guide.facts if shared.guide else None,
        "rewards": history(shared.method),
        "machine": machine(backbone.device),
        "versions": versions(),
        "digital_source_type": "trainedAlgorithmicMedia",  # IPTC's word for what a machine made
        "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
    }


def history(method: Method) -> dict[str, Any] | None:
    """How the last film's rewards rose, ``[latent, pixel]`` before the first iteration and after each of them."""
    if not isinstance(method, Rewarded) or method.result is None:
        return None
    return {"history": [[each.latent, each.pixel] for each in method.result.history], "told": method.result.told}


def written(made: Film, folder: Path, stem: str | None = None) -> Film:
    """The film on disk: the mp4, which carries the facts too, and the sidecar. Nothing is overwritten.

    Args:
        made: the film.
        folder: where to; it is created.
        stem: its name without suffix, and without the number that it gets if the name is taken; by default what the
            film shows.

    Raises:
        OSError: if the disk is full; then neither file is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = _moved(made.facts, folder)
    pixels = torch.from_numpy(made.frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    with ExitStack() as undo:
        path = _free(folder, stem or _stem(made))
        sidecar = path.with_suffix(".json")
        undo.callback(path.unlink, missing_ok=True)
        write_video(path, pixels, fps=made.facts["sample"]["fps"], metadata=facts, title=made.prompt)
        write_json(sidecar, facts)
        undo.pop_all()
    return replace(made, path=path, sidecar=sidecar, facts=facts)


def _stem(made: Film) -> str:
    """A name that says what the film shows."""
    words = slug(made.prompt.replace(PLACEHOLDER, " ").lower())[:60].rstrip("-.")
    plain = "-plain" if made.facts["method"]["name"] == "plain" else ""
    return f"{words}{plain}-seed{made.seed}"


def _free(folder: Path, stem: str) -> Path:
    """A name that was not taken, and is now, by an empty file: another process may be looking for one as well."""
    number = 1
    while True:
        path = folder / (f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4")
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            if not path.with_suffix(".json").exists():
                return path
            path.unlink()
        number += 1


def _moved(facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The facts with the method's file named from the film's own folder, so that a run can be moved as a whole."""

    def moved(method: dict[str, Any]) -> dict[str, Any]:
        if "members" in method:
            return {**method, "members": {word: moved(member) for word, member in method["members"].items()}}
        if method["file"] is None:
            return method
        return {**method, "file": os.path.relpath(method["file"], folder.resolve())}

    return {**facts, "method": moved(facts["method"])}


def machine(device: torch.device) -> dict[str, Any]:
    """What a film's bits depend on besides weights, seed and libraries."""
    return {
        "device": device.type,
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def is_here(device: str) -> bool:
    """Whether this machine has a device of that name, such as ``cuda``."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # unknown, not compiled in, or not plugged in
        return False
    return True


def versions() -> dict[str, str]:
    """Installed versions of this program and of what it stands on."""
    return dict(_installed())


@cache  # looking through everything that is installed takes as long as a small denoising step
def _installed() -> dict[str, str]:
    return {"starring": metadata.version("starring"), **libraries()}


def about(backbone: Backbone) -> dict[str, Any]:
    """What is noted about a backbone."""
    return {
        "origin": dict(backbone.origin),
        "family": backbone.family,
        "dtype": backbone.precision,
        "fingerprint": fingerprint(backbone),
        **{key: bool(getattr(backbone.vae, key.replace("vae", "use"), False)) for key in MEMORY},
    }


def fingerprint(backbone: Backbone) -> str:
    """A digest that other weights would change: every tensor's name and shape, and eight numbers spread over it."""
    digest = hashlib.sha256()
    for part in backbone.parts():
        for name, value in part.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(_eight(value.detach()).tobytes())
    return digest.hexdigest()[:16]


def _eight(value: Tensor) -> NDArray[np.float64]:
    """Numbers spread over a tensor; by NumPy where it can, since for so few PyTorch takes several times as long."""
    if value.device.type == "cpu" and value.dtype != torch.bfloat16:  # which NumPy does not know
        every = value.numpy().reshape(-1)
        return every[:: max(1, every.size // 8)][:8].astype(np.float64)
    flat = value.flatten()
    return flat[:: max(1, len(flat) // 8)][:8].double().cpu().numpy()


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


@contextmanager
def speaking(backbone: Backbone, speaker: Backbone | None) -> Iterator[None]:
    """Prompts read by another backbone's text encoder (VCD, V7)."""
    if speaker is None:
        yield
        return
    former = backbone.text_encoder, backbone.tokenizer
    backbone.text_encoder = speaker.text_encoder.to(backbone.device)
    backbone.tokenizer = speaker.tokenizer
    try:
        yield
    finally:
        backbone.text_encoder, backbone.tokenizer = former


@contextmanager
def repeatable() -> Iterator[None]:
    """Algorithms that give the same bits each time, on accelerators too."""
    cudnn = torch.backends.cudnn
    former = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = former


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads, since sums depend on how they are divided."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)
