"""Several sets of words side by side, of which the reward keeps one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.generate import generate
from starring.learn import learn
from starring.methods import Batch
from starring.methods.candidates import mean_worth
from starring.methods.personalvideo import PersonalVideo
from tests.methods.test_contract import batch
from tests.methods.test_personalvideo import fresh, rewarded
from tests.perception.tiny_identity import tiny_identity, tiny_identity_eyes
from tests.test_recipes import Ellipse, shrunk, subject


def apart(method: PersonalVideo) -> list[torch.nn.Parameter]:
    """The sets, each with words of its own."""
    assert method.candidates is not None
    sets = [method.rows, *method.candidates.others]
    for k, rows in enumerate(sets):
        rows.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(k))
    return sets


def four() -> list[str]:
    return ["photo of a <*> dog", "a <*> dog in the snow", "a <*> dog asleep", "a <*> dog"]


def test_each_learns_from_its_part_of_the_batch(tiny: Backbone) -> None:
    """The gradient of a set is that of a method with these words alone, from its samples alone."""
    method = fresh(tiny, candidates=3, vectors=2)
    sets = apart(method)
    assert {id(p) for p in method.learns("tokens")} == {id(p) for p in sets}
    given = replace(batch(tiny), latents=batch(tiny, 4).latents, masks=None, captions=four())
    method.loss(tiny, replace(given, generator=torch.Generator().manual_seed(1)), 0.0).total.backward()
    generator = torch.Generator().manual_seed(1)
    t = torch.randint(tiny.parametrization.timesteps, (4,), generator=generator)
    noise = torch.randn(given.latents.shape, generator=generator)
    for k, rows in enumerate(sets):
        alone = fresh(tiny, vectors=2)
        alone.rows.data.copy_(rows.data)
        errors = []
        for i in range(k, 4, 3):
            one, process = given.latents[[i]], tiny.parametrization
            with alone.attached(tiny), tiny.still():
                text = tiny.encode_text(alone.prompt(given.captions[i]))
                out = tiny.predict(process.noised(one, noise[[i]], t[[i]]), t[[i]], text)
            errors.append((out - process.target(one, noise[[i]], t[[i]])).square().mean())
        (torch.stack(errors).sum() / 4).backward()
        assert rows.grad is not None
        assert alone.rows.grad is not None
        torch.testing.assert_close(rows.grad, alone.rows.grad, rtol=1e-4, atol=1e-7)
        assert rows.grad.abs().max() > 1e-6


def test_the_reward_keeps_the_best_once(tiny: Backbone) -> None:
    """By equal films of each, as they are one by one; what was kept is the method's own from then on."""
    method = fresh(tiny, candidates=3, vectors=2, auditions=2, frames=2)
    sets = [rows.detach().clone() for rows in apart(method)]
    identity = tiny_identity()
    worths = []
    for rows in sets:
        alone = fresh(tiny, vectors=2, frames=2)
        alone.rows.data.copy_(rows)
        films = [rewarded(tiny, identity=identity) for _ in range(2)]
        likes = [
            alone.loss(tiny, replace(film, generator=torch.Generator().manual_seed(k)), 0.0).parts["likeness"]
            for k, film in enumerate(films)
            if isinstance(film, Batch)
        ]
        worths.append(float(torch.stack(likes).mean()))
    best = max(range(3), key=worths.__getitem__)
    given = rewarded(tiny, identity=identity)
    assert isinstance(given, Batch)
    told = method.loss(tiny, given, 0.0).parts
    assert [float(told[f"words_{k}"]) for k in (1, 2, 3)] == pytest.approx(worths, abs=1e-6)
    assert len(set(worths)) == 3
    assert torch.equal(method.rows, sets[best])
    assert method.candidates is not None
    assert (int(method.candidates.kept), method.candidates.count) == (best, 1)
    again = method.loss(tiny, given, 0.0).parts
    assert not any(name.startswith("words") for name in again)
    assert len(method.vocabulary()) == 2
    other = fresh(tiny, candidates=3, vectors=2)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.rows, sets[best])
    assert other.candidates is not None
    assert other.candidates.count == 1


def test_what_films_are_worth() -> None:
    seen = {"likeness": torch.tensor(0.5), "semantics": torch.tensor(0.25)}
    assert mean_worth([seen, {"likeness": torch.tensor(0.3)}], 2.0) == pytest.approx((1.0 + 0.3) / 2)
    broken = {"likeness": torch.tensor(float("nan"))}
    assert mean_worth([seen, None, broken], 0.0) == pytest.approx((0.5 - 2) / 3)


def test_a_batch_has_something_for_each(tiny: Backbone) -> None:
    with pytest.raises(
        StarringError, match=r"3 candidates learn from a batch of at least 3, not of 2\. Give --batch 12"
    ):
        fresh(tiny, candidates=3).loss(tiny, batch(tiny), 0.0)
    with pytest.raises(StarringError, match="candidates is 0"):
        fresh(tiny, candidates=0)


@pytest.mark.slow
def test_a_run_keeps_one_and_hands_it_on(tiny: Backbone, tmp_path: Path) -> None:
    small = shrunk("personalvideo", tmp_path, tiny.sample.frames)
    first = replace(small.stages[0], train=replace(small.stages[0].train, batch=2))
    chosen = replace(small, stages=(first, *small.stages[1:]), options={**small.options, "candidates": 2})
    eyes = {"segmenter": Ellipse(), "eyes": tiny_identity_eyes()}
    run = learn("personalvideo", subject(), tiny, chosen, tmp_path / "runs", **eyes)
    weights = run.load_weights()
    kept = int(weights["candidates.kept"])
    assert kept in (0, 1)
    assert torch.equal(weights["rows"], weights["candidates.others.0"]) == (kept == 1)
    likes = [entry for entry in run.entries() if "words_1" in entry["parts"]]
    assert len(likes) == 1, "they were chosen from once"
    generate(run, "a <*> dog", backbone=tiny, write=False)
    taken = learn("personalvideo", subject(), tiny, chosen, tmp_path / "more", tokens=run.folder, **eyes)
    assert taken.record.recipe.options["candidates"] == 1
    assert torch.equal(taken.load_weights()["rows"], weights["rows"])
