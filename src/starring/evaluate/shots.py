"""Films of an evaluation, kept by what they depend on, so that nothing is filmed or scored twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Reward, Sample, to_json
from starring.data.files import write_image, write_json
from starring.data.masks import Segmenter
from starring.errors import StarringError
from starring.generate import Film, fingerprint, generate
from starring.generate import Progress as FilmProgress
from starring.methods import find
from starring.metrics.statistics import Score
from starring.metrics.suite import Judge, References
from starring.reward import Eyes
from starring.run import Run

VERSION = 1
"""Of the results' layout."""
RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One film that is to be made, and everything that it depends on."""

    run: Run
    """The run that is evaluated."""
    customized: bool
    """With what was learned, or without (the floor)."""
    prompt: str
    """With the placeholder."""
    said: str
    """The same prompt in words that CLIP knows."""
    seed: int
    """Its seed."""
    sample: Sample
    """How it is drawn."""
    correlation: float
    """gamma of the noise prior, the same with and without customization."""
    weights: str | None
    """SHA-256 of what was learned; ``None`` for the floor."""
    reward: Reward | None = None
    """How it is optimised afterwards."""
    eyes: Eyes | None = None
    """Who looks for the reward."""
    segmenter: Segmenter | str | None = None
    """Who cuts the subject out, for methods that film beside its photographs; by default whoever suits the backbone."""

    @property
    def beside(self) -> dict[str, Any] | None:
        """Photographs, entity and who cuts it out, of methods that film beside a photograph; ``None`` of others.

        What such methods learned is the same for all subjects, so these alone tell their films apart.
        """
        record = self.run.record
        if not self.customized or not find(record.recipe.method).paired:
            return None
        given = self.segmenter
        cutter = given if isinstance(given, str) else given.id if given is not None else "suited"
        subject = record.subject
        return {"photographs": sorted(subject.digests.items()), "entity": subject.class_word, "segmenter": cutter}

    def setting(self, backbone: str) -> str:
        """What films with and without customization share besides prompt and seed, in words."""
        s = self.sample
        size = f"{s.width}x{s.height}x{s.frames} at {s.fps} fps"
        return (
            f"{backbone}, {size}, {s.steps} steps, guidance {s.guidance:g}, gamma {self.correlation:g}, '{s.negative}'"
        )

    def key(self, backbone: str) -> str:
        """Sixteen digits that change with anything that the film depends on.

        Args:
            backbone: fingerprint, precision and device of the network.
        """
        record = self.run.record
        learned: dict[str, Any] = {"class_word": record.subject.class_word}
        if self.customized:
            learned = {"method": record.recipe.method, "options": to_json(record.recipe.options), "sha": self.weights}
        shot = {"prompt": self.prompt, "seed": self.seed, "sample": to_json(self.sample), "gamma": self.correlation}
        if self.reward is not None and self.eyes is not None:
            looks = f"{self.eyes.segmenter.id}, {self.eyes.encoder.protocol}"
            shot["reward"] = {"options": to_json(self.reward), "eyes": looks}
        if (beside := self.beside) is not None:
            shot["beside"] = beside
        text = json.dumps({"backbone": backbone, "learned": learned, **shot}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A film that was made and scored."""

    run: str
    """The run's name."""
    customized: bool
    """With what was learned, or without (the floor)."""
    prompt: str
    """With the placeholder."""
    said: str
    """The prompt that CLIP compared the film with."""
    seed: int
    """Its seed."""
    film: Path
    """The mp4; its sidecar lies beside it."""
    frames: Path
    """The uncompressed frames side by side, PNG; scores are computed from these."""
    count: int
    """How many frames."""
    scores: Mapping[str, Score]
    """By key of :data:`starring.metrics.catalogue.METRICS`."""
    fps: float = 8
    """Frames a second."""
    seconds: float | None = None
    """How long it took to film, when it was filmed."""
    memory: int | None = None
    """Most bytes that the GPU held meanwhile; ``None`` on a CPU."""
    setting: str = ""
    """Backbone, sampling and noise: films of another setting have another floor."""

    def value(self, key: str) -> float | None:
        """A score, if it was measured."""
        return self.scores[key].value if key in self.scores else None

    def load(self) -> NDArray[np.uint8]:
        """Its uncompressed frames, ``F H W 3``."""
        with Image.open(self.frames) as sheet:
            return unrolled(sheet, self.count)


