"""The public verb: a film with a sidecar in, a better one beside it out, and the same one again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import starring
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.video import read_comment, read_video, to_uint8, write_video
from starring.errors import StarringError
from starring.generate import Film, generate
from starring.generate import from_sidecar as filmed_again
from starring.refine import FaceOptions, Progress, TileOptions, comparison, from_sidecar, refine
from starring.run import Run
from tests.perception.tiny_eyes import tiny_segmenter
from tests.refine.places import noise_film
from tests.refine.test_enlarge import tiny_swin2sr
from tests.refine.tiny_yunet import tiny_yunet
from tests.test_generate import PROMPT, make_run
from tests.tiny import tiny_animatediff


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


@pytest.fixture
def film(run: Run, tiny: Backbone) -> Film:
    (made,) = generate(run, PROMPT, seed=7, backbone=tiny)
    return made


@pytest.fixture
def red(film: Film, tmp_path: Path) -> Film:
    """The film with a red square, which the tiny detector takes for a face."""
    frames = film.frames.copy() // 3 + 40
    frames[:, 8:16, 16:24] = (255, 0, 0)
    assert film.path is not None
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    write_video(film.path, pixels, metadata=film.facts, crf=0)
    return film


def face_by(tmp_path: Path) -> FaceOptions:
    return FaceOptions(detector=str(tiny_yunet(tmp_path / "yunet.onnx")), factor=2.0)


def on_disk(film: Film) -> np.ndarray:
    return to_uint8(read_video(film.path or "").pixels)


@pytest.mark.slow
def test_tiles_make_a_larger_film_beside_the_old_one(film: Film, tiny: Backbone) -> None:
    assert film.path is not None
    before = {path: path.read_bytes() for path in film.path.parent.iterdir()}
    heard: list[Progress] = []
    made = starring.refine(film.path, tiles=2, backbone=tiny, on_progress=heard.append)
    assert made.frames.shape == (4, 64, 64, 3)
    assert made.path == film.path.with_name(f"{film.path.stem}-2x.mp4")
    assert read_video(made.path).pixels.shape == (1, 3, 4, 64, 64)
    assert {path: path.read_bytes() for path in before} == before
    assert [p.part for p in heard] == [*(f"tile {i} of 4" for i in (1, 2, 3, 4)), "done"]
    assert heard[-1].done is made
    facts = json.loads(made.path.with_suffix(".json").read_text())
    assert facts == read_comment(made.path) == made.facts
    assert facts["refined"]["film"]["file"] == film.path.name
    assert facts["refined"]["tiles"]["scale"] == 2
    assert facts["refined"]["face"] is None
    assert facts["refined"]["size"] == [64, 64]
    assert (facts["prompt"], facts["seed"], facts["correlation"]) == (PROMPT, 7, 0.15)
    assert facts["method"]["file"] == "../method.safetensors"
    twice = refine(film.path, tiles=2, backbone=tiny)
    assert twice.path is not None
    assert twice.path.name.endswith("-2x-2.mp4")
    assert np.array_equal(twice.frames, made.frames)


@pytest.mark.slow
def test_faces_are_made_again_and_nothing_else(red: Film, tiny: Backbone, tmp_path: Path) -> None:
    made = refine(red, face=face_by(tmp_path), backbone=tiny)
    assert made.path is not None
    assert made.path.stem.endswith("-face")
    before = on_disk(red)
    there = np.zeros((32, 32), dtype=np.bool_)
    there[6:18, 14:26] = True  # the square and a feather of one pixel
    assert np.array_equal(made.frames[:, ~there], before[:, ~there])
    assert (made.frames != before).any(-1)[:, 8:16, 16:24].mean() > 0.5
    assert "8 pixels high, on 4 frames, enlarged 2.0 times" in made.notes[0]
    sheet = comparison(before, made)
    assert sheet.width > sheet.height / 2
    both = refine(red, face=face_by(tmp_path), tiles=2, backbone=tiny)
    assert both.frames.shape == (4, 64, 64, 3)
    assert both.path is not None
    assert both.path.stem.endswith("-face-2x")
    assert comparison(red, both).size == comparison(red.frames, both.frames).size


@pytest.mark.slow
def test_from_its_sidecar_it_comes_back_bit_for_bit(red: Film, tmp_path: Path, tiny: Backbone) -> None:
    wish = TileOptions(strength=0.5, enlarger=str(tiny_swin2sr(tmp_path / "swin")))
    made = refine(red, face=face_by(tmp_path), tiles=wish, backbone=tiny, seed=11)
    assert made.sidecar is not None
    again = from_sidecar(made.sidecar)  # finds and loads everything by itself
    assert again.notes == ()
    assert np.array_equal(again.frames, made.frames)
    assert again.path != made.path
    assert again.facts == made.facts
    assert made.path is not None
    assert np.array_equal(from_sidecar(made.path, backbone=tiny, write=False).frames, made.frames)
    with pytest.raises(StarringError, match=r"starring refine --from"):
        filmed_again(made.sidecar)
    assert red.sidecar is not None
    with pytest.raises(StarringError, match=r"starring generate --from"):
        from_sidecar(red.sidecar)
    assert red.path is not None
    red.path.write_bytes(b"another film")
    with pytest.raises(StarringError, match="has changed since"):
        from_sidecar(made.sidecar)


@pytest.mark.slow
def test_a_run_with_all_its_films_may_be_moved(film: Film, run: Run, tiny: Backbone, tmp_path: Path) -> None:
    made = refine(film, tiles=2, backbone=tiny)
    moved = tmp_path / "elsewhere"
    shutil.move(run.folder, moved)
    assert made.sidecar is not None
    again = from_sidecar(moved / "videos" / made.sidecar.name, backbone=tiny, folder=tmp_path / "films")
    assert np.array_equal(again.frames, made.frames)


def test_no_face_leaves_the_film_and_says_so(film: Film, tiny: Backbone, tmp_path: Path) -> None:
    assert film.path is not None
    files = sorted(film.path.parent.iterdir())
    none = replace(face_by(tmp_path), smallest=0.9)  # chance may have drawn something red
    same = refine(film, face=none, backbone=tiny)
    assert np.array_equal(same.frames, on_disk(film))
    assert same.path == film.path
    assert same.sidecar == film.sidecar
    assert "No face was found" in same.notes[0]
    assert "stays as it was" in same.notes[-1]
    assert sorted(film.path.parent.iterdir()) == files
    larger = refine(film, face=none, tiles=2, backbone=tiny, write=False)
    assert larger.frames.shape == (4, 64, 64, 3)
    assert "No face was found" in larger.notes[0]


@pytest.mark.slow
def test_a_segmenter_looks_for_faces_too(film: Film, tiny: Backbone, tmp_path: Path) -> None:
    # Of the random segmenters, one that sees small pieces and not the whole frame.
    options = FaceOptions(segmenter=str(tiny_segmenter(tmp_path / "eye", seed=3)), factor=1.0, least=1)
    made = refine(film, face=options, backbone=tiny, write=False)
    assert any("enlarged" in note for note in made.notes)
    assert "'face'" in made.facts["refined"]["eyes"]["finder"]
    assert (made.frames != on_disk(film)).any()


@pytest.mark.slow
def test_the_noise_prior_may_be_another_one(film: Film, tiny: Backbone) -> None:
    own, plain = (refine(film, tiles=2, backbone=tiny, correlation=gamma) for gamma in (None, 0.0))
    assert (own.facts["correlation"], plain.facts["correlation"]) == (0.15, 0.0)
    assert (own.frames != plain.frames).any()
    assert plain.sidecar is not None
    assert np.array_equal(from_sidecar(plain.sidecar, backbone=tiny, write=False).frames, plain.frames)
    with pytest.raises(StarringError, match=r"correlation is 1\.0, but it must lie in \[0, 1\)"):
        refine(film, tiles=2, backbone=tiny, correlation=1.0)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
def test_a_film_from_a_device_that_is_not_here_is_refined_where_it_can_be(film: Film, tiny: Backbone) -> None:
    assert film.sidecar is not None
    facts = json.loads(film.sidecar.read_text())
    facts["machine"]["device"] = "cuda"
    film.sidecar.write_text(json.dumps(facts))
    made = refine(film, tiles=2, write=False)
    assert made.notes[0] == "The film was made on cuda, which is not here; it is refined on cpu."
    assert np.array_equal(made.frames, refine(film, tiles=2, backbone=tiny, write=False).frames)


@pytest.mark.slow
def test_a_clip_from_elsewhere_needs_a_run_and_a_prompt(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    pixels = torch.from_numpy(noise_film(5, 40, 48)).permute(3, 0, 1, 2).float() / 127.5 - 1
    clip = write_video(tmp_path / "clip.mp4", pixels, fps=12)
    with pytest.raises(StarringError, match="--run RUN --prompt"):
        refine(clip, tiles=2, backbone=tiny)
    with pytest.raises(StarringError, match="Give its prompt"):
        refine(clip, tiles=2, run=run, backbone=tiny)
    made = refine(clip, tiles=2, run=run, prompt=PROMPT, backbone=tiny)
    assert made.frames.shape == (5, 80, 96, 3)
    assert made.path == tmp_path / "clip-2x.mp4"
    assert made.facts["sample"]["fps"] == 12
    assert made.sidecar is not None
    assert np.array_equal(from_sidecar(made.sidecar, backbone=tiny, write=False).frames, made.frames)


def test_a_film_in_memory(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    (film,) = generate(run, PROMPT, seed=1, backbone=tiny, write=False)
    made = refine(film, tiles=2, backbone=tiny, folder=tmp_path / "films")
    assert made.path == tmp_path / "films" / "film-2x.mp4"
    assert made.sidecar is not None
    with pytest.raises(StarringError, match="never written"):
        from_sidecar(made.sidecar)


def test_the_bare_backbones_films_too(tiny: Backbone, tmp_path: Path) -> None:
    (film,) = generate(None, "a dog on the beach", backbone=tiny, folder=tmp_path)
    made = refine(film, tiles=2, backbone=tiny)
    assert made.facts["method"]["name"] == "plain"


def test_what_cannot_be_refined(film: Film, tiny: Backbone, own_tiny: Backbone, run: Run, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="Nothing to refine"):
        refine(film, backbone=tiny)
    with pytest.raises(StarringError, match="There is no video"):
        refine(tmp_path / "nowhere.mp4", tiles=2)
    own_tiny.family = "cogvideox"
    with pytest.raises(StarringError, match=r"'animatediff'.*'cogvideox'"):
        refine(film, tiles=2, backbone=own_tiny)
    run.weights.unlink()
    with pytest.raises(StarringError, match="not there"):
        refine(film, tiles=2, backbone=tiny)


@pytest.mark.slow
def test_other_weights_of_the_family_refine_it_and_that_is_said(film: Film, tmp_path: Path) -> None:
    other = load_backbone(str(tiny_animatediff(tmp_path / "other", seed=1)))
    made = refine(film, tiles=2, backbone=other, write=False)
    assert "other weights" in made.notes[0]


@pytest.mark.slow
def test_the_miniatures_films_become_twice_as_large(tmp_path: Path) -> None:
    backbone = load_backbone("miniature", device="cpu")
    sample = {"frames": 8, "steps": 4}
    (film,) = generate(None, "a man standing still", backbone=backbone, folder=tmp_path, sample=sample)
    made = refine(film, face=True, tiles=2, backbone=backbone)
    assert film.frames.shape == (8, 64, 64, 3)
    assert made.frames.shape == (8, 128, 128, 3)
    before = on_disk(film).astype(float)
    small = made.frames.reshape(8, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - before).mean() < 20, "the enlarged film is still the same film"
