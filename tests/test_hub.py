"""Networks from the hub without a connection: at once from the cache, or at once a readable refusal."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from starring.backbones.presets import load_backbone
from starring.errors import StarringError
from starring.hub import fetched
from starring.perception.segment import load_segmenter
from tests.perception.tiny_eyes import tiny_segmenter


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
