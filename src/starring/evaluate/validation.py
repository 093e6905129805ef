"""Films of checkpoints while a subject is learned, made and scored exactly as finished runs are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data import prompts as suites
from starring.data.files import write_json
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.evaluate.shots import Ledger, Order, Shot, Studio
from starring.evaluate.taught import weights_of, who
from starring.evaluate.wishes import bundled, other_eyes, settings_of
from starring.generate import Progress as FilmProgress
from starring.learn.choice import FOLDER, Verdict
from starring.methods import build
from starring.metrics.catalogue import METRICS, short
from starring.metrics.copying import kept_motion
from starring.metrics.suite import Judge, References, load_judge
from starring.perception.identity import Identity
from starring.run import Run

PLAN = "plan.json"
"""What was asked for, so that a resumed run goes on with it."""
PROMPTS = 2
"""Prompts of a validation where nothing else is said: films take far longer than steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is filmed of every checkpoint."""

    every: int
    """Steps between two of them."""
    prompts: tuple[str, ...] = ()
    """With ``<*>``; by default two that are far apart in the suite that suits the backbone."""
    seeds: tuple[int, ...] = (0,)
    """One film for each prompt and seed."""
    judge: str | None = None
    """Who scores, as in :func:`starring.evaluate.evaluate`; by default whoever suits the backbone."""
    eyes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Eyes that are brought besides, by role, as there: ``faces`` or ``identity`` know who it is better than DINO."""
    sample: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of sampling that replace the run's own, such as fewer steps."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise StarringError(f"Checkpoints are filmed every {self.every} steps; that must be 1 at least.")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) != len(self.seeds):
            raise StarringError(f"Seeds must be different whole numbers from 0, at least one; not {list(self.seeds)}.")
        for prompt in self.prompts:
            suites.check_prompt(prompt)
        settings_of(self.sample)

    @classmethod
    def of(cls, run: Run) -> Plan | None:
        """The plan that an unfinished run was begun with, or ``None``.

        Raises:
            StarringError: if it cannot be read.
        """
        path = run.folder / FOLDER / PLAN
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            lists = {key: tuple(values.pop(key)) for key in ("prompts", "seeds")}
            return cls(**lists, **values)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StarringError(f"{path} holds no plan of a validation. Restore it, or learn the run again.") from error


class Films:
    """A :class:`starring.learn.Validation`: every checkpoint films the same prompts with the same noise.

    Films and scores are kept by what they depend on, in the run's ``validation`` folder, so that a run that is resumed
    makes none of them twice; those without customization are made once.
    """

    def __init__(self, plan: Plan, subject: Subject, judge: Judge | None = None) -> None:
        """Keep what was given.

        Args:
            plan: what is filmed.
            subject: the photographs.
            judge: who scores, instead of the plan's.
        """
        self.plan = plan
        self._subject = subject
        self._judge = judge
        self._references: References | None = None

    @property
    def every(self) -> int:
        """Steps between two checkpoints that are filmed."""
        return self.plan.every

    def begin(self, run: Run) -> None:
        """Write the plan, or refuse another than the run was begun with: its verdicts could not be compared.

        Raises:
            StarringError: in that case.
        """
        path, values = run.folder / FOLDER / PLAN, json.loads(json.dumps(asdict(self.plan)))
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, values)
        elif {"eyes": {}, **json.loads(path.read_text(encoding="utf-8"))} != values:  # older plans have none
            raise StarringError(
                f"{run.folder} was begun with another validation, {path}. Leave its options out to go on with that."
            )

    def __call__(
        self, run: Run, candidate: Run, backbone: Backbone, on_step: Callable[[int, int], None],
        identity: Identity | None = None,
    ) -> Verdict:  # fmt: skip
        """See :class:`starring.learn.Validation`.

        Raises:
            StarringError: if the judge cannot tell identity, text or motion.
        """
        home = run.folder / FOLDER
        judge = self._scorer(run, backbone)
        orders = self._orders(candidate, backbone)
        done = 0

        def step(_: str, film: FilmProgress) -> None:
            on_step(done * film.steps + film.step, len(orders) * film.steps)

        studio, shots = Studio(Ledger.open(home), judge, step), list[Shot]()
        for order in orders:
            shots.append(studio.shot(order, backbone, self._references))
            done += 1
        found = verdict(shots, who(judge, "" if identity is None else weights_of(identity)))
        return found if identity is None else replace(found, reward=rewarded(shots[::2], identity))

    def _scorer(self, run: Run, backbone: Backbone) -> Judge:
        if self._judge is None:
            name = self.plan.judge or ("miniature" if bundled(run) else "paper")
            self._judge = load_judge(name, device=backbone.device, eyes=self.plan.eyes or other_eyes(run, name))
        if self._references is None:
            self._references = self._judge.references(self._subject.images)
        return self._judge

    def _orders(self, candidate: Run, backbone: Backbone) -> list[Order]:
        """For every prompt and seed the film with the checkpoint and the one without."""
        recipe, word = candidate.record.recipe, self._subject.class_word
        sample = replace(recipe.sample or backbone.sample, **dict(self.plan.sample))
        gamma = build(recipe.method, backbone, dict(recipe.options)).correlation
        weights = hashlib.sha256(candidate.weights.read_bytes()).hexdigest()
        return [
            Order(
                run=candidate, customized=customized, prompt=prompt, said=suites.plain(prompt, word), seed=seed,
                sample=sample, correlation=gamma, weights=weights if customized else None,
            )
            for prompt in self.plan.prompts or usual_prompts(candidate, word)
            for seed in self.plan.seeds
            for customized in (True, False)
        ]  # fmt: skip


