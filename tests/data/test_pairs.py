"""Corpora of pairs: what is read, what is left out and told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starring.data.cutouts import cut_out, on_white, read_cutout
from starring.data.pairs import Pairs
from starring.data.prompts import mentions
from starring.errors import StarringError
from tests.moving import clip
from tests.pairing import cutout, listed, pairs, rows_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs(tmp_path_factory.mktemp("corpus") / "many")


def test_a_corpus_is_its_lines(corpus: Path) -> None:
    found = Pairs.read(corpus)
    assert (len(found), found.name, found.skipped) == (4, "many", [])
    assert [row.entity for row in found.rows] == ["dog", "cat", "robot", "turtle"]
    assert found.rows[1].caption == "a cat running on the beach"
    assert found.rows[1].clip == corpus / "clips" / "1.mp4"
    assert Pairs.read(corpus).digest == found.digest


def test_its_digest_follows_what_is_learned(tmp_path: Path) -> None:
    home = pairs(tmp_path, 2)
    before, rows = Pairs.read(home).digest, rows_of(home)
    listed(home, [rows[0], {**rows[1], "caption": "a cat sleeping"}])
    captioned = Pairs.read(home).digest
    listed(home, rows)
    assert before == Pairs.read(home).digest != captioned
    clip(home / "clips" / "0.mp4", frames=14)
    assert Pairs.read(home).digest != before


def test_files_may_lie_elsewhere_and_clips_be_folders(tmp_path: Path) -> None:
    home, rows = pairs(tmp_path / "own", 2), rows_of(tmp_path / "own")
    rows[0]["reference"] = str(cutout(tmp_path / "elsewhere.png", 1))
    frames = tmp_path / "own" / "frames"
    frames.mkdir()
    for i in range(20):
        Image.new("RGB", (64, 64), (i, 90, 60)).save(frames / f"{i:03}.png")
    rows[1]["clip"] = "frames"
    listed(home, rows)
    found = Pairs.read(home)
    assert (len(found), found.skipped) == (2, [])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(frames / "000.png")
    assert Pairs.read(home).digest != found.digest, "a frame is another one"


def test_pairs_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    home, rows = pairs(tmp_path, 4), rows_of(tmp_path)
    rows[0]["clip"] = "clips/none.mp4"
    rows[1]["entity"] = "run"  # a part of "running" is no word
    rows[2]["reference"] = "references/none.png"
    listed(home, rows)
    found = Pairs.read(home)
    assert [row.entity for row in found.rows] == ["turtle"]
    said = [str(complaint) for complaint in found.skipped]
    assert "line 1 was left out: there is no" in said[0]
    assert "none.mp4" in said[0]
    assert "'run': a cat running on the beach" in said[1]
    assert "none.png" in said[2]
    listed(home, rows[:3])
    with pytest.raises(StarringError, match=r"No pair in .* line 1 was left out"):
        Pairs.read(home)


@pytest.mark.parametrize(("text", "fragment"), [
    ("", "is empty"),
    ("{", "Line 1 .* is not JSON"),
    ('\n["a"]', "Line 2 .* lacks reference, clip, caption, entity"),
    ('{"reference": "a.png", "clip": 3, "caption": "a", "entity": " "}', "lacks clip, entity"),
])  # fmt: skip
def test_broken_lists_are_refused_by_line(text: str, fragment: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(StarringError, match=fragment):
        Pairs.read(tmp_path)


def test_a_folder_without_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match=r"holds no metadata\.jsonl"):
        Pairs.read(tmp_path)


def test_frames_follow_the_film_s_speed(tmp_path: Path) -> None:
    home, rows = pairs(tmp_path, 1), rows_of(tmp_path)
    clip(home / "clips" / "fast.mp4", frames=30, fps=24)
    listed(home, [{**rows[0], "clip": "clips/fast.mp4"}])
    (pair,) = Pairs.read(home).rows
    every = [np.asarray(frame) for frame in pair.frames(30, 8, "first")]
    third = [np.asarray(frame) for frame in pair.frames(9, 8, "film")]
    assert all(np.array_equal(frame, every[3 * i]) for i, frame in enumerate(third))
    with pytest.raises(StarringError, match="it has 30 frames, and 17 frames of a film need 49"):
        pair.frames(17, 8, "film")


def test_a_cutout_lies_on_white_and_fills_the_frame(tmp_path: Path) -> None:
    image = Image.new("RGB", (50, 40), (10, 20, 30))
    mask = torch.zeros(40, 50)
    mask[8:28, 12:32] = 1
    cut = cut_out(image, mask)
    assert cut.size == (24, 24), "20 pixels, and 5 % (2 at least) of white on each side"
    pixels = np.asarray(cut)
    assert (pixels[2:22, 2:22] == (10, 20, 30)).all()
    assert (pixels[:2] == 255).all()
    assert (pixels[:, 22:] == 255).all()
    wide = on_white(cut, (32, 48))
    assert wide.shape == (3, 1, 32, 48)
    assert (wide[..., :8] == 1).all()
    assert (wide[..., 40:] == 1).all()
    assert wide[:, 0, 16, 24] == pytest.approx([c / 127.5 - 1 for c in (10, 20, 30)], abs=0.02)
    transparent = read_cutout(cutout(tmp_path / "clear.png", 1))
    assert transparent.size == (25, 25)
    assert read_cutout(cutout(tmp_path / "plain.png", 1, transparent=False)).size == (50, 40)
    with pytest.raises(StarringError, match="There is no picture"):
        read_cutout(tmp_path / "none.png")


@pytest.mark.parametrize(("image", "fragment"), [
    (Image.new("RGBA", (40, 40), (200, 30, 30, 0)), "is transparent everywhere"),
    (Image.new("RGB", (40, 40), "white"), r"is of one colour \(255, 255, 255\)"),
    (Image.new("L", (40, 40), 7), r"is of one colour \(7, 7, 7\)"),
])  # fmt: skip
def test_a_picture_of_nothing_is_refused(image: Image.Image, fragment: str, tmp_path: Path) -> None:
    image.save(tmp_path / "nothing.png")
    with pytest.raises(StarringError, match=rf"nothing\.png {fragment}.*, so it shows nothing"):
        read_cutout(tmp_path / "nothing.png")


def test_how_little_may_be_opaque(tmp_path: Path) -> None:
    """As little as a segmenter may find: half a percent."""
    pixels = np.zeros((100, 100, 4), np.uint8)
    pixels[:7, :7] = 255
    Image.fromarray(pixels).save(tmp_path / "small.png")
    with pytest.raises(StarringError, match="transparent almost everywhere"):
        read_cutout(tmp_path / "small.png")
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "small.png")
    assert read_cutout(tmp_path / "small.png").size == (10, 10), "of one colour, but with an outline"


@pytest.mark.parametrize(("text", "entity", "there"), [
    ("a Red Toy Car drives", "toy  car", True), ("toys", "toy", False), ("a toy.", "Toy", True), ("a toy", " ", False),
    ("a c++ robot", "c++", True),
])  # fmt: skip
def test_entities_are_whole_words(text: str, entity: str, there: bool) -> None:
    assert mentions(text, entity) == there
