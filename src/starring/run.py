"""The run folder: what was asked for, what was learned, and everything needed to go on exactly where it stopped.

::

    my_dog-vcd/
      config.json              the record: recipe, backbone, photographs with their digests, versions
      method.safetensors       the result; present when, and only when, learning has finished
      start.safetensors        what learning began with, if it was not the method's own beginning
      checkpoint-200/          weights, optimizer, scheduler, random states, data position: safetensors and JSON only
      log.jsonl                one line a step
      masks/  previews/  videos/  cache/

Files appear whole or not at all (written beside, flushed to disk, renamed), so a process may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from starring.config import Recipe, from_json, to_json
from starring.data.files import write_bytes, write_folder, write_json, write_text
from starring.data.masks import SegmenterRecord
from starring.data.motion import MotionRecord
from starring.data.pairs import PairsRecord
from starring.data.rights import Rights
from starring.data.subject import Subject, slug
from starring.errors import StarringError

VERSION = 2
"""Of the run folder's layout."""
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow")
"""Whose versions a run notes."""
CONFIG, WEIGHTS, START, STATE = "config.json", "method.safetensors", "start.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Photographs:
    """The subject of a run, as far as it must be known again."""

    name: str
    """The subject's name."""
    class_word: str
    """What it is."""
    folder: str | None
    """Where the photographs were, ``None`` if they never were files."""
    digests: Mapping[str, str]
    """SHA-256 by file name."""
    rights: Rights | None = None
    """What was declared about them when learning began."""

    @classmethod
    def of(cls, subject: Subject) -> Photographs:
        """The record of a subject."""
        return cls(
            name=subject.name, class_word=subject.class_word, rights=subject.rights,
            folder=str(subject.folder.resolve()) if subject.folder else None,
            digests={path.name: digest for path, digest in zip(subject.paths, subject.digests, strict=True)},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """``config.json``: the choices of a run, all of them resolved."""

    version: int = VERSION
    """Of the folder's layout."""
    recipe: Recipe
    """Method, every option of it, stages, data and sampling."""
    origin: Mapping[str, str]
    """The arguments of ``load_backbone`` that load the backbone again."""
    family: str
    """The backbone's family; any backbone of it can film the run."""
    subject: Photographs
    """Whose photographs."""
    motion: MotionRecord | None = None
    """The clips, of a run that learned a motion as well."""
    pairs: PairsRecord | None = None
    """The corpus, of a run that learned from pairs; its subject is then nobody in particular."""
    segmenter: SegmenterRecord | None = None
    """Who cuts the subject out; ``None`` if nobody does, and in older runs."""
    rewarded: tuple[str, ...] = ()
    """The encoders, each with a fingerprint of its weights, that gave the reward of rewarded stages."""
    dtype: str | None = None
    """Precision of the backbone, such as ``float32``; ``None`` in older runs."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions, for the record."""

    def provenance(self) -> dict[str, Any]:
        """What films say about the run: recipe, subject, libraries; neither photographs nor places on this disk."""
        values = to_json(self)
        subject = {key: values["subject"][key] for key in ("name", "class_word", "rights")}
        return {"recipe": values["recipe"], "subject": subject, "libraries": values["libraries"]}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A training state at a step's end. Equal states give equal files."""

    step: int
    """Optimiser steps done, over all stages."""
    stage: int
    """Index of the stage to go on with."""
    stage_step: int
    """Optimiser steps done in that stage."""
    position: int
    """Samples drawn from that stage's data."""
    weights: Mapping[str, Tensor]
    """The method's state dict."""
    optimizer: Mapping[str, Any]
    """The optimizer's state dict."""
    scheduler: Mapping[str, Any]
    """The learning-rate scheduler's state dict: plain values."""
    scaler: Mapping[str, Any] = field(default_factory=dict)
    """The gradient scaler's state dict, empty without half precision."""
    rng: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The states of all sources of randomness, of every process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run on disk."""

    folder: Path
    """The run's own folder."""
    record: Record
    """What it was asked for."""

    @classmethod
    def create(cls, runs: str | Path, name: str, record: Record, start: Mapping[str, Tensor] | None = None) -> Run:
        """A new folder ``name`` in ``runs``, or ``name-2``, ``name-3``... where that is taken: nothing is overwritten.

        Args:
            runs: where.
            name: how it should be called.
            record: what is asked for.
            start: values of some of the method's parameters that learning begins with.

        Raises:
            OSError: if the disk is full or ``runs`` cannot be written; then there is no new folder.
        """
        runs = Path(runs).expanduser()
        runs.mkdir(parents=True, exist_ok=True)
        number = 1

        def fill(part: Path) -> None:
            write_json(part / CONFIG, to_json(record))
            if start:
                write_bytes(part / START, _tensors(start))

        while True:
            folder = runs / (slug(name) if number == 1 else f"{slug(name)}-{number}")
            number += 1
            with contextlib.suppress(FileExistsError):
                write_folder(folder, fill)
                return cls(folder=folder, record=record)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run.

        Raises:
            StarringError: if this is no run, or one of another layout.
        """
        folder = Path(folder).expanduser()
        path = folder / CONFIG
        if not path.is_file():
            near = sorted(p.parent.name for p in (folder, folder.parent) if p.is_dir() for p in p.glob(f"*/{CONFIG}"))
            there = f" Runs near it: {', '.join(near[:8])}." if near else ""
            raise StarringError(f"{folder} is not a run: it has no {CONFIG}.{there} `starring learn` makes one.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StarringError(f"{path} is not JSON ({error}). Restore it, or learn the run again.") from error
        if not isinstance(values, dict) or values.get("version") != VERSION:
            version = values.get("version") if isinstance(values, dict) else None
            advice = "Update starring." if isinstance(version, int) and version > VERSION else "Learn the run again."
            raise StarringError(f"{path} has layout {version}, but this program reads layout {VERSION}. {advice}")
        return cls(folder=folder, record=from_json(Record, values))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The result's file."""
        return self.folder / WEIGHTS

    @property
    def masks(self) -> Path:
        """Where masks are cached."""
        return self.folder / "masks"

    @property
    def previews(self) -> Path:
        """Where pictures made while learning go."""
        return self.folder / "previews"

    @property
    def videos(self) -> Path:
        """Where films go."""
        return self.folder / "videos"

    @property
    def cache(self) -> Path:
        """What can be made again, and is removed when learning has finished."""
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        """One JSON line for each step."""
        return self.folder / "log.jsonl"

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.weights.is_file()

    @property
    def resume_command(self) -> str:
        """What to type to go on."""
        words = ["starring", "learn", "--resume", str(self.folder)]
        cutter, dtype = self.record.segmenter, self.record.dtype or "float32"
        words += ["--segmenter", cutter.name] if cutter is not None and cutter.name else []
        return shlex.join([*words, "--dtype", dtype] if dtype != "float32" else words)

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the result, which also says that the run has finished."""
        about = {"method": self.record.recipe.method, "family": self.record.family, "version": VERSION,
                 "class_word": self.record.subject.class_word}  # fmt: skip
        write_bytes(self.weights, _tensors(tensors, about))

    def load_weights(self) -> dict[str, Tensor]:
        """The result, for ``method.load_state_dict``.

        Raises:
            StarringError: if learning has not finished, or the file is damaged.
        """
        if not self.finished:
            raise StarringError(f"{self.folder} has not finished learning. Go on with: {self.resume_command}")
        try:
            with safe_open(self.weights, framework="pt") as stored:
                return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise StarringError(f"{self.weights} is damaged ({error}). Restore it, or learn the run again.") from error

    def load_start(self) -> dict[str, Tensor]:
        """What learning began with, besides the method's own beginning; empty if it was nothing else."""
        path = self.folder / START
        return load(path.read_bytes()) if path.is_file() else {}

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        found = [
            (int(m[1]), p) for p in self.folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
        ]
        return [path for _, path in sorted(found)]

    def save_checkpoint(self, state: Checkpoint, keep: int = 2) -> Path:
        """Write a checkpoint and remove all but the newest ``keep``.

        Raises:
            OSError: if the disk is full; earlier checkpoints are then untouched.
        """
        path = self.folder / f"checkpoint-{state.step}"
        if path.exists():
            # Only a damaged or a foreign one can be in the way: a run never passes the same step twice otherwise.
            shutil.rmtree(path)
        write_folder(path, lambda part: _write_state(part, state))
        for old in self.checkpoints()[: -max(1, keep)]:
            shutil.rmtree(old)
        return path

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or ``None``."""
        for path in reversed(self.checkpoints()):
            state = _read_state(path)
            if state is not None:
                return state
        return None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """The log; a last line that a crash cut short is left out."""
        found: list[dict[str, Any]] = []
        for line in self.log.read_text(encoding="utf-8").splitlines() if self.log.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def rewind(self, step: int) -> None:
        """Forget what happened after ``step``: log lines, and files that a killed process left half-written."""
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        write_text(self.log, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept))
        for part in [*self.folder.glob(".*.part"), *self.folder.glob("*/.*.part")]:
            # It may have lain in a folder that is gone now.
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the same run; a killed process lets go by itself.

        Raises:
            StarringError: if another process is at it.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks; two trainings of one run remain the person's care there
            yield
            return
        with (self.folder / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StarringError(f"Another process is training {self.folder}. Wait for it, or stop it.") from error
            yield


def libraries() -> dict[str, str]:
    """Installed versions of what results depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _tensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    # One metadata key: several would be written in a random order, and equal contents would be unequal files.
    note = {"starring": json.dumps(about, sort_keys=True)} if about else None
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, note)