def usual_prompts(run: Run, class_word: str) -> list[str]:
    """The first prompt and the middle one of the suite that suits the run's backbone."""
    found = suites.suite("miniature" if bundled(run) else "vcd", class_word)
    return [found[i * len(found) // PROMPTS] for i in range(PROMPTS)]


def rewarded(shots: Sequence[Shot], identity: Identity) -> float:
    """The reward of films: the mean over the frames that show the subject of the mean cosine with the photographs.

    0 if nobody is seen. Learning looks at one frame and one photograph at a time, and jitters; this is its mean.
    """
    likeness: list[Tensor] = []
    for shot in shots:
        frames = torch.from_numpy(shot.load()).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            crops, seen = identity.eyes.crop(frames.to(identity.references.device))
            if seen:
                likeness.append((identity.eyes.encoder.images(crops) @ identity.references.T).mean(1).cpu())
    return float(torch.cat(likeness).mean()) if likeness else 0.0


def verdict(shots: Sequence[Shot], key: str = "dino_i") -> Verdict:
    """Identity, text (CLIP-T) and motion (top 5 %) of films against their floor.

    Args:
        shots: for each prompt and seed the film with customization and then the one without.
        key: the score that is identity (:func:`who`); a film in which nobody was seen has 0.

    Raises:
        StarringError: if one of the three was not scored.
    """
    customized, floor = shots[::2], shots[1::2]
    scored = set.intersection(*(set(shot.scores) for shot in shots))
    if not {"clip_t", "motion_top"} <= scored:
        raise StarringError(
            "Checkpoints are chosen by identity, text and motion. This judge needs CLIP (and, better, DINO) and a flow:"
            " name another with --judge."
        )

    def mean(films: Sequence[Shot], key: str) -> float:
        return sum(shot.scores[key].value for shot in films) / len(films)

    said = mean(floor, "clip_t")
    moves = [shot.scores["motion_top"].value for shot in customized]
    kept = kept_motion(moves, [shot.scores["motion_top"].value for shot in floor])
    return Verdict(
        identity=sum(shot.value(key) or 0.0 for shot in customized) / len(customized),
        # Nothing can be lost where the untuned model does not follow the prompt, or does not move.
        text=mean(customized, "clip_t") / said if said > 0 else 1.0,
        motion=kept.share if kept is not None else 1.0,
        frozen=kept is not None and kept.frozen,
        by=" ".join([METRICS[key].title, *sorted({short(s.scores[key].protocol) for s in shots if key in s.scores})]),
    )
