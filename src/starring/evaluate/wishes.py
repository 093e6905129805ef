"""What a person asks to be evaluated, checked before anything is filmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from starring.backbones.base import Backbone
from starring.config import Recipe, Sample
from starring.data import prompts as suites
from starring.data.subject import Subject, slug
from starring.errors import StarringError, unknown
from starring.metrics.suite import Judge, load_judge
from starring.run import Run


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """One run with all that its evaluation needs."""

    run: Run
    """What was learned."""
    label: str
    """Runs of one label are averaged."""
    subject: Subject
    """The photographs it learned from."""
    prompts: list[str]
    """With the placeholder."""

    @property
    def class_word(self) -> str:
        """What the subject is."""
        return self.run.record.subject.class_word

    def said(self, prompt: str) -> str:
        """A prompt in words that CLIP knows."""
        return suites.plain(prompt, self.class_word)


def find_runs(runs: Run | str | Path | Sequence[Run | str | Path]) -> list[Run]:
    """Finished runs with different names.

    Raises:
        StarringError: if there is none, or one is no run, unfinished, or named like another.
    """
    several = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    if not several:
        raise StarringError("There is no run to evaluate. Give the folder that `starring learn` made.")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in several]
    for run in opened:
        if not run.finished:
            raise StarringError(f"{run.folder} has not finished learning. Go on with: {run.resume_command}")
    names = [run.name for run in opened]
    if len(set(names)) != len(names):
        raise StarringError(f"Runs must differ in name to be told apart in one table; these are {', '.join(names)}.")
    return opened


def tasks_of(
    runs: Sequence[Run],
    suite: str | Path | Sequence[str] | None,
    subjects: Mapping[str, Subject],
    labels: Sequence[str] | None,
) -> list[Task]:
    """Each run with its label, photographs and prompts.

    Raises:
        StarringError: if labels are of another number, photographs are gone, or prompts are unknown or lack ``<*>``.
    """
    if labels is not None and len(labels) != len(runs):
        raise StarringError(f"There are {len(labels)} labels for {len(runs)} runs. Give one for each.")
    named = labels if labels is not None else [run.record.recipe.method for run in runs]
    return [
        Task(
            run=run, label=label, subject=_subject(run, subjects.get(run.name)),
            prompts=_prompts(suite if suite is not None else default_suite(runs[0]), run.record.subject.class_word),
        )
        for run, label in zip(runs, named, strict=True)
    ]  # fmt: skip


def default_suite(run: Run) -> str:
    """The suite in the words of the run's backbone."""
    return "miniature" if bundled(run) else "vcd"


def bundled(run: Run) -> bool:
    """Whether the run was learned on a backbone that ships with its own world."""
    return run.record.recipe.backbone.startswith("miniature")


def _prompts(suite: str | Path | Sequence[str], class_word: str) -> list[str]:
    if isinstance(suite, str) and suite in suites.suites():
        found = suites.suite(suite, class_word)
    elif isinstance(suite, Path) or (isinstance(suite, str) and Path(suite).is_file()):
        found = suites.read_prompts(suite)
    elif isinstance(suite, str):
        found = suites.suite(suite, class_word)  # raises, with the nearest name
    else:
        found = list(suite)
    checked = [suites.check_prompt(prompt.replace("{class_word}", class_word)) for prompt in found]
    if not checked or len(set(checked)) != len(checked):
        raise StarringError("A suite needs at least one prompt, and each prompt once.")
    return checked


def _subject(run: Run, given: Subject | None) -> Subject:
    """The photographs that a run learned from."""
    if given is not None:
        return given
    record = run.record.subject
    if record.folder is None or not Path(record.folder).exists():
        where = f"were in {record.folder}, which is gone" if record.folder else "never were files"
        raise StarringError(
            f"The photographs of {run.name} {where}. Films are compared with them: put them back, or pass them as "
            "subjects={run name: Subject}."
        )
    subject = Subject.from_folder(record.folder, class_word=record.class_word, name=record.name)
    known = set(record.digests.values())
    same = [i for i, digest in enumerate(subject.digests) if digest in known]
    if not same:
        raise StarringError(f"{record.folder} no longer holds any photograph that {run.name} learned from.")
    return subject.choose(same)


def settings_of(sample: Sample | Mapping[str, Any] | None) -> Sample | dict[str, Any]:
    """A whole ``Sample``, or the single settings that were given.

    Raises:
        StarringError: for an unknown setting, with the nearest name.
    """
    if isinstance(sample, Sample):
        return sample
    changes = {key: value for key, value in (sample or {}).items() if value is not None}
    known = {field.name for field in fields(Sample)}
    for key in changes:
        if key not in known:
            raise unknown("sampling setting", key, known)
    return changes


def home_of(runs: Sequence[Run], suite: str | Path | Sequence[str] | None, folder: str | Path | None) -> Path:
    """Where everything goes."""
    if folder is not None:
        return Path(folder).expanduser()
    chosen = default_suite(runs[0]) if suite is None else suite
    name = slug(Path(chosen).stem) if isinstance(chosen, str | Path) else "prompts"
    parent = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
    return parent / f"evaluation-{name}"


def find_judge(
    judge: Judge | str | None, runs: Run | Sequence[Run], backbone: Backbone | str | Path | None,
    protocol: str | None = None, eyes: Mapping[str, str] | None = None,
) -> Judge:  # fmt: skip
    """The judge asked for, or the one that suits the first run's backbone; with :func:`usual_eyes` if there are any.

    Raises:
        StarringError: if its networks cannot be found, or a judge that is there is asked to become another.
    """
    if isinstance(judge, Judge):
        if protocol is not None or eyes:
            raise StarringError("This judge has its protocol and eyes already. Pass them to load_judge instead.")
        return judge
    device = backbone.device if isinstance(backbone, Backbone) else None
    runs = [runs] if isinstance(runs, Run) else runs
    name = judge if judge is not None else "miniature" if bundled(runs[0]) else "paper"
    own = usual_eyes([run.record.recipe for run in runs], name)
    return load_judge(name, protocol=protocol or "starring", eyes=eyes or own, device=device)


def usual_eyes(recipes: Sequence[Recipe], judge: str) -> dict[str, str]:
    """Who knows a subject and finds it on frames, where nobody was brought.

    The bundled world has an encoder that no reward is given by, and a segmenter. Elsewhere people bring theirs, unless
    a run was rewarded by faces: then OpenCV's YuNet and SFace.

    Args:
        recipes: how the runs learned; one that was rewarded by faces is enough.
        judge: the judge's name.
    """
    if judge == "miniature":
        return {"identity": "miniature-score", "segmenter": "miniature"}
    faces = [recipe for recipe in recipes if "+" in str(recipe.options.get("eyes", ""))]
    rewarded = any(stage.rewarded for recipe in faces for stage in recipe.stages)
    return {"faces": "yunet+sface"} if rewarded else {}


def other_eyes(run: Run, judge: str) -> dict[str, str]:
    """:func:`usual_eyes`, for a run that was rewarded alone: checkpoints of others are chosen without them."""
    recipe = run.record.recipe
    return usual_eyes([recipe], judge) if any(stage.rewarded for stage in recipe.stages) else {}
