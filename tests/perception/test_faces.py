"""Faces by OpenCV's real classes around tiny model files, and by a segmenter."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from starring.errors import StarringError
from starring.perception.encoders import load_dino
from starring.perception.faces import (
    POINTS,
    ArcFace,
    DetectedFaces,
    SegmentedFaces,
    SFace,
    as_picture,
    load_faces,
    square,
)
from starring.perception.segment import load_segmenter
from tests.perception.tiny_eyes import tiny_eyes
from tests.perception.tiny_sface import tiny_sface
from tests.refine.tiny_yunet import tiny_yunet


def frame(*cells: tuple[int, int], side: int = 64) -> Tensor:
    """Black, with red cells of 8 x 8, which the tiny detector takes for faces: ``3 side side`` in [0, 1]."""
    pixels = torch.zeros(3, side, side)
    for y, x in cells:
        pixels[0, y : y + 8, x : x + 8] = 1
    return pixels


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_yunet(tmp_path / "yunet.onnx"), tiny_sface(tmp_path / "sface.onnx")


def test_opencvs_detector_and_encoder(files: tuple[Path, Path]) -> None:
    eyes = load_faces(f"{files[0]}+{files[1]}")
    found = eyes.faces(torch.stack([frame((16, 24)), frame(), frame((0, 8), (40, 48))]))
    assert [len(faces) for faces in found] == [1, 0, 2]
    assert torch.allclose(found[2].norm(dim=1), torch.ones(2))
    # The same by hand: detect, align, encode.
    detector = cv2.FaceDetectorYN.create(str(files[0]), "", (64, 64), 0.9)
    encoder = cv2.FaceRecognizerSF.create(str(files[1]), "")
    picture = (frame((16, 24)) * 255).byte().permute(1, 2, 0).numpy()[..., ::-1].copy()
    _, rows = detector.detect(picture)
    slow = encoder.feature(encoder.alignCrop(picture, np.asarray(rows)[0])).ravel()
    assert found[0][0].numpy() == pytest.approx(slow / np.linalg.norm(slow), abs=1e-5)
    assert all(word in eyes.protocol for word in ("yunet:yunet@", "sface:sface@", "score 0.9"))


def test_a_frame_without_a_face_is_tried_once_more_with_a_border(files: tuple[Path, Path]) -> None:
    sizes: list[tuple[int, ...]] = []
    eyes = DetectedFaces(files[0], SFace(files[1]))
    rows = eyes.detector._rows  # pyright: ignore[reportPrivateUsage]

    def watched(picture: np.ndarray) -> object:
        sizes.append(picture.shape)
        return rows(picture)

    eyes.detector._rows = watched  # type: ignore[method-assign]
    eyes.faces(torch.stack([frame(), frame((16, 24))]))
    assert sizes == [(64, 64, 3), (80, 80, 3), (64, 64, 3)]


FIVE = ((0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82))
"""Where the tiny detector puts eyes, nose and mouth in a cell of 8 x 8, as shares of it."""


def red(side: int, top: int, left: int, size: int, how: float = 1.0) -> Tensor:
    """Black with one red square."""
    pixels = torch.zeros(3, side, side)
    pixels[0, top : top + size, left : left + size] = how
    return pixels


def test_a_large_face_is_found_on_the_frame_reduced_and_its_points_are_the_frames(files: tuple[Path, Path]) -> None:
    """The square fills a cell of the frame reduced to 320, and over-runs every cell of the frame itself."""
    detector = DetectedFaces(files[0], SFace(files[1])).detector
    picture = red(400, 50, 50, 10, 100 / 255)
    given, rows = detector.detect(as_picture(picture))
    assert given.shape == (400, 400, 3), "it was found without a border"
    assert [row[:4].tolist() for row in rows] == [pytest.approx([50, 50, 10, 10], abs=1e-3)]
    expected = 50 + 10 * np.array(FIVE)
    assert detector.points(picture)[0] == pytest.approx(expected, abs=1e-3)
    # 32 pixels of 1280 are a cell at 320; wide frames are reduced by one factor, so that faces stay round.
    wide = torch.zeros(3, 640, 1280)
    wide[0, 96:128, 64:96] = 1
    assert detector.points(wide)[0] == pytest.approx(np.array((64, 96)) + 32 * np.array(FIVE), abs=1e-3)


def test_one_face_at_two_sizes_is_one_the_most_certain(files: tuple[Path, Path]) -> None:
    detector = DetectedFaces(files[0], SFace(files[1])).detector
    # On the frame itself its best cell is three quarters red, reduced to 320 a cell is red throughout.
    (row,) = detector.detect(as_picture(red(400, 50, 40, 10, 84 / 255)))[1]
    assert row[:4].tolist() == pytest.approx([40, 50, 10, 10], abs=1e-3)
    # On the frame itself a cell is red throughout, reduced two thirds of one are.
    (row,) = detector.detect(as_picture(red(400, 40, 40, 8, 120 / 255)))[1]
    assert row[:4].tolist() == pytest.approx([40, 40, 8, 8], abs=1e-3)


def test_arcface_is_aligned_and_normalised(files: tuple[Path, Path]) -> None:
    encoder = ArcFace(files[1])
    picture = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    row = np.zeros(15, np.float32)
    row[4:14] = (np.array(POINTS) + 20).ravel()  # already upright, twenty pixels in
    face = picture[20:132, 20:132, ::-1].astype(np.float32)  # red first
    scaled = (face - 127.5) / 127.5
    quarters = [scaled[y : y + 56, x : x + 56].mean((0, 1)) for y in (0, 56) for x in (0, 56)]
    assert encoder.encode(picture, row) == pytest.approx(np.array(quarters).T.ravel(), abs=0.02)
    assert load_faces(f"{files[0]}+arcface={files[1]}").recognizer.id.startswith("arcface:sface@")


def test_faces_by_a_segmenter(tmp_path: Path) -> None:
    folder = tiny_eyes(tmp_path)
    segmenter, dino = load_segmenter(str(folder / "segmenter")), load_dino(str(folder / "dino"))
    eyes = SegmentedFaces(segmenter, dino)
    frames = torch.rand(3, 3, 40, 44, generator=torch.Generator().manual_seed(0))
    found = eyes.faces(frames)
    instances = [segmenter.instances([_picture(one)], "face")[0] for one in frames]
    assert [len(faces) for faces in found] == [len(each) for each in instances]
    assert any(len(faces) for faces in found)
    assert dino.protocol in eyes.protocol
    assert segmenter.id in eyes.protocol


def test_squares_repeat_the_border() -> None:
    pixels = torch.arange(48.0).reshape(1, 6, 8).expand(3, -1, -1)
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[0:4, 0:2] = True
    cut = square(pixels, mask)
    assert cut.shape == (3, 5, 5)
    for y in range(5):
        for x in range(5):
            assert cut[0, y, x] == pixels[0, min(max(y - 1, 0), 5), min(max(x - 2, 0), 7)]


@pytest.mark.parametrize(
    ("name", "match"),
    [("yunet.onnx", "two files of your own"), ("a.onnx+b.onnx", "no face encoder"), ("+", "two")],
)
def test_what_names_no_face_eyes(name: str, match: str) -> None:
    with pytest.raises(StarringError, match=match):
        load_faces(name)


def test_files_that_are_no_models(tmp_path: Path, files: tuple[Path, Path]) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(StarringError, match="no face encoder that OpenCV can read"):
        load_faces(f"{files[0]}+{tmp_path / 'text.onnx'}")
    with pytest.raises(StarringError, match="no face detector"):
        load_faces(f"{tmp_path / 'none.onnx'}+{files[1]}")


def _picture(pixels: Tensor) -> object:
    from PIL import Image

    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
