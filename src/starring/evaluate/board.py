"""What several films tell together: methods side by side, motion that was kept, cost, and distances from real films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from starring.data.files import write_bytes
from starring.data.video import read_video
from starring.errors import StarringError
from starring.evaluate.shots import Ledger, Shot, as_pixels, digest
from starring.evaluate.wishes import Task
from starring.learn.cost import cost_of
from starring.methods import find
from starring.metrics.catalogue import short
from starring.metrics.copying import Kept, kept_motion
from starring.metrics.distribution import Distance, fvd
from starring.metrics.leaderboard import Films, Match, Standing, board, duels, matches, standings
from starring.metrics.suite import Judge
from starring.metrics.table import Table
from starring.run import Run

PLAIN = "without"
"""Names the films without customization."""
ONCE = "none, once for all subjects"
"""Learning of methods that learn nothing for a subject."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a run took."""

    run: str
    """The run's name."""
    learning: float | None
    """Seconds of learning by the clock, over all parts of a run that was resumed; of runs that did not note it, those
    of their log."""
    learning_memory: int | None = None
    """Most bytes that were held while it learned: by the GPU, or on a CPU by the process; ``None`` in older runs."""
    once: bool = False
    """Whether nothing was learned for this subject, since the method learned once for all."""
    size: int
    """Bytes of what was learned."""
    filming: float | None
    """Mean seconds of a film with customization; films that were there before are counted as they were made."""
    plain: float | None
    """The same without."""
    memory: int | None
    """Most bytes that a GPU held while filming with customization; ``None`` on a CPU."""

    @property
    def learned(self) -> str:
        """Seconds of learning in words."""
        return ONCE if self.once else "–" if self.learning is None else f"{self.learning:,.1f} s"

    @property
    def slower(self) -> float | None:
        """How many times as long a film takes as one without."""
        return self.filming / self.plain if self.filming and self.plain else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """All of it."""

    standings: list[Standing] = field(default_factory=list[Standing])
    """Every method in every column; empty for a single method."""
    matches: list[Match] = field(default_factory=list[Match])
    """Every pair of methods in every column."""
    kept: Mapping[str, Kept] = field(default_factory=dict[str, Kept])
    """Run -> the motion it kept of the untuned model's, at the same prompts and seeds."""
    kept_by: Mapping[str, str] = field(default_factory=dict[str, str])
    """Run -> the protocol of that motion."""
    costs: list[Cost] = field(default_factory=list[Cost])
    """Every run's."""
    distances: Mapping[str, Distance] = field(default_factory=dict[str, Distance])
    """Method (and ``without``) -> distance from real films."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Metric and protocol of every number in :attr:`standings` and :attr:`kept`."""
        shown = [(each.metric, each.protocol) for each in self.standings]
        return [*shown, *(("motion_top", protocol) for protocol in self.kept_by.values())]

    def tables(self) -> list[Table]:
        """As text."""
        found = [board(self.standings), duels(self.matches)] if self.standings else []
        found.append(_costs(self.costs, self.kept, self.kept_by))
        if self.distances:
            found.append(_distances(self.distances))
        return found


def judged(
    tasks: Sequence[Task], shots: Sequence[Shot], judge: Judge, ledger: Ledger, real: str | Path | None
) -> Board:
    """Everything that films tell together.

    Args:
        tasks: every run, with its label.
        shots: all films.
        judge: who scores.
        ledger: where features are kept.
        real: a folder of real films (mp4) for the Fréchet distance; ``None`` leaves it out.

    Raises:
        StarringError: if there are no real films in the folder, or no video network.
    """
    methods = by_method(tasks, shots)
    several = len({task.label for task in tasks}) > 1
    kept = {task.run.name: found for task in tasks if (found := _kept(task, shots)) is not None}
    notes = [
        f"FROZEN MOTION: {name} keeps {100 * found.share:.0f} % of the motion that the same prompts and seeds have "
        f"without customization (95 %: {100 * found.low:.0f} to {100 * found.high:.0f} %, {found.films} films)."
        for name, found in kept.items()
        if found.frozen
    ]
    distances: dict[str, Distance] = {}
    if real is not None:
        distances, told = distances_of(tasks, shots, judge, ledger, real)
        notes += told
    floors = whose_floors(tasks, shots)
    return Board(
        standings=standings(methods) if several else [],
        matches=matches(methods, floors) if several else [], kept=kept,
        kept_by={shot.run: shot.scores["motion_top"].protocol for shot in shots if shot.run in kept},
        costs=[_cost(task.run, shots) for task in tasks], distances=distances, notes=tuple(notes),
    )  # fmt: skip


