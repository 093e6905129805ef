"""What a film says about itself, and whether it still is that film."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor

from starring.data.video import read_comment, untouched, write_video
from starring.errors import StarringError

FACTS = {"prompt": "a <*> dög", "seed": 7, "recipe": {"stages": [{"steps": 400}]}}


def film(seed: int = 0, frames: int = 6) -> Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def remuxed(source: Path, target: Path, crf: int | None = None) -> Path:
    """The film copied packet by packet with its metadata, or compressed again."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(old.metadata)
        if crf is None:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
            return target
        stream = new.add_stream("libx264", rate=8, options={"crf": str(crf)})
        stream.width, stream.height = 48, 32
        for frame in old.decode(video=0):
            new.mux(stream.encode(frame.reformat(format="yuv420p")))
        new.mux(stream.encode(None))
    return target


def test_facts_and_title_are_in_the_container(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film(), metadata=FACTS, title="a <*> dög")
    with av.open(str(path)) as container:
        assert container.metadata["title"] == "a <*> dög"
        facts = json.loads(container.metadata["comment"])
        assert facts.pop("pictures_sha256") != "0" * 64
        assert facts == FACTS
        assert sum(1 for _ in container.decode(video=0)) == 6
    assert read_comment(path) == FACTS


def test_the_same_film_is_the_same_file_and_another_is_not(tmp_path: Path) -> None:
    one, two, other = (
        write_video(tmp_path / f"{i}.mp4", film(seed), metadata=FACTS, title="t").read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == two != other


def test_long_facts_fit_and_the_index_stays_in_front(tmp_path: Path) -> None:
    facts = {**FACTS, "long": "ü" * 50_000}
    path = write_video(tmp_path / "a.mp4", film(), metadata=facts, title="t" * 500)
    assert read_comment(path) == facts
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_copy_is_untouched_and_a_new_compression_is_not(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film(), metadata=FACTS)
    assert untouched(path)
    assert untouched(remuxed(path, tmp_path / "copy.mp4"))
    again = remuxed(path, tmp_path / "again.mp4", crf=30)
    assert read_comment(again) == FACTS
    assert not untouched(again)


def test_films_without_facts_cannot_be_vouched_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film())
    assert read_comment(path) == {}
    assert not untouched(path)
    (tmp_path / "no.mp4").write_bytes(b"no film")
    with pytest.raises(StarringError, match="cannot be read as a video"):
        untouched(tmp_path / "no.mp4")