@dataclass(kw_only=True, slots=True)
class Ledger:
    """``results.json`` while it grows: films by what they depend on, scores by film, subject and judge."""

    folder: Path
    films: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    scores: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """The ledger in a folder, empty if there is none yet.

        Raises:
            StarringError: if there is a file of that name which is no ledger, rather than losing it.
        """
        path = folder / RESULTS
        if not path.is_file():
            return cls(folder=folder)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] == VERSION:
                return cls(folder=folder, films=values["films"], scores=values["scores"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise StarringError(f"{path} holds no results of an evaluation. Move it away, then try again.") from error
        raise StarringError(
            f"{path} has layout {values['version']}, but this program writes layout {VERSION}. Move it."
        )

    def save(self, more: Mapping[str, Any] | None = None) -> Path:
        """Write everything, whole or not at all; ``more`` is added beside films and scores.

        What another process entered meanwhile is kept, so that several may fill one folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RESULTS
        with FileLock(self.folder / f".{RESULTS}.lock"):
            there = Ledger.open(self.folder)
            self.films, self.scores = there.films | self.films, there.scores | self.scores
            write_json(path, {"version": VERSION, "films": self.films, "scores": self.scores, **(more or {})})
        return path

    def frames(self, key: str) -> NDArray[np.uint8] | None:
        """The frames ``F H W 3`` of a film that was made before, if all of it is still there and unchanged."""
        kept = self.films.get(key)
        if kept is None or not (self.folder / kept["film"]).is_file() or not (self.folder / kept["frames"]).is_file():
            return None
        with Image.open(self.folder / kept["frames"]) as sheet:
            frames = unrolled(sheet, kept["count"])
        return frames if digest(frames) == kept["frames_sha256"] else None

    def keep(self, key: str, film: Film, seconds: float, memory: int | None) -> None:
        """Enter a film that was just written, its frames, and what it took."""
        if film.path is None:
            raise AssertionError("an evaluation keeps its films")
        sheet = film.path.with_suffix(".frames.png")
        write_image(sheet, rolled(film.frames))
        self.films[key] = {
            "film": film.path.relative_to(self.folder).as_posix(),
            "frames": sheet.relative_to(self.folder).as_posix(),
            "count": len(film.frames),
            "frames_sha256": digest(film.frames),
            "prompt": film.prompt,
            "seed": film.seed,
            "seconds": round(seconds, 3),
            "memory": memory,
        }
        self.save()


class Studio:
    """Makes and scores films, remembering both."""

    def __init__(self, ledger: Ledger, judge: Judge | None, on_step: Callable[[str, FilmProgress], None]) -> None:
        """Keep what all films share.

        Args:
            ledger: what was done before, and where new films go.
            judge: who scores; ``None`` leaves films without scores.
            on_step: told about every denoising step, with the run's name.
        """
        self.ledger = ledger
        self.judge = judge
        self.on_step = on_step
        self._judge = hashlib.sha256(judge.protocol.encode()).hexdigest()[:8] if judge is not None else ""

    def shot(self, order: Order, backbone: Backbone, references: References | None) -> Shot:
        """The scored film of an order, from memory as far as possible."""
        key = order.key(f"{fingerprint(backbone)} {backbone.dtype} {backbone.device.type}")
        frames = self.ledger.frames(key)
        if frames is None:
            with watched(backbone.device) as spent:
                film = self._film(order, backbone)
            self.ledger.keep(key, film, spent.seconds, spent.memory)
            frames = film.frames
        kept = self.ledger.films[key]
        return Shot(
            run=order.run.name,
            customized=order.customized,
            prompt=order.prompt,
            said=order.said,
            seed=order.seed,
            film=self.ledger.folder / kept["film"],
            frames=self.ledger.folder / kept["frames"],
            count=kept["count"],
            scores=self._scores(key, frames, order, references),
            fps=order.sample.fps,
            seconds=kept.get("seconds"),
            memory=kept.get("memory"),
            setting=order.setting(backbone.name),
        )

    def _film(self, order: Order, backbone: Backbone) -> Film:
        (film,) = generate(
            order.run,
            order.prompt,
            seed=order.seed,
            backbone=backbone,
            customized=order.customized,
            sample=order.sample,
            correlation=order.correlation,
            reward=order.reward or False,
            eyes=order.eyes,
            segmenter=order.segmenter if order.beside is not None else None,
            folder=self.ledger.folder / "films",
            on_progress=lambda progress: self.on_step(order.run.name, progress),
        )
        return film

    def _scores(
        self, film: str, frames: NDArray[np.uint8], order: Order, references: References | None
    ) -> dict[str, Score]:
        if self.judge is None:
            return {}
        subject = references.digest if references is not None else "none"
        word = order.run.record.subject.class_word
        words = hashlib.sha256(f"{order.said} | {word}".encode()).hexdigest()[:8]
        key = f"{film} {subject} {words} {self._judge}"
        if key not in self.ledger.scores:
            scores = self.judge.score(as_pixels(frames), order.said, references, fps=order.sample.fps, class_word=word)
            self.ledger.scores[key] = {name: asdict(score) for name, score in scores.items()}
            self.ledger.save()
        return {name: Score(**score) for name, score in self.ledger.scores[key].items()}


@dataclass(kw_only=True, slots=True)
class Spent:
    """What a piece of work took."""

    seconds: float = 0
    """By the clock."""
    memory: int | None = None
    """Most bytes that the GPU held; ``None`` on a CPU."""


@contextmanager
def watched(device: torch.device) -> Iterator[Spent]:
    """Measures what is done inside; complete when it is left."""
    spent, cuda = Spent(), device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield spent
    if cuda:
        torch.cuda.synchronize(device)
        spent.memory = torch.cuda.max_memory_allocated(device)
    spent.seconds = time.perf_counter() - start


def rolled(frames: NDArray[np.uint8]) -> Image.Image:
    """Frames ``F H W 3`` side by side, without loss."""
    return Image.fromarray(np.concatenate(list(frames), axis=1))


def unrolled(sheet: Image.Image, count: int) -> NDArray[np.uint8]:
    """The frames ``F H W 3`` of :func:`rolled`."""
    return np.stack(np.split(np.asarray(sheet.convert("RGB")), count, axis=1))


def digest(frames: NDArray[np.uint8]) -> str:
    """SHA-256 of frames ``F H W 3``."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


def as_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Frames ``F H W 3`` as pixels ``3 F H W`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