def by_method(tasks: Sequence[Task], shots: Sequence[Shot]) -> dict[str, Films]:
    """Every method's films, and those without, by subject, prompt and seed."""
    whose, floors = {task.run.name: task for task in tasks}, floors_of(tasks, shots)
    found: dict[str, dict[tuple[str, str, int], Mapping[str, object]]] = {}
    for shot in shots:
        task = whose[shot.run]
        record = task.run.record.subject
        subject = f"{record.name} {short(' '.join(sorted(record.digests.values())))}"
        films = found.setdefault(task.label if shot.customized else floors[shot.setting], {})
        films[subject, shot.prompt, shot.seed] = shot.scores
    last = {name: found.pop(name, {}) for name in floors.values()}
    return {**found, **last}  # pyright: ignore[reportReturnType]


def floors_of(tasks: Sequence[Task], shots: Sequence[Shot]) -> dict[str, str]:
    """What films without customization are called, by their setting.

    Methods on different backbones, or with noise of their own, have different floors, which are not taken for one.
    """
    whose = {task.run.name: task.label for task in tasks}
    settings: dict[str, dict[str, None]] = {}
    for shot in shots:
        settings.setdefault(shot.setting, {})[whose[shot.run]] = None
    if len(settings) < 2:
        return dict.fromkeys(settings, PLAIN)
    return {setting: f"{PLAIN} ({', '.join(labels)})" for setting, labels in settings.items()}


def whose_floors(tasks: Sequence[Task], shots: Sequence[Shot]) -> dict[str, list[str]]:
    """Name of the films without customization -> the methods that share their setting."""
    whose, floors = {task.run.name: task.label for task in tasks}, floors_of(tasks, shots)
    found: dict[str, dict[str, None]] = {}
    for shot in shots:
        found.setdefault(floors[shot.setting], {})[whose[shot.run]] = None
    return {floor: list(labels) for floor, labels in found.items()}


def distances_of(
    tasks: Sequence[Task], shots: Sequence[Shot], judge: Judge, ledger: Ledger, real: str | Path
) -> tuple[dict[str, Distance], list[str]]:
    """FVD of every method's films, and of those without, with warnings; none where lengths or rates differ.

    Raises:
        StarringError: if there are no real films in the folder, or no video network.
    """
    if judge.films is None:
        raise StarringError("FVD needs a video network by path: films=i3d_torchscript.pt (StyleGAN-V's export).")
    count, fps = shots[0].count, shots[0].fps
    odd = sorted({f"{shot.count} at {shot.fps:g} fps" for shot in shots})
    if len(odd) > 1:
        return {}, [f"There is no FVD: films differ in length or rate ({', '.join(odd)}). Film all runs alike."]
    films, strangers = _real(real, count, fps)
    if strangers:
        wrong = f"{len(strangers)} of the real films, such as {strangers[0]}, have not {count} frames at {fps:g} fps"
        return {}, [f"There is no FVD: {wrong} as those that were made. Cut and resample them first."]
    protocol = f"frechet; {judge.films.protocol}; {count} frames at {fps:g} fps, not compressed against decoded"
    known = torch.stack([_features(judge, ledger, pixels) for pixels in films])
    whose, floors = {task.run.name: task.label for task in tasks}, floors_of(tasks, shots)
    sets: dict[str, list[Tensor]] = {}
    for shot in shots:
        name = whose[shot.run] if shot.customized else floors[shot.setting]
        sets.setdefault(name, []).append(_features(judge, ledger, as_pixels(shot.load())))
    found = {name: fvd(torch.stack(rows), known, protocol) for name, rows in sets.items() if len(rows) > 1}
    warnings = [f"FVD of {name}: {each.warning}" for name, each in found.items() if each.warning]
    return found, warnings


def _features(judge: Judge, ledger: Ledger, pixels: Tensor) -> Tensor:
    """A film's features, from disk where they were computed before."""
    from safetensors.torch import load, save

    if judge.films is None:
        raise AssertionError("somebody encodes films")
    levels = ((pixels + 1) * 127.5).round().byte().numpy()
    path = ledger.folder / "features" / f"{digest(levels)[:24]}-{short(judge.films.protocol)}.safetensors"
    if path.is_file():
        return load(path.read_bytes())["features"]
    features = judge.features(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({"features": features}))
    return features


