"""The checkpoint is chosen by its films: who is best, what is kept, and that no bit of learning changes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from starring.backbones.base import Backbone
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.evaluate import Films, Plan
from starring.evaluate.shots import as_pixels
from starring.generate import generate
from starring.learn import Progress, resume
from starring.learn.choice import Trial, Verdict, best, pareto, trials_of, why
from starring.metrics.suite import Judge, load_judge
from starring.run import Run
from tests.children import ended, fork
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_eyes
from tests.training import begin, state_of

PROMPTS = ("a <*> dog on the beach", "a <*> dog in the snow")
PLAN = Plan(every=3, prompts=PROMPTS, sample={"steps": 2})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return album(tmp_path_factory.mktemp("album") / "ball", 4, (64, 64))


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="module")
def judge(eyes: Path) -> Judge:
    return load_judge(str(eyes))


def films(photographs: Path, judge: Judge, plan: Plan = PLAN) -> Films:
    return Films(plan, Subject.from_folder(photographs, "dog", "ball"), judge)


def trial(step: int, identity: float, text: float = 1.0, motion: float = 1.0) -> Trial:
    return Trial(step=step, verdict=Verdict(identity=identity, text=text, motion=motion))


def test_best_is_identity_less_what_was_lost() -> None:
    early, late, frozen = trial(100, 0.5), trial(200, 0.7, 0.9), trial(300, 0.9, 0.9, 0.3)
    assert best([early, late, frozen]) == late
    assert [t.step for t in pareto([early, late, frozen])] == [100, 200, 300]
    assert frozen.verdict.value == pytest.approx(0.9 * 0.9 * 0.3)
    restless = trial(400, 0.5, 2.0, 7.0)  # more motion than without customization makes up for nothing
    assert restless.verdict.value == early.verdict.value
    assert best([early, restless]) == early
    assert [t.step for t in pareto([early, restless])] == [100, 400]
    assert trial(1, -0.4).verdict.value == 0
    assert [t.step for t in pareto([trial(1, 0.5, 0.9), trial(2, 0.6, 0.9), trial(3, 0.4, 0.8)])] == [2]


def test_the_choice_is_said_in_words() -> None:
    said = why([trial(100, 0.7, 0.9, 0.8), trial(200, 0.75, 0.5, 0.4)])
    assert said == (
        "The result is step 100 of 2 that were filmed: identity 0.700, text 90 %, motion 80 %; the last, step 200: "
        "identity 0.750, text 50 %, motion 40 %. No other beats steps 100, 200."
    )


@pytest.mark.slow
def test_films_are_scored_kept_and_change_no_bit(
    photographs: Path, tiny: Backbone, judge: Judge, tmp_path: Path
) -> None:
    plain = begin(photographs, tiny, tmp_path / "a")
    heard: list[Progress] = []
    run = begin(photographs, tiny, tmp_path / "b", validation=films(photographs, judge), on_progress=heard.append)
    own, truth = state_of(run), state_of(plain)
    same = set(truth) - {"log", "method.safetensors"}
    assert [name for name in same if own[name] != truth[name]] == []
    assert [e for e in run.entries() if "loss" in e and e["step"] > 0] != []
    losses = [[e["loss"] for e in each.entries() if "loss" in e] for each in (run, plain)]
    assert losses[0] == losses[1]

    trials = trials_of(run)
    assert [t.step for t in trials] == [3, 6, 7]
    choice = json.loads((run.folder / "validation" / "choice.json").read_text())
    assert (choice["best"], choice["last"]) == (best(trials).step, 7)
    assert choice["pareto"] == [t.step for t in pareto(trials)]
    kept = {int(p.name[5:]) for p in (run.folder / "validation").glob("step-*")}
    assert kept == {choice["best"], choice["last"], *choice["pareto"]}
    (chosen,) = [entry for entry in run.entries() if "chosen" in entry]
    assert (chosen["chosen"], chosen["why"]) == (choice["best"], choice["why"])
    assert [p.note for p in heard if p.phase == "choose"] == [choice["why"]]
    result = Run.open(run.folder / "validation" / f"step-{choice['best']:06d}").load_weights()
    assert all(torch.equal(value, result[key]) for key, value in run.load_weights().items())
    last = Run.open(run.folder / "validation" / "step-000007").load_weights()
    assert all(torch.equal(value, last[key]) for key, value in plain.load_weights().items())


@pytest.mark.slow
def test_validation_is_inference(photographs: Path, tiny: Backbone, judge: Judge, tmp_path: Path) -> None:
    run = begin(photographs, tiny, tmp_path, validation=films(photographs, judge))
    candidate = Run.open(run.folder / "validation" / "step-000007")
    references = judge.references(Subject.from_folder(photographs).images)

    def scored(customized: bool) -> dict[str, float]:
        """Means over the films that anybody makes from the checkpoint, which is a run like any other."""
        found: dict[str, list[float]] = {"dino_i": [], "clip_t": [], "motion_top": []}
        for prompt in PROMPTS:
            (film,) = generate(
                candidate, prompt, seed=0, backbone=tiny, customized=customized, sample={"steps": 2}, write=False
            )
            scores = judge.score(as_pixels(film.frames), prompt.replace("<*> ", ""), references, class_word="dog")
            for key, values in found.items():
                values.append(scores[key].value)
        return {key: sum(values) / len(values) for key, values in found.items()}

    own, floor, verdict = scored(True), scored(False), trials_of(run)[-1].verdict
    assert verdict.identity == pytest.approx(own["dino_i"])
    assert verdict.by.startswith("DINO-I ")
    assert f"by {verdict.by}, text" in str(verdict)
    assert verdict.text == pytest.approx(own["clip_t"] / floor["clip_t"] if floor["clip_t"] > 0 else 1)
    assert verdict.motion == pytest.approx(own["motion_top"] / floor["motion_top"])


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_filmed(photographs: Path, tiny: Backbone, judge: Judge, tmp_path: Path) -> None:
    moments = [2, 10]  # in the first film of the first checkpoint, and among the second one's

    def until(moment: int) -> None:
        seen = 0

        def watch(progress: Progress) -> None:
            nonlocal seen
            seen += progress.phase == "validate" and not progress.note
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        asked = films(photographs, judge)
        begin(photographs, tiny, tmp_path / str(moment), validation=asked, on_progress=watch)

    assert [ended(fork(partial(until, moment))) for moment in moments] == [-signal.SIGKILL] * 2
    truth = begin(photographs, tiny, tmp_path / "truth", validation=films(photographs, judge))
    for moment in moments:
        folder = tmp_path / str(moment) / "ball-vcd"
        with pytest.raises(StarringError, match="begun with validation"):
            resume(folder, tiny)
        again = resume(folder, tiny, validation=films(photographs, judge))
        assert state_of(again) == state_of(truth)
        choice = [(run.folder / "validation" / "choice.json").read_bytes() for run in (again, truth)]
        assert choice[0] == choice[1]


@pytest.mark.slow
def test_a_signal_while_filming_stops_and_goes_on(
    photographs: Path, tiny: Backbone, judge: Judge, tmp_path: Path
) -> None:
    def strike(progress: Progress) -> None:
        if progress.phase == "validate":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="while filming a checkpoint"):
        begin(photographs, tiny, tmp_path, validation=films(photographs, judge), on_progress=strike)
    run = Run.open(tmp_path / "ball-vcd")
    assert [p.name for p in run.checkpoints()] == ["checkpoint-2", "checkpoint-3"]
    assert Plan.of(run) == PLAN
    with pytest.raises(StarringError, match="another validation"):
        resume(run.folder, tiny, validation=films(photographs, judge, replace(PLAN, seeds=(1,))))
    resume(run.folder, tiny, validation=films(photographs, judge))
    assert run.finished


@pytest.mark.slow
def test_what_cannot_be_a_validation(photographs: Path, tiny: Backbone, eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="every 0 steps"):
        Plan(every=0)
    with pytest.raises(StarringError, match="Put <\\*>"):
        Plan(every=1, prompts=("a dog",))
    with pytest.raises(StarringError, match="Did you mean 'steps'"):
        Plan(every=1, sample={"step": 3})
    blind = load_judge(str(eyes), protocol="vcd")  # nobody measures motion
    with pytest.raises(StarringError, match="identity, text and motion"):
        begin(photographs, tiny, tmp_path, validation=films(photographs, blind))
