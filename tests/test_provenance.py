"""Films verified: by themselves, with what they were made of changed or gone, and films of other makers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from starring.backbones.base import Backbone
from starring.config import Reward, to_json
from starring.data.subject import Subject
from starring.data.video import read_comment, write_video
from starring.errors import StarringError
from starring.generate import from_sidecar, generate
from starring.perception.encoders import load_clip
from starring.perception.segment import load_segmenter
from starring.provenance import Verification, verify
from starring.refine import TileOptions, refine
from starring.run import Photographs, Run
from tests.data.pictures import album
from tests.data.test_video_metadata import remuxed
from tests.perception.tiny_eyes import tiny_clip, tiny_segmenter
from tests.refine.test_enlarge import tiny_swin2sr
from tests.test_generate import make_run
from tests.tiny import tiny_animatediff

PROMPT = "a <*> dog on the beach"
Look = Callable[[Path], Verification]


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


@pytest.fixture
def film(run: Run, tiny: Backbone) -> Path:
    (made,) = generate(run, PROMPT, seed=7, backbone=tiny, sample={"steps": 1, "negative": ""})
    assert made.path is not None
    return made.path


@pytest.fixture
def look(tiny: Backbone) -> Look:
    """Verifies with the backbone that is loaded already."""
    return partial(verify, backbone=tiny)


def states(told: Verification) -> dict[str, str]:
    return {finding.what: finding.state for finding in told.findings if finding.state != "same"}


def changed(film: Path, **values: Any) -> None:
    """The film and its sidecar as if they had been made elsewhere."""
    facts = {**json.loads(film.with_suffix(".json").read_text()), **values}
    write_video(film, torch.zeros(1, 3, 4, 32, 32), metadata=facts)
    film.with_suffix(".json").write_text(json.dumps(facts))


def test_a_film_carries_recipe_seed_versions_device_and_method(film: Path, run: Run) -> None:
    facts = read_comment(film)
    assert facts == json.loads(film.with_suffix(".json").read_text())
    assert (facts["seed"], facts["prompt"], facts["machine"]["device"]) == (7, PROMPT, "cpu")
    assert {"starring", "torch", "diffusers", "transformers"} <= set(facts["versions"])
    learned = facts["method"]["learned"]
    assert learned["recipe"]["stages"][0]["train"]["steps"] == 400
    assert learned["subject"] == {"name": "rex", "class_word": "dog", "rights": None}
    assert facts["digital_source_type"] == "trainedAlgorithmicMedia"
    assert str(run.folder.parent) not in json.dumps(facts["method"])
    with av.open(str(film)) as container:
        assert container.metadata["title"] == PROMPT


@pytest.mark.slow
def test_an_untouched_film_can_be_made_again_bit_for_bit(film: Path, tiny: Backbone) -> None:
    told = verify(film)
    assert told.exact
    assert "bit for bit" in told.conclusion
    assert told.remarks == ()
    assert states(verify(film.with_suffix(".json"))) == {}
    assert states(verify(film, tiny)) == {}
    again = from_sidecar(film)
    assert again.path is not None
    assert again.path.read_bytes() == film.read_bytes()


def test_the_film_alone_is_enough(film: Path, look: Look) -> None:
    film.with_suffix(".json").unlink()
    told = look(film)
    assert told.exact
    assert "no sidecar" in told.remarks[0]


def test_the_sidecar_alone_is_enough(film: Path, look: Look) -> None:
    film.unlink()
    told = look(film.with_suffix(".json"))
    assert told.exact
    assert "no film" in told.remarks[0]


def test_a_film_that_lost_its_word_is_known_by_its_sidecar(film: Path, look: Look) -> None:
    write_video(film, torch.zeros(1, 3, 4, 32, 32))
    told = look(film)
    assert told.exact
    assert "lost" in told.remarks[0]


def test_a_changed_sidecar_is_told_and_not_believed(film: Path, look: Look) -> None:
    sidecar = film.with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "seed": 8}))
    told = look(film)
    assert told.facts["seed"] == 7
    assert "something else about: seed" in told.remarks[0]


def test_pictures_compressed_again_are_told(film: Path, tmp_path: Path, look: Look) -> None:
    again = remuxed(film, tmp_path / "again.mp4", crf=40)
    shutil.move(again, film)
    (remark,) = look(film).remarks
    assert "NOT those that were written" in remark


def test_a_run_learned_anew_or_gone_is_told(film: Path, run: Run, look: Look) -> None:
    run.save_weights({"rows": torch.zeros(4, 32)})
    told = look(film)
    assert states(told) == {"what was learned": "another"}
    assert not told.possible
    assert "cannot" in told.conclusion
    run.weights.unlink()
    assert states(look(film)) == {"what was learned": "gone"}


@pytest.mark.slow
def test_another_backbone_is_told(film: Path, tmp_path: Path) -> None:
    facts = read_comment(film)
    other = tiny_animatediff(tmp_path / "other", seed=1)
    backbone = {**facts["backbone"], "origin": {"name_or_path": str(other)}}
    changed(film, backbone=backbone)
    told = verify(film)
    assert states(told) == {"the backbone": "another"}
    shutil.rmtree(other)
    assert states(verify(film)) == {"the backbone": "gone"}
    assert not verify(film).possible


def test_other_versions_and_machines_cost_equal_bits_only(film: Path, look: Look) -> None:
    facts = read_comment(film)
    changed(
        film, versions={**facts["versions"], "torch": "1.13.0", "oldlib": "1"},
        machine={**facts["machine"], "processor": "abacus"},
    )  # fmt: skip
    told = look(film)
    assert states(told) == {"torch": "another", "oldlib": "another", "processor": "another"}
    assert told.possible
    assert not told.exact
    assert "small differences" in told.conclusion
    for device in ("abacus", *([] if torch.cuda.is_available() else ["cuda"])):
        changed(film, machine={**facts["machine"], "device": device})
        assert states(look(film))["device"] == "another"


def test_the_clip_and_the_film_before_are_looked_for(film: Path, tmp_path: Path, look: Look) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a clip")
    gone = {"file": None, "sha256": None}
    changed(film, video={"file": str(clip), "sha256": "0" * 64, "strength": 0.5}, refined={"film": gone})
    assert states(look(film)) == {"the clip it began from": "another", "the film before refining": "gone"}


@pytest.mark.slow
def test_what_a_reward_looked_with_and_at_is_looked_for(film: Path, run: Run, tmp_path: Path, look: Look) -> None:
    folder = album(tmp_path / "rex", 2)
    record = {**json.loads((run.folder / "config.json").read_text())}
    record["subject"] = to_json(Photographs.of(Subject.from_folder(folder, "dog")))
    (run.folder / "config.json").write_text(json.dumps(record))
    places = {"segmenter": str(tiny_segmenter(tmp_path / "cutter")), "encoder": str(tiny_clip(tmp_path / "clip"))}
    ids = {"segmenter": load_segmenter(places["segmenter"]).id, "encoder": load_clip(places["encoder"]).id}
    method = read_comment(film)["method"]

    def rewarded(**said: Any) -> None:
        changed(film, method={**method, "reward": {"options": to_json(Reward(iterations=1)), **said}})

    rewarded(**places, eyes=ids)
    assert look(film).exact
    rewarded(eyes=ids)  # networks that a program passed in
    assert states(look(film)) == {"the reward's segmenter": "gone", "the reward's encoder": "gone"}
    rewarded(**places, eyes=ids)
    tiny_clip(tmp_path / "clip", seed=1)
    told = look(film)
    assert states(told) == {"the reward's encoder": "another"}
    assert told.possible
    tiny_clip(tmp_path / "clip")
    (folder / "2.png").unlink()
    told = look(film)
    assert states(told) == {"the reward's photographs": "another"}
    assert not told.possible
    with pytest.raises(StarringError, match="compared with 2 photographs, and 1 of them"):
        from_sidecar(film)
    shutil.rmtree(folder)
    assert states(look(film)) == {"the reward's photographs": "gone"}


def test_what_enlarged_a_film_is_looked_for(film: Path, tiny: Backbone, tmp_path: Path, look: Look) -> None:
    swin = tiny_swin2sr(tmp_path / "swin")
    larger = refine(film, tiles=TileOptions(enlarger=str(swin), strength=0.0), backbone=tiny).path
    assert larger is not None
    assert look(larger).exact
    shutil.rmtree(swin)
    told = look(larger)
    assert states(told) == {"the enlarger of refining": "gone"}
    assert not told.possible
    tiny_swin2sr(swin, upscale=4)
    assert states(look(larger)) == {"the enlarger of refining": "another"}


def test_declared_rights_are_told_and_their_end_too(film: Path, look: Look) -> None:
    facts = read_comment(film)
    rights = {"owner": "Ada", "consent": "given", "expiry": "2020-01-01"}
    learned = {**facts["method"]["learned"], "subject": {"name": "rex", "class_word": "dog", "rights": rights}}
    changed(film, method={**facts["method"], "learned": learned})
    declared, ended = look(film).remarks
    assert "owner Ada" in declared
    assert "expired on 2020-01-01" in ended


def test_a_film_from_before_recipes_were_noted(film: Path, look: Look) -> None:
    facts = read_comment(film)
    changed(film, method={key: value for key, value in facts["method"].items() if key != "learned"})
    assert look(film).exact


def test_films_of_other_makers_are_refused(tmp_path: Path) -> None:
    foreign = write_video(tmp_path / "a.mp4", torch.zeros(1, 3, 4, 32, 32), metadata={"model": "another"})
    with pytest.raises(StarringError, match="no film of Starring"):
        verify(foreign)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(StarringError, match="does not describe a film"):
        verify(tmp_path / "b.json")
    (tmp_path / "c.mp4").write_bytes(b"x")
    with pytest.raises(StarringError, match="cannot be read as a video"):
        verify(tmp_path / "c.mp4")
    for nothing in (tmp_path / "d.mp4", Path(), tmp_path):
        with pytest.raises(StarringError, match="There is no film"):
            verify(nothing)
