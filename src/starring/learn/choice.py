"""Which checkpoint becomes the result: the one whose films score best, not the one whose loss is lowest.

The loss of a denoiser is nearly the same for a subject that has just been learned and one that has been learned to
death. So every so many steps the weights are put into a folder that is a run like any other, films of fixed prompts and
seeds are made from it by what makes all films, and those are scored. Here is what is done with the scores; who films
and who scores is given (:class:`Validation`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import to_json
from starring.data.files import write_folder, write_json
from starring.errors import StarringError
from starring.perception.identity import Identity
from starring.run import CONFIG, Run

FOLDER = "validation"
"""In the run: a folder for each checkpoint that is kept, and what the validation itself writes."""
MARGIN = 0.02
"""Differences of mean cosines up to this are taken for chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What films of the fixed prompts and seeds say about a checkpoint."""

    identity: float
    """How much they look like the photographs: a mean cosine, in [-1, 1]."""
    text: float
    """The share of the likeness to the prompts that the untuned model's films have at the same seeds."""
    motion: float
    """The share of the motion that the untuned model's films have at the same seeds."""
    frozen: bool = False
    """Whether less than half of that motion is left, and not by chance."""
    reward: float | None = None
    """What the encoder that training is rewarded by says of the same films; it has no part in the choice."""
    by: str = ""
    """Which score :attr:`identity` is, and the digits of its protocol; empty in older logs."""

    @property
    def held(self) -> tuple[float, float, float]:
        """Identity, text and motion in [0, 1]: more text or motion than without customization counts as all of it.

        Otherwise a restless film would make up for another subject.
        """
        return max(0.0, self.identity), min(1.0, max(0.0, self.text)), min(1.0, max(0.0, self.motion))

    @property
    def value(self) -> float:
        """Identity, less what was lost of text and motion: the product of :attr:`held`."""
        identity, text, motion = self.held
        return identity * text * motion

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        said = f"identity {self.identity:.3f}{by}, text {100 * self.text:.0f} %, motion {100 * self.motion:.0f} %"
        return said if self.reward is None else f"{said} (reward {self.reward:.3f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A checkpoint that was filmed."""

    step: int
    """Optimiser steps, over all stages."""
    verdict: Verdict
    """What its films say."""


class Validation(Protocol):
    """Films and scores checkpoints."""

    @property
    def every(self) -> int:
        """Steps between two of them."""
        ...

    def begin(self, run: Run) -> None:
        """Leave in :data:`FOLDER` of the run what a resumed run needs to go on with the same validation.

        Raises:
            StarringError: if the run was begun with another one.
        """
        ...

    def __call__(
        self, run: Run, candidate: Run, backbone: Backbone, on_step: Callable[[int, int], None],
        identity: Identity | None = None,
    ) -> Verdict:  # fmt: skip
        """Film and score a checkpoint.

        Args:
            run: the run that is learned; :data:`FOLDER` in it keeps what may be needed again.
            candidate: the checkpoint, as a finished run of its own.
            backbone: what it is learned on.
            on_step: told what is done and what there is to do.
            identity: the subject as the reward knows it, if there is one.
        """
        ...


