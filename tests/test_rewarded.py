"""Learning from a reward goes wrong in known ways, and each of them is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.errors import StarringError
from starring.evaluate import Films, Plan
from starring.evaluate.taught import unfair, weights_of, who
from starring.evaluate.validation import rewarded
from starring.evaluate.wishes import other_eyes
from starring.learn import learn, loop, resume, voids
from starring.learn.choice import Trial, Verdict, alarms, trials_of
from starring.methods import recipe
from starring.metrics.suite import Judge, load_judge
from starring.perception.encoders import ImageEncoder
from starring.perception.faces import SegmentedFaces
from starring.perception.identity import Identity, IdentityEncoder, IdentityEyes, MaskedSubjects
from starring.run import Run
from tests.perception.tiny_eyes import tiny_eyes
from tests.perception.tiny_identity import tiny_identity, tiny_iresnet
from tests.reward.middle import Middle
from tests.test_recipes import Ellipse, subject


def trial(step: int, identity: float, reward: float | None, frozen: bool = False, motion: float = 1.0) -> Trial:
    verdict = Verdict(identity=identity, text=1.0, motion=motion, frozen=frozen, reward=reward)
    return Trial(step=step, verdict=verdict)


def test_a_hacked_reward_is_told_and_an_honest_one_is_not() -> None:
    begun, better = trial(50, 0.40, 0.30), trial(100, 0.50, 0.50)
    assert alarms([begun, better]) == []
    (said,) = alarms([begun, better, trial(150, 0.45, 0.80)])
    assert said == (
        "Step 150: the reward is being hacked. Its encoder sees more likeness than at step 100 (0.800, 0.500 then), "
        "another encoder less (0.450, 0.500 then). Train less, or with a larger penalty."
    )
    assert alarms([begun, better, trial(150, 0.49, 0.80)]) == [], "less than the margin"
    assert alarms([begun, better, trial(150, 0.40, 0.45)]) == [], "both fell: unlearned, not hacked"
    assert alarms([trial(50, 0.5, None), trial(100, 0.1, None)]) == [], "nobody was rewarded"


def test_frozen_motion_is_told() -> None:
    (said,) = alarms([trial(50, 0.4, None, frozen=True, motion=0.31)])
    assert said.startswith("Step 50: motion is frozen, 31 % of the untuned model's is left.")


class Breaking(IdentityEncoder):
    """An encoder whose answers, or their gradients, are no numbers in some of the steps that learn."""

    def __init__(self, kind: str, steps: range) -> None:
        super().__init__(tiny_iresnet(), 32, "breaking")
        self.kind, self.steps, self.asked = kind, steps, 0

    def images(self, pixels: Tensor) -> Tensor:
        vectors = super().images(pixels)
        if not torch.is_grad_enabled():
            return vectors
        self.asked += 1
        if self.asked - 1 not in self.steps:
            return vectors
        return vectors * torch.nan if self.kind == "value" else vectors + 0 * (0 * vectors.square()).sqrt()


def eyes(kind: str, steps: range) -> IdentityEyes:
    return IdentityEyes(finder=MaskedSubjects(Middle(), "dog"), encoder=Breaking(kind, steps))


def small(steps: int) -> Recipe:
    """The paper's recipe: two steps of words, and so many of the adapter."""
    whole = recipe("personalvideo")
    words, adapter = (replace(stage, backbone="", train=replace(stage.train, batch=1)) for stage in whole.stages)
    words = replace(words, train=replace(words.train, steps=2))
    stages = words, replace(adapter, train=replace(adapter.train, steps=steps))
    return replace(whole, stages=stages, data=replace(whole.data, size=32, variants=4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["value", "gradient"])
def test_a_reward_that_is_no_number_changes_nothing_and_is_counted(kind: str, tiny: Backbone, tmp_path: Path) -> None:
    heard: list[str] = []

    def learned(bad: range, steps: int) -> Run:
        return learn(
            "personalvideo", subject(), tiny, small(steps), tmp_path, segmenter=Ellipse(), eyes=eyes(kind, bad),
            on_progress=lambda p: heard.append(p.note),
        )  # fmt: skip

    broken = learned(range(3), 3).load_weights()
    assert not any(value.any() for name, value in broken.items() if name.endswith("up.weight"))
    assert [note for note in heard if note] == [
        f"Step {n} was left out: the reward or its gradient is no number." for n in (3, 4, 5)
    ]
    run = learned(range(1, 2), 3)
    voids = [entry["parts"]["void"] for entry in run.entries() if entry["stage"] == "adapter"]
    assert voids == [0, 1, 0]
    weights = run.load_weights()
    assert all(value.isfinite().all() for value in weights.values())
    assert any(value.any() for name, value in weights.items() if name.endswith("up.weight"))


@pytest.mark.slow
def test_ten_in_a_row_end_it(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no number 10 times in a row, at step 12"):
        learn("personalvideo", subject(), tiny, small(12), tmp_path, segmenter=Ellipse(), eyes=eyes("value", range(99)))


def seeing(sees: Callable[[int], bool]) -> IdentityEyes:
    """Eyes that look twice at each film, after the three photographs; ``sees`` says on which films they see anybody."""
    finder = MaskedSubjects(Middle(lambda n: n < 3 or sees((n - 3) // 2)), "dog")
    return IdentityEyes(finder=finder, encoder=IdentityEncoder(tiny_iresnet(), 32, "seeing"))


@pytest.mark.slow
def test_a_step_without_the_subject_changes_nothing_and_is_told(tiny: Backbone, tmp_path: Path) -> None:
    """Also not by the penalty or by weight decay, which need no film."""
    heard: list[str] = []
    recipe = small(3)
    words, adapter = recipe.stages
    recipe = replace(recipe, stages=(words, replace(adapter, train=replace(adapter.train, checkpoint_every=2))))
    run = learn(
        "personalvideo", subject(), tiny, recipe, tmp_path, segmenter=Ellipse(), eyes=seeing(lambda film: film > 1),
        on_progress=lambda p: heard.append(p.note),
    )  # fmt: skip
    steps = [entry["parts"] for entry in run.entries() if entry["stage"] == "adapter"]
    assert [(step["seen"], step["void"]) for step in steps] == [(0, 0), (0, 0), (1, 0)]
    assert [note for note in heard if note] == [
        f"Step {n} was left out: the subject is not seen on its film." for n in (3, 4)
    ]
    assert any(value.any() for name, value in run.load_weights().items() if name.endswith("up.weight"))


@pytest.mark.slow
def test_too_many_without_the_subject_end_it_resumed_or_not(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voids, "UNSEEN", 4)
    recipe = small(9)
    words, adapter = recipe.stages
    recipe = replace(recipe, stages=(words, replace(adapter, train=replace(adapter.train, checkpoint_every=2))))
    who, said = subject(), r"on none of the films of 4 steps in a row, at step 6 .*--options prompts=FILE"
    with pytest.raises(StarringError, match=said):
        learn("personalvideo", who, tiny, recipe, tmp_path, segmenter=Ellipse(), eyes=seeing(lambda _: False))
    (folder,) = tmp_path.iterdir()
    state = Run.open(folder).load_checkpoint()
    assert state is not None
    assert (state.step, state.stage_step) == (4, 2)
    assert not state.optimizer["state"], "AdamW took no step"
    with pytest.raises(StarringError, match=said):
        resume(folder, tiny, who, segmenter=Ellipse(), eyes=seeing(lambda _: False))


def test_a_stage_in_which_nobody_is_seen_is_no_success(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="films of 2 steps in a row, at step 4"):
        learn("personalvideo", subject(), tiny, small(2), tmp_path, segmenter=Ellipse(), eyes=seeing(lambda _: False))


def test_a_process_that_saw_nobody_has_no_likeness_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(1.0, {"seen": 1.0, "likeness": 0.5}), (3.0, {"seen": 0.0}), (2.0, {"seen": 1.0, "likeness": 0.1})]
    monkeypatch.setattr(loop, "gather_object", lambda own: told)
    here: Any = SimpleNamespace(accelerator=SimpleNamespace(num_processes=3))
    for loss, parts in told:
        mean = loop.Loop._averaged(here, loss, parts)
        assert mean == (2.0, {"seen": pytest.approx(2 / 3), "likeness": pytest.approx(0.3)})


def test_rows_are_counted_apart_in_a_log() -> None:
    def log(*steps: tuple[float, float]) -> list[dict[str, object]]:
        told = [{"stage": "adapter", "parts": {"seen": seen, "void": void}} for seen, void in steps]
        return [{"stage": "tokens", "parts": {"error": 1.0}}, *told]

    fine, void, unseen = (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)
    assert voids.void_in(log(), "adapter") == (0, 0)
    assert voids.void_in(log(void, fine, void, void), "adapter") == (2, 0)
    assert voids.void_in(log(fine, void, unseen, unseen), "adapter") == (1, 2)
    assert voids.void_in(log(unseen, void), "adapter") == (1, 0)
    assert voids.void_in(log(unseen, unseen), "another") == (0, 0)


def test_no_network_judges_what_it_taught(tmp_path: Path) -> None:
    judge = load_judge(str(tiny_eyes(tmp_path / "eyes")))

    def taught(encoder: ImageEncoder) -> str:
        eyes = IdentityEyes(finder=MaskedSubjects(Middle(), "dog"), encoder=encoder)
        return weights_of(Identity(eyes=eyes, references=torch.eye(2)))

    assert who(judge) == who(judge, taught(tiny_identity().eyes.encoder)) == "dino_i"
    assert who(judge, taught(judge.dino)) == "clip_i"
    faces = replace(judge.eyes, faces=SegmentedFaces(Middle(), judge.dino), clip=None)
    knowing = Judge(eyes=faces)
    assert who(knowing) == "face"
    with pytest.raises(StarringError, match="another network than the reward's"):
        who(knowing, taught(judge.dino))


def test_a_table_says_whose_scores_are_rewards(tiny: Backbone, tmp_path: Path) -> None:
    """The run's record names who rewarded it; another encoder's scores are not spoken of."""
    judge, own = load_judge(str(tiny_eyes(tmp_path / "eyes"))), eyes("value", range(0))
    run = learn("personalvideo", subject(), tiny, small(2), tmp_path, segmenter=Ellipse(), eyes=own)
    assert Run.open(run.folder).record.rewarded == (own.encoder.id,)
    assert unfair(judge, [run]) == []
    by_dino = replace(run, record=replace(run.record, rewarded=(judge.dino.id,)))
    (said,) = unfair(judge, [run, by_dino])
    assert said.startswith(f"DINO-I is by {judge.dino.id}")
    assert run.name in said
    by_clip = replace(run, record=replace(run.record, rewarded=(judge.dino.id, judge.clip.id)))
    assert [each.partition(" is by ")[0] for each in unfair(judge, [by_clip])] == ["DINO-I", "CLIP-I", "CLIP-T"]


@pytest.mark.parametrize(
    ("name", "eyes", "judge", "others"),
    [
        ("personalvideo", "yunet+r100.pth", "paper", {"faces": "yunet+sface"}),
        ("personalvideo", "dino", "paper", {}),
        ("personalvideo-miniature", "", "miniature", {"identity": "miniature-score", "segmenter": "miniature"}),
        ("vcd", "", "paper", {}),
    ],
)
def test_whoever_judges_a_rewarded_run_is_somebody_else(
    name: str, eyes: str, judge: str, others: dict[str, str]
) -> None:
    whole = recipe(name)
    run: Any = SimpleNamespace(
        record=SimpleNamespace(
            recipe=replace(whole, options={**whole.options, "eyes": eyes} if eyes else whole.options)
        )
    )
    assert other_eyes(run, judge) == others


@pytest.mark.slow
def test_checkpoints_are_scored_by_another_encoder_than_the_reward(tiny: Backbone, tmp_path: Path) -> None:
    """DINO rewards, so the identity that checkpoints are chosen by is CLIP's."""
    photographs, judge = subject(), load_judge(str(tiny_eyes(tmp_path / "eyes")))
    eyes = IdentityEyes(finder=MaskedSubjects(Middle(), "dog"), encoder=judge.dino)
    plan = Plan(every=1, prompts=("a <*> dog",), sample={"steps": 2})
    run = learn(
        "personalvideo", photographs, tiny, small(2), tmp_path, segmenter=Ellipse(), eyes=eyes,
        validation=Films(plan, photographs, judge),
    )  # fmt: skip
    trials = trials_of(run)
    # Two steps of words, of which only the last is filmed, and two of the adapter.
    assert [t.step for t in trials] == [2, 3, 4]
    films = json.loads((run.folder / "validation" / "results.json").read_text())["scores"].values()
    seen = {key: {film[key]["value"] for film in films} for key in ("clip_i", "dino_i")}
    assert not seen["clip_i"] & seen["dino_i"]
    assert all(t.verdict.identity in seen["clip_i"] for t in trials)
    assert all(t.verdict.reward is not None for t in trials)
    choice = json.loads((run.folder / "validation" / "choice.json").read_text())
    assert [each["reward"] for each in choice["trials"]] == [t.verdict.reward for t in trials]


def test_the_reward_of_films_is_the_mean_over_frames_and_photographs() -> None:
    identity = tiny_identity()
    frames = torch.rand(3, 40, 40, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte()

    class Taken:
        def load(self):  # type: ignore[no-untyped-def]
            return frames.numpy()

    crops = [identity.eyes.crop(frame.permute(2, 0, 1)[None].float() / 255)[0] for frame in frames]
    slow = [
        float(identity.eyes.encoder.images(crop)[0] @ reference) for crop in crops for reference in identity.references
    ]
    assert rewarded([Taken()], identity) == pytest.approx(sum(slow) / len(slow), abs=1e-5)  # type: ignore[list-item]
