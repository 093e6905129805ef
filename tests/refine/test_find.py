"""Faces on frames: by a real segmenter of the right class, and by OpenCV's own detector."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from starring.errors import StarringError
from starring.perception.segment import load_segmenter
from starring.refine.find import ByDetector, BySegmenter, within
from tests.perception.tiny_eyes import tiny_segmenter
from tests.refine.tiny_yunet import tiny_yunet


def test_a_segmenters_instances_are_faces(tmp_path: Path) -> None:
    eye = load_segmenter(str(tiny_segmenter(tmp_path / "eye")))
    finder = BySegmenter(eye, "face")
    frames = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8)
    found = finder.find(frames)
    wanted = eye.instances([Image.fromarray(frame) for frame in frames], "face")
    assert [len(faces) for faces in found] == [len(instances) for instances in wanted]
    assert any(found)
    for faces, instances in zip(found, wanted, strict=True):
        for face, instance in zip(faces, instances, strict=True):
            mask = instance.mask.numpy()
            assert np.array_equal(face.mask, mask)
            places = np.argwhere(mask)
            assert face.box == (places[:, 1].min(), places[:, 0].min(), places[:, 1].max() + 1, places[:, 0].max() + 1)
    assert eye.id in finder.id
    assert "'face'" in finder.id


def test_the_size_and_middle_of_a_box() -> None:
    mask = np.zeros((10, 20), dtype=np.bool_)
    mask[2:5, 8:12] = True
    face = within(mask)
    assert face.box == (8, 2, 12, 5)
    assert face.size == (3, 4)
    assert face.centre == (3.5, 10)


def test_opencvs_detector_with_a_model_file(tmp_path: Path) -> None:
    detector = ByDetector(tiny_yunet(tmp_path / "yunet.onnx"))
    frames = np.full((2, 48, 80, 3), 90, dtype=np.uint8)
    frames[0, 16:24, 40:48] = frames[0, 32:40, 8:16] = (255, 0, 0)
    first, second = detector.find(frames)
    assert sorted(face.box for face in first) == [(8, 32, 16, 40), (40, 16, 48, 24)]
    assert second == []
    for face in first:
        left, top, right, bottom = face.box
        for y in range(48):
            for x in range(80):
                u, v = (x + 0.5 - (left + right) / 2) / 4, (y + 0.5 - (top + bottom) / 2) / 4
                assert face.mask[y, x] == (u * u + v * v <= 1)
    assert detector.id.startswith("yunet(yunet.onnx@")


def test_a_detector_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="There is no face detector"):
        ByDetector(tmp_path / "yunet.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"not a network")
    with pytest.raises(StarringError, match="that OpenCV can read"):
        ByDetector(tmp_path / "yunet.onnx")
