"""Words of one run taken over by another method: BridgeIV over VCD's tokens."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.errors import Interrupted, StarringError
from starring.generate import generate
from starring.learn import Progress, learn, resume
from starring.methods import recipe
from starring.run import Run
from tests.test_generate import make_run
from tests.test_recipes import subject as ellipses

PROMPT = "a <*> dog on the beach"


@pytest.fixture
def vcd(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


def small(**options: Any) -> Recipe:
    """BridgeIV's recipe, shrunk: three steps a stage."""
    whole = recipe("bridgeiv-miniature")
    stages = tuple(
        replace(s, train=replace(s.train, steps=3, batch=1, checkpoint_every=1), class_images=1) for s in whole.stages
    )
    data = replace(whole.data, size=32, variants=2)
    return replace(whole, options={"rank": 2, **options}, stages=stages, data=data)


@pytest.mark.slow
def test_dreambooth_follows_on_the_words_of_another_method(vcd: Run, tiny: Backbone, tmp_path: Path) -> None:
    heard: list[Progress] = []
    run = learn("bridgeiv", ellipses(), tiny, small(), tmp_path, tokens=vcd.folder, on_progress=heard.append)
    assert [p.stage for p in heard if p.phase == "learn"] == ["dreambooth"] * 3
    options = run.record.recipe.options
    assert (options["vectors"], options["correlation"]) == (4, 0.15)  # VCD's own gamma
    weights, words = run.load_weights(), vcd.load_weights()["rows"]
    assert torch.equal(weights["rows"], words)
    assert any(value.abs().max() > 0 for name, value in weights.items() if name.endswith("up.weight"))
    assert vcd.name in run.record.recipe.source
    (film,) = generate(run, PROMPT, backbone=tiny, write=False)
    assert film.facts["correlation"] == 0.15


def test_without_dreambooth_the_run_is_finished_at_once(vcd: Run, tiny: Backbone, tmp_path: Path) -> None:
    """Propagation over VCD's tokens alone, which with propagation off are VCD's film."""
    chosen = small(dreambooth="none", correlation=0.4, words="class")  # the class word is the subject's
    run = learn("bridgeiv", ellipses(), tiny, chosen, tmp_path, tokens=vcd.folder)
    assert run.finished
    assert not run.record.recipe.stages
    assert run.record.recipe.options["correlation"] == 0.4  # said by the recipe
    assert resume(run.folder, tiny, ellipses()).load_weights().keys() == {"rows"}
    films = {
        name: generate(each, PROMPT, backbone=tiny, correlation=0.15, sample={"negative": ""}, write=False)[0]
        for name, each in {"bridged": run, "vcd": vcd, "off": _off(run)}.items()
    }
    assert (films["off"].frames == films["vcd"].frames).all()
    assert (films["bridged"].frames != films["vcd"].frames).any()


def _off(run: Run) -> Run:
    off = replace(run.record.recipe, options={**run.record.recipe.options, "structure": False, "texture": False})
    return replace(run, record=replace(run.record, recipe=off))


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(step: int, vcd: Run, tiny: Backbone, tmp_path: Path) -> None:
    """Also when it was stopped before its first checkpoint, and the other run is gone by then."""
    whole = learn("bridgeiv", ellipses(), tiny, small(), tmp_path / "a", tokens=vcd.folder)

    def stop(progress: Progress) -> None:
        if progress.phase == ("learn" if step else "moments") and progress.step >= step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        learn("bridgeiv", ellipses(), tiny, small(), tmp_path / "b", tokens=vcd.folder, on_progress=stop)
    vcd.weights.unlink()
    again = resume(tmp_path / "b" / whole.name, tiny, ellipses())
    assert all(torch.equal(value, again.load_weights()[name]) for name, value in whole.load_weights().items())


def test_what_cannot_be_taken_over(vcd: Run, tiny: Backbone, tmp_path: Path) -> None:
    def begin(run: Run) -> None:
        learn("bridgeiv", ellipses(), tiny, small(), tmp_path / "new", tokens=run.folder)

    with pytest.raises(StarringError, match="is not a run"):
        begin(replace(vcd, folder=tmp_path))
    wide = make_run(tmp_path / "wide", tiny)
    wide.save_weights({"rows": torch.zeros(4, 768)})
    with pytest.raises(StarringError, match=r"width 768, but .* width 32"):
        begin(wide)
    vcd.weights.unlink()
    with pytest.raises(StarringError, match="has not finished learning"):
        begin(vcd)
    assert not (tmp_path / "new").exists()


def test_a_stage_in_which_nothing_learns_is_refused_before_anything_is_written(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="learns nothing in its stage 'dreambooth'"):
        learn("bridgeiv", ellipses(), tiny, small(dreambooth="none"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
