"""Clips from anywhere, at a film's speed and size; and clips that are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starring.data.footage import digest, pictures, read_footage
from starring.data.video import read_video, to_images, write_video
from starring.errors import StarringError

SIZE = (32, 32)


def numbered(frames: int, side: int = 32) -> torch.Tensor:
    """Frame ``i`` is grey of value ``i / 21 - 1``."""
    values = torch.arange(frames) / 21 - 1
    return values.view(1, 1, frames, 1, 1).expand(1, 3, frames, side, side).contiguous()


def seen(pixels: torch.Tensor) -> list[int]:
    """Which frames of :func:`numbered` these are."""
    return [round(21 * (float(value) + 1)) for value in pixels.mean((0, 1, 3, 4))]


@pytest.mark.parametrize(
    ("fps", "film_fps", "frames"), [(24, 8, 10), (10, 8, 12), (8, 8, 20), (25, 8, 8), (30000 / 1001, 8, 5), (4, 8, 9)]
)
def test_frames_are_taken_at_the_films_speed(tmp_path: Path, fps: float, film_fps: int, frames: int) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(40), fps=fps, crf=1)
    footage = read_footage(path, frames=frames, fps=film_fps, size=SIZE)
    wanted = [int(np.floor(i / film_fps * fps + 1e-6)) for i in range(frames)]
    assert list(footage.numbers) == wanted
    assert seen(footage.pixels) == wanted
    again = read_footage(path, frames=frames, fps=film_fps, size=SIZE, numbers=footage.numbers)
    assert torch.equal(again.pixels, footage.pixels)


def test_a_short_clip_is_spread_over_the_film_and_that_is_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(5), fps=24, crf=1)
    with pytest.warns(UserWarning, match="ends after 5 frames"):
        footage = read_footage(path, frames=10, fps=8, size=SIZE)
    assert list(footage.numbers) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert seen(footage.pixels) == list(footage.numbers)


@pytest.mark.parametrize("suffix", ["avi", "mov", "webm", "mkv", "gif"])
def test_every_container(tmp_path: Path, suffix: str) -> None:
    import av

    codec = {"avi": "mpeg4", "mov": "mpeg4", "webm": "libvpx-vp9", "mkv": "libx264", "gif": "gif"}[suffix]
    path = tmp_path / f"a.{suffix}"
    frames = to_images(numbered(16, side=64))
    if suffix == "gif":
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode(None))
    footage = read_footage(path, frames=8, fps=5, size=SIZE)
    assert footage.pixels.shape == (1, 3, 8, *SIZE)
    assert list(footage.numbers) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert np.abs(np.array(seen(footage.pixels)) - footage.numbers).max() <= 1


def test_a_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    for i, frame in enumerate(to_images(numbered(12))):
        frame.save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert [file.name for file in pictures(tmp_path)][:3] == ["frame0.png", "frame1.png", "frame2.png"]
    footage = read_footage(tmp_path, frames=11, fps=8, size=SIZE)
    assert seen(footage.pixels) == list(range(11))
    before = digest(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "frame3.png")
    assert digest(tmp_path) != before
    (tmp_path / "frame4.png").write_bytes(b"damaged")
    with pytest.raises(StarringError, match=r"frame4\.png cannot be read as a picture"):
        read_footage(tmp_path, frames=11, fps=8, size=SIZE)


def test_what_holds_no_frame(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="holds no frame"):
        read_footage(tmp_path, frames=4, fps=8, size=SIZE)
    with pytest.raises(StarringError, match="There is no video"):
        read_footage(tmp_path / "a.mp4", frames=4, fps=8, size=SIZE)
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(StarringError, match="cannot be read as a video"):
        read_footage(tmp_path / "a.mp4", frames=4, fps=8, size=SIZE)
    sound = tmp_path / "a.wav"
    _write_sound(sound)
    with pytest.raises(StarringError, match="no video stream"):
        read_footage(sound, frames=4, fps=8, size=SIZE)


def _write_sound(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(bytes(1600))


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_broken_stream_tells_how_far_it_went(tmp_path: Path, damage: str) -> None:
    pixels = torch.rand(1, 3, 40, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = bytearray(write_video(tmp_path / "a.mp4", pixels).read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2 : -100] = bytes(len(data) - len(data) // 2 - 100)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with pytest.raises(StarringError, match=r"breaks off after \d+ decoded frames") as told:
        read_footage(broken, frames=40, fps=8, size=SIZE)
    whole = int(str(told.value).split("breaks off after ")[1].split()[0])
    assert 5 < whole < 40
    assert read_footage(broken, frames=whole - 3, fps=8, size=SIZE).pixels.shape[2] == whole - 3
    with pytest.raises(StarringError, match="breaks off"):
        read_video(broken)


def test_an_avi_that_just_stops_is_noticed(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for frame in to_images(numbered(30, side=64)):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StarringError, match=r"\d+ of its 30 frames could be decoded"):
        read_footage(path, frames=30, fps=8, size=SIZE)
