"""Films from runs and from the bare backbone, and the same films again."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import to_json
from starring.data.video import read_comment, read_video
from starring.errors import StarringError
from starring.generate import Progress, films, fingerprint, from_sidecar, generate, shoot
from starring.methods import build, recipe
from starring.methods.base import Request
from starring.run import Photographs, Record, Run, libraries
from tests.tiny import tiny_animatediff

PROMPT = "a <*> dog on the beach"


def make_run(runs: Path, backbone: Backbone, seed: int = 0) -> Run:
    """A finished run whose tokens went somewhere."""
    subject = Photographs(name="rex", class_word="dog", folder=None, digests={})
    chosen = replace(recipe("vcd"), sample=backbone.sample, backbone=backbone.origin["name_or_path"])
    record = Record(
        recipe=chosen, origin=backbone.origin, family=backbone.family, subject=subject, libraries=libraries()
    )
    run = Run.create(runs, "rex-vcd", record)
    method = build("vcd", backbone, dict(chosen.options))
    generator = torch.Generator().manual_seed(seed)
    run.save_weights(
        {name: torch.randn(value.shape, generator=generator) for name, value in method.state_dict().items()}
    )
    return run


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


def test_a_film_is_an_mp4_a_sidecar_and_frames(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, seed=7, backbone=tiny)
    assert film.frames.shape == (4, 32, 32, 3)
    assert film.frames.dtype == np.uint8
    assert film.frames.std() > 0
    assert film.path == run.videos / "a-dog-on-the-beach-seed7.mp4"
    assert film.sidecar == film.path.with_suffix(".json")
    clip = read_video(film.path)
    assert clip.pixels.shape == (1, 3, 4, 32, 32)
    assert clip.fps == tiny.sample.fps
    assert json.loads(film.sidecar.read_text()) == film.facts == read_comment(film.path)


def test_the_sidecar_says_everything(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, seed=7, backbone=tiny, correlation=0.3, sample={"steps": 2, "negative": "red"})
    facts = film.facts
    assert (facts["prompt"], facts["seed"], facts["correlation"]) == (PROMPT, 7, 0.3)
    assert facts["sample"] == to_json(replace(tiny.sample, steps=2, negative="red"))
    assert facts["backbone"] == {
        "origin": tiny.origin, "family": "animatediff", "dtype": "float32", "fingerprint": fingerprint(tiny),
        "vae_slicing": False, "vae_tiling": False,
    }  # fmt: skip
    assert facts["method"]["name"] == "vcd"
    assert facts["method"]["file"] == "../method.safetensors"
    assert facts["method"]["sha256"] == hashlib.sha256(run.weights.read_bytes()).hexdigest()
    assert facts["method"]["options"]["vectors"] == 4
    assert facts["machine"]["device"] == "cpu"
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert {"starring", "torch", "diffusers", "transformers"} <= facts["versions"].keys()
    assert facts["frames_sha256"] == hashlib.sha256(film.frames.tobytes()).hexdigest()
    assert facts["video"] is None
    assert facts["text_encoder"] is None


@pytest.mark.slow
def test_from_its_sidecar_it_comes_back_bit_for_bit(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run.folder, PROMPT, seed=3, backbone=tiny, correlation=0.5)
    assert film.sidecar is not None
    assert film.path is not None
    again = from_sidecar(film.sidecar)  # finds and loads everything by itself
    assert again.notes == ()
    assert np.array_equal(again.frames, film.frames)
    assert again.facts == film.facts
    assert again.path is not None
    assert again.path.name == "a-dog-on-the-beach-seed3-2.mp4"  # nothing is overwritten
    assert again.path.read_bytes() == film.path.read_bytes()
    from_film = from_sidecar(film.path, backbone=tiny, write=False)
    assert np.array_equal(from_film.frames, film.frames)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
def test_a_film_from_a_device_that_is_not_here_is_made_where_it_can_be(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, backbone=tiny, text_encoder="trained")
    assert film.sidecar is not None
    facts = json.loads(film.sidecar.read_text())
    facts["machine"]["device"] = "cuda"
    film.sidecar.write_text(json.dumps(facts))
    again = from_sidecar(film.sidecar, write=False)
    assert again.facts["machine"]["device"] == "cpu"
    assert np.array_equal(again.frames, film.frames)
    assert again.notes == ()
    film.sidecar.write_text(json.dumps({**facts, "frames_sha256": "0" * 64}))
    notes = from_sidecar(film.sidecar, write=False).notes
    assert "It was made with another value of the device: cuda; now cpu." in notes


@pytest.mark.slow
def test_what_the_vae_did_to_save_memory_is_done_again(run: Run, own_tiny: Backbone, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, backbone=own_tiny.save_memory(vae_slicing=True, vae_tiling=True))
    assert film.sidecar is not None
    facts = json.loads(film.sidecar.read_text())
    assert (facts["backbone"]["vae_slicing"], facts["backbone"]["vae_tiling"]) == (True, True)
    again = from_sidecar(film.sidecar, write=False)
    assert again.facts["backbone"] == facts["backbone"]
    assert np.array_equal(again.frames, film.frames)
    assert generate(run, PROMPT, backbone=tiny, write=False)[0].facts["backbone"]["vae_tiling"] is False
    del facts["backbone"]["vae_slicing"], facts["backbone"]["vae_tiling"]  # as older films have it
    film.sidecar.write_text(json.dumps(facts))
    assert np.array_equal(from_sidecar(film.sidecar, write=False).frames, film.frames)


def test_another_number_of_threads_is_set_back(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, backbone=tiny)
    assert film.sidecar is not None
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert from_sidecar(film.sidecar, backbone=tiny, write=False).facts["machine"]["threads"] == before
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_run_may_be_moved(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    (film,) = generate(run, PROMPT, backbone=tiny)
    assert film.sidecar is not None
    moved = tmp_path / "elsewhere" / "rex"
    moved.parent.mkdir()
    shutil.move(run.folder, moved)
    again = from_sidecar(moved / "videos" / film.sidecar.name, backbone=tiny, folder=tmp_path / "films")
    assert np.array_equal(again.frames, film.frames)
    assert again.sidecar is not None
    assert again.sidecar.parent == tmp_path / "films"
    thrice = from_sidecar(again.sidecar, backbone=tiny, write=False)  # the run is found from the new place too
    assert np.array_equal(thrice.frames, film.frames)


@pytest.mark.slow
def test_each_film_is_its_own_whatever_else_was_asked_for(run: Run, tiny: Backbone) -> None:
    prompts = [PROMPT, "a <*> dog in the snow"]
    made = generate(run, prompts, seed=5, num=2, backbone=tiny)
    assert [(f.prompt, f.seed) for f in made] == [(p, s) for p in prompts for s in (5, 6)]
    assert len({f.path for f in made}) == 4
    (alone,) = generate(run, prompts[1], seed=6, backbone=tiny, write=False)
    assert np.array_equal(alone.frames, made[3].frames)
    assert not np.array_equal(made[2].frames, made[3].frames)
    assert not np.array_equal(made[0].frames, made[2].frames)
    assert alone.path is None
    assert alone.sidecar is None


def test_it_is_the_method_that_makes_the_film(run: Run, tiny: Backbone) -> None:
    (film,) = generate(run, PROMPT, seed=2, backbone=tiny, write=False)
    method = build("vcd", tiny)
    method.load_state_dict(run.load_weights())
    request = Request(prompt=PROMPT, sample=tiny.sample, generator=torch.Generator().manual_seed(2))
    assert np.array_equal(shoot(method, tiny, request), film.frames)


def test_decoding_in_groups_changes_nothing_much(tiny: Backbone) -> None:
    sample = replace(tiny.sample, frames=7)
    request = Request(prompt=PROMPT, sample=sample, generator=torch.Generator().manual_seed(2))
    frames = shoot(build("vcd", tiny), tiny, request)
    request = replace(request, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = tiny.decode_video(build("vcd", tiny).generate(tiny, request))
    assert frames.shape == (7, 32, 32, 3)
    assert np.abs(frames.astype(int) - films.to_uint8(whole).astype(int)).max() <= 1


# --- the floor ------------------------------------------------------------------------------------------------------


def test_the_bare_backbone_films_too(tiny: Backbone, tmp_path: Path) -> None:
    (plain,) = generate(None, "a dog on the beach", seed=1, backbone=tiny, folder=tmp_path)
    (placed,) = generate(None, PROMPT, seed=1, backbone=tiny, class_word="dog", folder=tmp_path)
    assert np.array_equal(plain.frames, placed.frames)
    assert plain.path is not None
    assert plain.path.name == "a-dog-on-the-beach-plain-seed1.mp4"
    assert plain.facts["method"] == {"name": "plain", "options": {"class_word": ""}, "file": None}
    assert placed.sidecar is not None
    assert np.array_equal(from_sidecar(placed.sidecar, backbone=tiny, write=False).frames, placed.frames)


def test_the_floor_of_a_run_has_its_noise_and_not_its_words(run: Run, tiny: Backbone) -> None:
    (floor,) = generate(run, PROMPT, seed=1, backbone=tiny, customized=False, write=False)
    (same,) = generate(None, "a dog on the beach", seed=1, backbone=tiny, correlation=0.15, write=False)
    assert np.array_equal(floor.frames, same.frames)
    (film,) = generate(run, PROMPT, seed=1, backbone=tiny, write=False)
    assert not np.array_equal(floor.frames, film.frames)


@pytest.mark.slow
def test_the_noise_prior_goes_with_anything(run: Run, tiny: Backbone) -> None:
    def frames(which: Run | None, correlation: float | None) -> Any:
        (film,) = generate(which, PROMPT, seed=1, backbone=tiny, correlation=correlation, write=False)
        return film.frames

    assert np.array_equal(frames(run, None), frames(run, 0.15))
    assert not np.array_equal(frames(run, 0.0), frames(run, 0.15))
    assert np.array_equal(frames(None, None), frames(None, 0.0))
    assert not np.array_equal(frames(None, 0.4), frames(None, 0.0))


# --- options --------------------------------------------------------------------------------------------------------


def test_progress_is_told_step_by_step(run: Run, tiny: Backbone) -> None:
    heard: list[Progress] = []
    made = generate(run, PROMPT, num=2, backbone=tiny, sample={"steps": 3}, write=False, on_progress=heard.append)
    assert [(p.film, p.step) for p in heard] == [(f, s) for f in (1, 2) for s in (1, 2, 3, 3)]
    assert all((p.films, p.steps) == (2, 3) for p in heard)
    assert [p.done for p in heard if p.done] == made


@pytest.mark.slow
def test_any_base_of_the_family_films_the_run(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    other = load_backbone(str(tiny_animatediff(tmp_path / "other", seed=1)))
    own, *_ = generate(run, PROMPT, backbone=other, write=False)
    here, *_ = generate(run, PROMPT, backbone=tiny, write=False)
    assert not np.array_equal(own.frames, here.frames)
    encoder, tokenizer = other.text_encoder, other.tokenizer
    trained, *_ = generate(run, PROMPT, backbone=other, text_encoder="trained")
    assert other.text_encoder is encoder
    assert other.tokenizer is tokenizer
    assert not np.array_equal(own.frames, trained.frames)
    same, *_ = generate(run, PROMPT, backbone=tiny, text_encoder="trained", write=False)
    assert np.array_equal(same.frames, here.frames)
    assert trained.sidecar is not None
    again = from_sidecar(trained.sidecar, write=False)
    assert np.array_equal(again.frames, trained.frames)


@pytest.mark.slow
def test_half_precision_is_remembered(run: Run, tiny_folder: Path) -> None:
    backbone = load_backbone(str(tiny_folder), dtype="bf16")
    (film,) = generate(run, PROMPT, backbone=backbone)
    assert film.facts["backbone"]["dtype"] == "bfloat16"
    assert film.sidecar is not None
    assert np.array_equal(from_sidecar(film.sidecar, write=False).frames, film.frames)


@pytest.mark.slow
def test_everything_a_backbone_was_loaded_with_is_loaded_again(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("base", "adapter", "vae"), start=1):
        tiny_animatediff(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(tiny_folder, base="base", adapter="adapter/motion_adapter", vae="vae/vae", device="cpu")
    run = make_run(tmp_path / "runs", backbone)
    here, *_ = generate(run, PROMPT, backbone=backbone)
    monkeypatch.chdir(tmp_path / "runs")
    own, *_ = generate(run.folder, PROMPT, write=False)  # the run loads its own backbone
    assert here.sidecar is not None
    again = from_sidecar(here.sidecar, write=False)
    assert own.facts["backbone"] == again.facts["backbone"] == here.facts["backbone"]
    assert set(here.facts["backbone"]["origin"]) == {"name_or_path", "base", "adapter", "vae"}
    assert np.array_equal(own.frames, here.frames)
    assert np.array_equal(again.frames, here.frames)


# --- bad input and bad luck -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_changes_are_told(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    (film,) = generate(run, PROMPT, backbone=tiny)
    assert film.sidecar is not None
    other = load_backbone(str(tiny_animatediff(tmp_path / "other", seed=1)))
    notes = from_sidecar(film.sidecar, backbone=other, write=False).notes
    assert "not bit for bit" in notes[0]
    assert "weights" in notes[1]
    run.save_weights({name: value + 1 for name, value in run.load_weights().items()})
    with pytest.raises(StarringError, match="has changed"):
        from_sidecar(film.sidecar, backbone=tiny)
    run.weights.unlink()
    with pytest.raises(StarringError, match="not there"):
        from_sidecar(film.sidecar, backbone=tiny)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": "a dog on the beach"}, "<\\*>"),
        ({"prompts": ["a <*> dog", "  "]}, "empty"),
        ({"prompts": []}, "Nothing to film"),
        ({"num": 0}, "Nothing to film"),
        ({"seed": -1}, "seed"),
        ({"sample": {"step": 3}}, "Did you mean 'steps'"),
        ({"sample": {"steps": 0}}, "at least 1"),
        ({"sample": {"height": 30}}, "multiples of 4"),
        ({"sample": {"frames": 99}}, "frames"),
        ({"correlation": 1.0}, "\\[0, 1\\)"),
        ({"text_encoder": "owm"}, "Did you mean 'own'"),
        ({"video": "nowhere.mp4"}, "nowhere.mp4"),
    ],
)
def test_bad_requests_are_refused_before_filming(
    arguments: dict[str, Any], message: str, run: Run, tiny: Backbone
) -> None:
    with pytest.raises(StarringError, match=message):
        generate(run, **({"prompts": PROMPT, "backbone": tiny} | arguments))
    assert not run.videos.exists()


def test_a_run_of_another_family_is_refused(run: Run, own_tiny: Backbone) -> None:
    own_tiny.family = "cogvideox"
    with pytest.raises(StarringError, match=r"'animatediff'.*'cogvideox'"):
        generate(run, PROMPT, backbone=own_tiny)


def test_weights_that_do_not_fit_are_refused(run: Run, tiny: Backbone) -> None:
    run.save_weights({"rows": torch.zeros(4, 5)})
    with pytest.raises(StarringError, match=r"rows \(4, 5\).* needs rows \(4, 32\).* was learned on "):
        generate(run, PROMPT, backbone=tiny)


def test_weights_that_are_no_numbers_make_no_film(run: Run, tiny: Backbone) -> None:
    run.save_weights({"rows": torch.full((4, 32), torch.nan)})
    with pytest.raises(StarringError, match="no numbers"):
        generate(run, PROMPT, backbone=tiny)
    assert not run.videos.exists()


def test_a_file_that_describes_no_film_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.json"
    with pytest.raises(StarringError, match="There is no"):
        from_sidecar(path)
    for text, message in [
        ("{", "not JSON"),
        ("{}", "does not describe"),
        ('{"frames_sha256": 0}', "layout None"),
        ('{"frames_sha256": 0, "version": 1}', "layout 1, .*Film the prompt again"),
        ('{"frames_sha256": 0, "version": 99}', "layout 99, .*Update starring"),
    ]:
        path.write_text(text)
        with pytest.raises(StarringError, match=message):
            from_sidecar(path)


def test_a_full_disk_leaves_nothing_half_written(run: Run, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    first, *_ = generate(run, PROMPT, seed=1, backbone=tiny)
    write: Callable[..., None] = films.write_json
    monkeypatch.setattr(films, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        generate(run, PROMPT, seed=2, backbone=tiny)
    monkeypatch.setattr(films, "write_json", write)
    assert sorted(run.videos.iterdir()) == sorted([first.path, first.sidecar])


def test_films_of_one_name_that_are_written_at_once_are_all_kept(tiny: Backbone, tmp_path: Path) -> None:
    """As when several processes evaluate into one folder."""
    (made,) = generate(None, "a dog", seed=1, backbone=tiny, write=False)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: films.written(made, tmp_path), range(12)))
    assert len({film.path for film in kept}) == len(list(tmp_path.glob("*.mp4"))) == len(kept)
    assert all(film.path is not None and read_video(film.path).pixels.shape[2] == len(made.frames) for film in kept)