def best(trials: Sequence[Trial]) -> Trial:
    """The trial of the highest value; of equals, the earliest, which has been trained least."""
    return max(trials, key=lambda trial: (trial.verdict.value, -trial.step))


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats: one at least as good in identity, text and motion and better in one."""

    def beaten(trial: Trial) -> bool:
        own = trial.verdict.held
        return any(
            all(a >= b for a, b in zip(other.verdict.held, own, strict=True)) and other.verdict.held != own
            for other in trials
        )

    return [trial for trial in trials if not beaten(trial)]


def why(trials: Sequence[Trial]) -> str:
    """The choice in words."""
    chosen, last = best(trials), trials[-1]
    ground = f"step {chosen.step} of {len(trials)} that were filmed: {chosen.verdict}"
    against = f"; the last, step {last.step}: {last.verdict}" if chosen is not last else ", and the last"
    front = ", ".join(str(trial.step) for trial in pareto(trials))
    return f"The result is {ground}{against}. No other beats steps {front}."


def alarms(trials: Sequence[Trial]) -> list[str]:
    """What is wrong with the last trial, in words: frozen motion, or a reward that is hacked.

    A reward is hacked where the encoder that gives it sees more likeness than at an earlier checkpoint, and the one
    that scores, which training never asked, sees less; each by more than :data:`MARGIN`.
    """
    last = trials[-1]
    said: list[str] = []
    if last.verdict.frozen:
        said.append(
            f"Step {last.step}: motion is frozen, {100 * last.verdict.motion:.0f} % of the untuned model's is left."
            " Train less, or with a lower learning rate."
        )
    seen = [trial for trial in trials[:-1] if trial.verdict.reward is not None]
    if last.verdict.reward is None or not seen:
        return said
    top = max(seen, key=lambda trial: trial.verdict.identity)
    assert top.verdict.reward is not None
    if last.verdict.reward > top.verdict.reward + MARGIN and last.verdict.identity < top.verdict.identity - MARGIN:
        said.append(
            f"Step {last.step}: the reward is being hacked. Its encoder sees more likeness than at step {top.step}"
            f" ({last.verdict.reward:.3f}, {top.verdict.reward:.3f} then), another encoder less"
            f" ({last.verdict.identity:.3f}, {top.verdict.identity:.3f} then). Train less, or with a larger penalty."
        )
    return said


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chooser:
    """The checkpoints of one run that were filmed. Its memory is the run's log, so a resumed run remembers."""

    run: Run
    """The run that is learned."""
    validation: Validation
    """Who films and scores."""

    @property
    def trials(self) -> list[Trial]:
        """What the log has, oldest first."""
        return trials_of(self.run)

    def due(self, step: int) -> bool:
        """Whether a step is one whose checkpoint is to be filmed and has not been.

        That is every so many steps of the last stage, and the end of each: in the middle of an earlier stage the
        weights are not yet what the method makes, but a later one that does harm can be undone.
        """
        ends = [0, *accumulate(stage.train.steps for stage in self.run.record.recipe.stages)]
        later = step - ends[-2]
        wanted = step in ends[1:] or (later > 0 and later % max(1, self.validation.every) == 0)
        return wanted and all(trial.step != step for trial in self.trials)

    def film(
        self, step: int, about: Mapping[str, Any], weights: Mapping[str, Tensor], backbone: Backbone,
        on_step: Callable[[int, int], None], identity: Identity | None = None,
    ) -> Trial:  # fmt: skip
        """Film and score a checkpoint, write scores and alarms into the log, and drop what they have made useless.

        Args:
            step: optimiser steps done.
            about: what else the log line says.
            weights: the method's state dict.
            backbone: what it is learned on.
            on_step: told what is done and what there is to do.
            identity: the subject as the reward knows it, if there is one.
        """
        candidate = self._candidate(step, weights)
        verdict = self.validation(self.run, candidate, backbone, on_step, identity)
        trial = Trial(step=step, verdict=verdict)
        entry = {"step": step, **about, FOLDER: {**to_json(verdict), "value": verdict.value}}
        wrong = alarms([*self.trials, trial])
        self.run.append({**entry, "alarms": wrong} if wrong else entry)
        self._keep()
        return trial

    def settle(self) -> dict[str, Tensor]:
        """The weights of the best checkpoint; the log gets a line that says why, and ``choice.json`` says it all.

        Raises:
            StarringError: if that checkpoint is gone.
        """
        trials = self.trials
        chosen, reason = best(trials), why(trials)
        if not any("chosen" in entry for entry in self.run.entries()):
            last = self.run.entries()[-1]
            self.run.append({**_place(last), "chosen": chosen.step, "why": reason})
        write_json(
            self.run.folder / FOLDER / "choice.json",
            {
                "best": chosen.step, "last": trials[-1].step, "pareto": [trial.step for trial in pareto(trials)],
                "why": reason,
                "alarms": [said for n in range(len(trials)) for said in alarms(trials[: n + 1])],
                "trials": [{"step": t.step, **to_json(t.verdict), "value": t.verdict.value} for t in trials],
            },
        )  # fmt: skip
        folder = _folder(self.run, chosen.step)
        if not (folder / CONFIG).is_file():
            raise StarringError(f"{folder}, the best checkpoint of {self.run.folder}, is gone. Learn the run again.")
        return Run.open(folder).load_weights()

    def _candidate(self, step: int, weights: Mapping[str, Tensor]) -> Run:
        """The checkpoint as a run of its own, so that it is filmed, compared and used like any other."""
        folder = _folder(self.run, step)
        if folder.exists():
            # A killed process left it; the resumed one has the same weights, but only these are known to be whole.
            shutil.rmtree(folder)

        def fill(part: Path) -> None:
            write_json(part / CONFIG, to_json(self.run.record))
            Run(folder=part, record=self.run.record).save_weights(weights)

        write_folder(folder, fill)
        return Run(folder=folder, record=self.run.record)

    def _keep(self) -> None:
        """Remove all checkpoints but the best, the last and those that no other one beats."""
        trials = self.trials
        kept = {trial.step for trial in (best(trials), trials[-1], *pareto(trials))}
        for folder in (self.run.folder / FOLDER).glob("step-*"):
            number = re.fullmatch(r"step-(\d+)", folder.name)
            if number is not None and int(number[1]) not in kept:
                shutil.rmtree(folder)


def trials_of(run: Run) -> list[Trial]:
    """The checkpoints that a run's log says were filmed, oldest first."""
    found: list[Trial] = []
    for entry in run.entries():
        with contextlib.suppress(KeyError):
            scores = entry[FOLDER]
            verdict = Verdict(
                identity=scores["identity"], text=scores["text"], motion=scores["motion"],
                frozen=scores.get("frozen", False), reward=scores.get("reward"),
                by=scores.get("by", ""),
            )  # fmt: skip
            found.append(Trial(step=entry["step"], verdict=verdict))
    return found


def _place(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("step", "stage", "seconds") if key in entry}


def _folder(run: Run, step: int) -> Path:
    return run.folder / FOLDER / f"step-{step:06d}"
