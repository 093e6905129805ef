"""Networks from the hub without a connection: at once from the cache, or at once a readable refusal."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from starring.backbones.presets import load_backbone
from starring.errors import StarringError
from starring.hub import fetched, file_of
from starring.perception.faces import load_faces
from starring.perception.segment import load_segmenter
from tests.perception.tiny_eyes import tiny_segmenter
from tests.perception.tiny_sface import tiny_sface
from tests.refine.tiny_yunet import tiny_yunet


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no connection."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, owner: str, name: str) -> Path:
    """The folder of a snapshot as the hub's own library lays it out."""
    repo = cache / f"models--{owner}--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    folder = repo / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


def test_what_was_downloaded_before_is_found(cache: Path) -> None:
    folder = tiny_segmenter(cached(cache, "owner", "small"))
    assert fetched("owner/small") == folder
    assert "owner/small@" in load_segmenter("owner/small").id


def test_faces_are_found_by_what_opencv_publishes(cache: Path) -> None:
    tiny_yunet(cached(cache, "opencv", "face_detection_yunet") / "face_detection_yunet_2023mar.onnx")
    tiny_sface(cached(cache, "opencv", "face_recognition_sface") / "face_recognition_sface_2021dec.onnx")
    eyes = load_faces("yunet+sface")
    assert "yunet:face_detection_yunet_2023mar@" in eyes.protocol
    assert "sface:face_recognition_sface_2021dec@" in eyes.protocol
    with pytest.raises(StarringError, match=r"'owner/small/r100\.onnx' is not on this disk"):
        load_faces("yunet+arcface=owner/small/r100.onnx")
    with pytest.raises(StarringError, match=r"no face encoder .*sface, which OpenCV publishes"):
        load_faces("yunet+mine.onnx")


def test_a_file_of_a_repository(cache: Path) -> None:
    folder = cached(cache, "owner", "small") / "deep"
    folder.mkdir()
    (folder / "r100.pth").write_bytes(b"weights")
    assert file_of("owner/small/deep/r100.pth").read_bytes() == b"weights"
    for name in ("owner/small", "../small/r100.pth"):
        with pytest.raises(StarringError, match="owner/name/file"):
            file_of(name)


@pytest.mark.parametrize(("kind", "said"), [
    (GatedRepoError, "accepted its licence.*or name a path"), (RepositoryNotFoundError, "has no .*or name a path"),
])  # fmt: skip
def test_what_the_hub_does_not_give_is_told(
    kind: type[HfHubHTTPError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: str) -> str:
        raise kind("no", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(StarringError, match=said):
        file_of("owner/small/r100.pth")


@pytest.mark.slow
def test_what_is_nowhere_is_refused_at_once(cache: Path, tiny_folder: Path) -> None:
    began = time.process_time()
    with pytest.raises(StarringError, match=r"'owner/nothing' is not on this disk, and the hub cannot be reached"):
        fetched("owner/nothing")
    with pytest.raises(StarringError, match="hub cannot be reached"):
        load_segmenter("owner/nothing")
    for part in ("vae", "adapter"):
        with pytest.raises(StarringError, match="hub cannot be reached"):
            load_backbone(tiny_folder, device="cpu", **{part: "owner/nothing"})
    assert time.process_time() - began < 10