def _write_state(folder: Path, state: Checkpoint) -> None:
    moments = {
        f"{index}.{name}": value
        for index, values in state.optimizer["state"].items()
        for name, value in values.items()
    }  # fmt: skip
    rng = {f"{i}.{name}": each[name] for i, each in enumerate(state.rng) for name in ("torch", "generator")}
    rng |= {f"{i}.cuda.{n}": value for i, each in enumerate(state.rng) for n, value in enumerate(each["cuda"])}
    files = {"method": _tensors(state.weights), "optimizer": _tensors(moments), "rng": _tensors(rng)}
    for name, data in files.items():
        write_bytes(folder / f"{name}.safetensors", data)
    values = {
        "version": VERSION,
        "step": state.step, "stage": state.stage, "stage_step": state.stage_step, "position": state.position,
        "optimizer": state.optimizer["param_groups"], "scheduler": dict(state.scheduler), "scaler": dict(state.scaler),
        "rng": [{name: each[name] for name in ("python", "numpy")} for each in state.rng],
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }  # fmt: skip
    write_json(folder / STATE, values)


def _last_number(key: str) -> int:
    number = key.rsplit(".", 1)[1]
    return int(number) if number.isdecimal() else -1


def _read_state(folder: Path) -> Checkpoint | None:
    try:
        values = json.loads((folder / STATE).read_text(encoding="utf-8"))
        raw = {name: (folder / f"{name}.safetensors").read_bytes() for name in values["sha256"]}
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return None
    if any(hashlib.sha256(data).hexdigest() != values["sha256"][name] for name, data in raw.items()):
        return None
    files = {name: load(data) for name, data in raw.items()}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in files["optimizer"].items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in values["optimizer"]]
    rng = [
        {
            **plain, **{name: files["rng"][f"{i}.{name}"] for name in ("torch", "generator")},
            "cuda": [files["rng"][k] for k in sorted(files["rng"], key=_last_number) if k.startswith(f"{i}.cuda.")],
        }
        for i, plain in enumerate(values["rng"])
    ]  # fmt: skip
    return Checkpoint(
        step=values["step"], stage=values["stage"], stage_step=values["stage_step"], position=values["position"],
        weights=files["method"], optimizer={"state": moments, "param_groups": groups},
        scheduler=values["scheduler"], scaler=values["scaler"], rng=rng,
    )  # fmt: skip
