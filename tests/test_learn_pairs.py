"""Learning once for all subjects, from pairs: what is read, exact resuming, several processes, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.pairbank import PairBank, Shard
from starring.data.pairs import Pairs
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.generate import generate
from starring.learn import Preview, Progress, learn, resume
from starring.methods import build, recipe_for
from starring.run import Run
from tests.data.pictures import RedFinder, album
from tests.moving import clip
from tests.pairing import cutout, learned, listed, pairs, rows_of, small
from tests.tiny import tiny_cogvideox
from tests.training import state_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    pairs(home / "pairs")
    return home


@pytest.fixture(scope="module")
def run(home: Path, dit: Backbone) -> Run:
    return learned(home, dit)


def whole(run: Run) -> dict[str, Any]:
    run.masks.mkdir(exist_ok=True)
    return state_of(run)


def test_a_run_learns_from_pairs(run: Run, home: Path, dit: Backbone) -> None:
    assert run.finished
    assert run.record.pairs is not None
    assert (run.record.pairs.name, run.record.pairs.count) == ("pairs", 4)
    assert run.record.pairs.digest == Pairs.read(home / "pairs").digest
    assert run.record.subject.digests == {}
    assert (run.previews / "pairs.png").is_file()
    assert not run.cache.exists()
    weights = run.load_weights()
    ups = [value for name, value in weights.items() if name.endswith("up.weight")]
    idle = {id(p) for p in build("customvideox", dit, dict(run.record.recipe.options)).idle()}
    assert sum(bool(up.any()) for up in ups) == len(ups) - len(idle) // 2, "all but what nothing reads has moved"
    assert all(math.isfinite(entry["loss"]) for entry in run.entries())


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_in_the_same_bits(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "learn" and progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        learn("customvideox", Pairs.read(home / "pairs"), dit, run.record.recipe, tmp_path, on_progress=stop)
    half = tmp_path / run.name
    assert not Run.open(half).finished
    others = pairs(tmp_path / "others", 2)
    with pytest.raises(StarringError, match="not those that the run was begun with"):
        resume(half, dit, Pairs.read(others))
    encodings: list[int] = []
    again = resume(
        half, dit, on_progress=lambda p: encodings.extend([p.step] if p.phase == "pairs" and p.total else [])
    )
    assert not encodings, "clips and pictures are encoded once"
    found, truth = whole(again), whole(run)
    assert [name for name in truth if found.get(name) != truth[name]] == []


def test_latents_are_those_of_the_files(home: Path, dit: Backbone, tmp_path: Path) -> None:
    """What a batch holds follows from its position alone, and is the VAE's posterior of the clip and of the cut-out."""
    banks: list[PairBank] = []

    def keep(progress: Progress) -> None:
        if progress.phase == "learn" and not banks:
            shards = sorted((tmp_path / "pairs-customvideox" / "cache" / "pairs").iterdir())
            texts = [Shard.load(path, json.loads(_about(path))["key"]) for path in shards]
            banks.append(PairBank(shards=[each for each in texts if each is not None], seed=42))
            first, *_ = (banks[0].draw(position, 1, torch.Generator()) for position in (2, 0, 1))
            again = banks[0].draw(2, 1, torch.Generator().manual_seed(7))
            for part in ("latents", "references"):
                assert torch.equal(getattr(first, part), getattr(again, part))
            assert first.generator is not None
            assert again.generator is not None
            assert first.generator.get_state().equal(again.generator.get_state())
            _as_encoded(first, home, dit)

    small_one = small(dit, steps=1)
    learn("customvideox", Pairs.read(home / "pairs"), dit, small_one, tmp_path, on_progress=keep)
    assert banks