def real_films(folder: str | Path) -> list[Path]:
    """The mp4 files of a folder.

    Raises:
        StarringError: if there are fewer than two.
    """
    folder = Path(folder).expanduser()
    paths = sorted(folder.glob("*.mp4")) if folder.is_dir() else []
    if len(paths) < 2:
        raise StarringError(f"{folder} holds {len(paths)} mp4 films; a Fréchet distance needs two, and wants hundreds.")
    return paths


def _real(folder: str | Path, count: int, fps: float) -> tuple[list[Tensor], list[str]]:
    """Real films as ``3 F H W`` in [-1, 1], and the names of those of another length or rate."""
    films, strangers = list[Tensor](), list[str]()
    for path in real_films(folder):
        film = read_video(path)
        if film.pixels.shape[2] != count or abs(film.fps - fps) > 0.01:
            strangers.append(f"{path.name} ({film.pixels.shape[2]} at {film.fps:g} fps)")
        films.append(film.pixels[0])
    return films, strangers


def _kept(task: Task, shots: Sequence[Shot]) -> Kept | None:
    own = [shot for shot in shots if shot.run == task.run.name and "motion_top" in shot.scores]
    custom = [shot.scores["motion_top"].value for shot in own if shot.customized]
    floor = [shot.scores["motion_top"].value for shot in own if not shot.customized]
    return kept_motion(custom, floor) if custom and len(custom) == len(floor) else None


def _cost(run: Run, shots: Sequence[Shot]) -> Cost:
    # Older runs have only a log, and a resumed one starts its clock again: every fall is one such start.
    learning, last = 0.0, 0.0
    for entry in run.entries():
        learning += last if entry["seconds"] < last else 0.0
        last = entry["seconds"]
    whole, once = cost_of(run), find(run.record.recipe.method).paired and not run.record.recipe.stages
    own = [shot for shot in shots if shot.run == run.name]
    peaks = [shot.memory for shot in own if shot.customized and shot.memory is not None]
    return Cost(
        run=run.name, learning=whole.seconds if whole else learning + last or None, size=run.weights.stat().st_size,
        learning_memory=whole.memory if whole else None, once=once,
        filming=_mean([shot.seconds for shot in own if shot.customized]),
        plain=_mean([shot.seconds for shot in own if not shot.customized]), memory=max(peaks, default=None),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _costs(costs: Sequence[Cost], kept: Mapping[str, Kept], by: Mapping[str, str]) -> Table:
    def moved(run: str) -> str:
        if run not in kept:
            return "–"
        found = kept[run]
        return f"{100 * found.share:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] {short(by[run])}"

    rows = [
        (
            cost.run, cost.learned, gigabytes(cost.learning_memory), f"{cost.size / 1024:,.0f} KB",
            _seconds(cost.filming), _seconds(cost.plain), "–" if cost.slower is None else f"{cost.slower:.2f}",
            gigabytes(cost.memory), moved(cost.run),
        )
        for cost in costs
    ]  # fmt: skip
    note = (
        "Seconds by the clock, of learning with all that is prepared for it and over all parts of a run that was "
        "resumed, of films as each was made; they compare on one machine only. Memory of learning is the GPU's, or on "
        "a CPU that of the process. Motion kept: flow of the "
        "fastest 5 % of the pixels, with over without customization, same prompts and seeds, and "
        "its 95 % bootstrap interval."
    )
    return Table(
        title="Cost, and motion that was kept",
        columns=(
            "run", "learning", "learning memory", "size", "film", "film without", "ratio", "GPU memory of films",
            "motion kept",
        ),
        rows=tuple(rows), notes=(note,),
    )  # fmt: skip


def gigabytes(value: int | None) -> str:
    """Bytes in words."""
    return "–" if value is None else f"{value / 2**30:.2f} GB"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _distances(distances: Mapping[str, Distance]) -> Table:
    rows = [
        (
            name, f"{each.value:.1f}", f"[{each.low:.1f}, {each.high:.1f}]", f"{each.films}", f"{each.real}",
            short(each.protocol),
        )
        for name, each in distances.items()
    ]  # fmt: skip
    protocol = next(iter(distances.values())).protocol
    return Table(
        title="Fréchet video distance", columns=("films of", "FVD", "95 %", "films", "real films", "protocol"),
        rows=tuple(rows), notes=(f"{short(protocol)}: {protocol}",),
    )  # fmt: skip