def _about(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        return stored.metadata()["starring"]


def _as_encoded(drawn: Any, home: Path, dit: Backbone) -> None:
    """The batch against the files, encoded anew: inside six deviations everywhere, and not all alike."""
    from starring.data.cutouts import on_white, read_cutout
    from starring.data.motion import framed

    (row,), s = drawn.rows, dit.sample
    pair = Pairs.read(home / "pairs").rows[row]
    assert (drawn.captions, drawn.entities) == ([pair.caption], [pair.entity])
    film, _ = framed(pair.frames(s.frames, s.fps, "film"), (s.height, s.width), "crop")
    picture = on_white(read_cutout(pair.reference), (s.height, s.width))
    for pixels, latents in ((film, drawn.latents), (picture, drawn.references)):
        with torch.no_grad():
            moments = dit.encode_moments(pixels[None])
        away = (latents - moments.mean) / (moments.std + 1e-3)
        assert latents.shape == moments.mean.shape
        assert float(away.abs().max()) < 6
        assert 0.5 < float(away.std()) < 1.5


def test_bars_around_clips_are_kept_out_of_what_is_learned(home: Path, dit: Backbone, tmp_path: Path) -> None:
    """A clip twice as wide as high in a square film: bars above and below it, cell by cell."""
    place, masks = tmp_path / "wide", list[torch.Tensor]()
    pairs(place, 1)
    clip(place / "clips" / "0.mp4", frames=12, size=(16, 32))

    def keep(progress: Progress) -> None:
        if progress.phase == "learn" and not masks:
            (path,) = (tmp_path / "wide-customvideox" / "cache" / "pairs").iterdir()
            shard = Shard.load(path, json.loads(_about(path))["key"])
            assert shard is not None
            masks.append(PairBank(shards=[shard], seed=1).draw(0, 1, torch.Generator()).masks)

    recipe = small(dit, steps=1)
    boxed = replace(recipe, data=replace(recipe.data, fit="letterbox"))
    learn("customvideox", Pairs.read(place), dit, boxed, tmp_path, on_progress=keep)
    assert masks[0].shape == (1, 1, 3, 8, 8)
    assert masks[0].mean((0, 1, 2, 4)).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_what_cannot_be_read_among_good_is_left_out_and_told(home: Path, dit: Backbone, tmp_path: Path) -> None:
    place = pairs(tmp_path / "corpus", 4)
    (place / "clips" / "0.mp4").write_bytes(b"no film")
    clip(place / "clips" / "1.mp4", frames=5)
    (place / "references" / "2.png").write_bytes(b"no picture")
    rows = rows_of(place)
    Image.new("RGB", (40, 40), "white").save(place / "references" / "blank.png")
    listed(place, [*rows, {**rows[3], "reference": "references/blank.png"}])
    told: list[str] = []
    recipe = small(dit, steps=1)

    def hear(progress: Progress) -> None:
        if progress.complaint is not None:
            told.append(str(progress.complaint))

    learn("customvideox", Pairs.read(place), dit, recipe, tmp_path / "runs", on_progress=hear)
    assert [each.split(":")[0] for each in told] == ["0.mp4", "1.mp4", "2.png", "blank.png"]
    assert "is of one colour" in told[3]
    assert "it has 5 frames, and 9 frames of a film need 9" in told[1]
    (place / "clips" / "3.mp4").write_bytes(b"no film")
    with pytest.raises(StarringError, match=r"No pair in .* can be read\. 0\.mp4: it was left out"):
        learn("customvideox", Pairs.read(place), dit, recipe, tmp_path / "others")


def test_previews_are_filmed_beside_a_pair(home: Path, dit: Backbone, tmp_path: Path) -> None:
    watched = Preview(prompt="a dog on the beach", every=1)
    found = learn("customvideox", Pairs.read(home / "pairs"), dit, small(dit, steps=1), tmp_path, preview=watched)
    assert (found.previews / "step-000001.png").is_file()


def test_what_is_refused_before_anything_is_written(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    corpus, recipe = Pairs.read(home / "pairs"), run.record.recipe
    subject = Subject.from_folder(album(home / "rex", 2), "dog")
    runs = tmp_path / "runs"
    with pytest.raises(StarringError, match=r"'vcd' learns from photographs .* Pairs are for customvideox"):
        learn("vcd", corpus, dit, runs_dir=runs)
    with pytest.raises(StarringError, match=r"ships for the backbone .*starring learn customvideox --data pairs/"):
        learn("customvideox", subject, dit, runs_dir=runs)
    assert recipe.sample is not None
    long = replace(recipe, sample=replace(recipe.sample, frames=12))
    with pytest.raises(StarringError, match=r"not of 12\. Nearest: 9 or 17"):
        learn("customvideox", corpus, dit, long, runs)
    wide = replace(recipe, sample=replace(recipe.sample, width=36))
    with pytest.raises(StarringError, match=r"not 36\. Nearest: 32 or 40"):
        learn("customvideox", corpus, dit, wide, runs)
    square = replace(recipe, data=replace(recipe.data, fit="square"))
    with pytest.raises(StarringError, match="letterbox, crop or stretch"):
        learn("customvideox", corpus, dit, square, runs)
    sincos = load_backbone(tiny_cogvideox(tmp_path / "2b", rotary=False), device="cpu")
    with pytest.raises(StarringError, match="sine and cosine positions"):
        learn("customvideox", corpus, sincos, recipe, runs)
    assert not runs.exists()


def test_a_subject_needs_no_learning(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    """Photographs and what was learned once are a run: what films, tables and leaderboards are made of."""
    subject = Subject.from_folder(album(home / "rex", 2), "dog")
    own = learn("customvideox", subject, dit, runs_dir=tmp_path, tokens=run.folder)
    assert own.finished
    assert own.record.subject.class_word == "dog"
    weights, truth = own.load_weights(), run.load_weights()
    assert all(torch.equal(weights[name], truth[name]) for name in truth)
    film, plain = (
        generate(own, "a <*> dog on the beach", backbone=dit, segmenter=RedFinder(), customized=customized, write=False)
        for customized in (True, False)
    )
    shown = film[0].facts["beside"]
    assert [Path(each["file"]) for each in shown["pictures"]] == [subject.paths[0].resolve()]
    assert shown["entity"] == "dog"
    assert (film[0].frames != plain[0].frames).any()


def test_a_run_s_own_options_win_over_those_that_nobody_asked_for(
    run: Run, home: Path, dit: Backbone, tmp_path: Path
) -> None:
    """The bundled backbone's recipe has rank 64; this run has rank 2, and goes on with its own."""
    bundled = copy.copy(dit)
    bundled.name = "miniature-dit"
    subject, usual = Subject.from_folder(album(home / "rex", 2), "dog"), recipe_for("customvideox", bundled)
    assert usual.options["rank"] == 64
    own = learn("customvideox", subject, bundled, runs_dir=tmp_path, tokens=run.folder)
    assert own.record.recipe.options["rank"] == 2
    asked = replace(usual, options={**usual.options, "erae": False})
    assert learn("customvideox", subject, bundled, asked, tmp_path, tokens=run.folder).record.recipe.options == {
        **own.record.recipe.options, "erae": False,
    }  # fmt: skip
    wide = replace(usual, options={**usual.options, "rank": 3})
    with pytest.raises(StarringError, match=r"rank 2 for .* needs .*rank 3"):
        learn("customvideox", subject, bundled, wide, tmp_path, tokens=run.folder)


@pytest.mark.parametrize(
    "change", [{"form": "cached"}, {"place": "after"}, {"clean_time": False}, {"everywhere": True}]
)
def test_another_form_than_the_learned_one_is_told(
    change: dict[str, Any], run: Run, home: Path, dit: Backbone, tmp_path: Path
) -> None:
    subject, recipe = Subject.from_folder(album(home / "rex", 2), "dog"), recipe_for("customvideox", dit)
    ((key, value),) = change.items()
    with pytest.warns(UserWarning, match=rf"was learned with {key}=.* is to film with {key}={value}"):
        learn(
            "customvideox", subject, dit, replace(recipe, options={**recipe.options, **change}), tmp_path,
            tokens=run.folder,
        )  # fmt: skip


def test_pairs_are_learned_in_mixed_precision(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    """Weights stay in single precision; what is computed, and so what is learned, is another thing."""
    half = learn("customvideox", Pairs.read(home / "pairs"), dit, small(dit, precision="bf16"), tmp_path)
    ours, theirs = ([entry["loss"] for entry in each.entries()] for each in (half, run))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)
    weights, whole = half.load_weights(), run.load_weights()
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert any(not torch.equal(weights[name], whole[name]) for name in whole)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_pairs_are_learned_and_filmed_beside_smaller_pictures(
    home: Path, dit: Backbone, tmp_path: Path, form: str
) -> None:
    recipe, drawn = small(dit, steps=1), list[torch.Tensor]()
    size = {"form": form, "reference_height": 16, "reference_width": 24}
    recipe = replace(recipe, options={**recipe.options, **size})

    def keep(progress: Progress) -> None:
        if progress.phase == "learn" and not drawn:
            (path,) = (tmp_path / "pairs-customvideox" / "cache" / "pairs").iterdir()
            shard = Shard.load(path, json.loads(_about(path))["key"])
            assert shard is not None
            batch = PairBank(shards=[shard], seed=1).draw(0, 1, torch.Generator())
            assert batch.references is not None
            drawn.extend([batch.latents, batch.references])

    run = learn("customvideox", Pairs.read(home / "pairs"), dit, recipe, tmp_path, on_progress=keep)
    assert [each.shape[2:] for each in drawn] == [(3, 8, 8), (1, 4, 6)]
    seen = cutout(tmp_path / "dog.png", 1)
    (film,) = generate(run, "a dog running", backbone=dit, reference=seen, entity="dog", write=False)
    assert film.frames.shape == (9, 32, 32, 3)
    odd = replace(recipe, options={**recipe.options, "reference_width": 25})
    with pytest.raises(StarringError, match=r"not 25\. Nearest: 24 or 32"):
        learn("customvideox", Pairs.read(home / "pairs"), dit, odd, tmp_path / "odd")


def launched(words: list[str], *launcher: str) -> None:
    """The command line, started by a launcher of processes."""
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "starring", *words], check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Learned:") == 1


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_that_accumulates(home: Path, run: Run, tmp_path: Path) -> None:
    folder = tiny_cogvideox(tmp_path / "tiny")
    words = ["learn", "customvideox", "--data", str(home / "pairs"), "--backbone", str(folder), "--device", "cpu",
             "--steps", "3", "--precision", "no", "--lr", "0.01", "--options", "rank=2"]  # fmt: skip
    # On CPUs accelerate's own launcher needs MPI for several processes; torch's gives them gloo.
    two, one = ([*words, "--accumulate", n, "--runs", str(tmp_path / name)] for n, name in (("1", "two"), ("2", "one")))
    launched(two, "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    launched(one, "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    runs = [Run.open(tmp_path / name / "pairs-customvideox") for name in ("two", "one")]
    losses = [[entry["loss"] for entry in each.entries()] for each in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 3
    ours, theirs = (each.load_weights() for each in runs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)
