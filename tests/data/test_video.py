from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.data.video import (
    contact_sheet,
    read_comment,
    read_video,
    resize,
    to_images,
    to_uint8,
    write_video,
)
from starring.errors import StarringError
from starring.miniature import world


def film(frames: int = 8, height: int = 48, width: int = 64) -> Tensor:
    """A soft square that moves right over a gradient."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shots = [
        torch.stack([x * 0.5, y * 0.5, torch.exp(-8 * ((x - t) ** 2 + y**2)) - 0.5])
        for t in torch.linspace(-0.5, 0.5, frames)
    ]
    return torch.stack(shots, 1)[None]


def test_written_films_come_back(tmp_path: Path) -> None:
    pixels = film()
    path = write_video(tmp_path / "new" / "a.mp4", pixels, fps=8, metadata={"prompt": "a <*> dög", "seed": 7}, crf=4)
    clip = read_video(path)
    assert clip.pixels.shape == pixels.shape
    assert clip.fps == 8
    assert (clip.pixels - pixels).abs().mean() < 0.03
    assert read_comment(path) == {"prompt": "a <*> dög", "seed": 7}
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_films_play_everywhere(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.format is not None
        assert stream.codec_context.format.name == "yuv420p"
        assert stream.frames == 8
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(40, 60), (64, 96)])
def test_the_same_film_is_the_same_file(size: tuple[int, int], tmp_path: Path) -> None:
    """With x264's mbtree a film of something that moves came out in ten ways; plain noise always in one."""
    shots = world.film(world.stage(world.identity(11, "dog"), "beach", "right", "normal", 1, 3))
    frames = torch.from_numpy(np.stack([shot.image for shot in shots])).movedim(-1, 0)[None].float() / 127.5 - 1
    moving = torch.nn.functional.interpolate(frames, size=(16, *size))
    files = [write_video(tmp_path / f"{n}.mp4", moving, metadata={"seed": 1}).read_bytes() for n in range(12)]
    assert len(set(files)) == 1


def test_odd_sizes_enlarging_and_clamping(tmp_path: Path) -> None:
    odd = write_video(tmp_path / "a.mp4", 3 * film(3, 33, 47))
    assert read_video(odd).pixels.shape == (1, 3, 3, 34, 48)
    large = read_video(write_video(tmp_path / "b.mp4", film(2), enlarge=4, crf=4))
    assert large.pixels.shape == (1, 3, 2, 192, 256)


def test_parts_of_clips(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film(10), crf=4)
    whole = read_video(path).pixels
    part = read_video(path, frames=3, start=1, every=2)
    assert torch.equal(part.pixels, whole[:, :, 1:7:2])
    assert part.fps == 4
    small = read_video(path, frames=1, size=(32, 32))
    assert small.pixels.shape == (1, 3, 1, 32, 32)
    assert small.pixels[0, 0, 0].mean(0).argmax() > 25  # cropped in the middle, not squeezed, so the gradient goes on


def test_animated_gifs_are_clips(tmp_path: Path) -> None:
    frames = to_images(film(4))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    clip = read_video(tmp_path / "a.gif")
    assert clip.pixels.shape == (1, 3, 4, 48, 64)
    assert clip.fps == pytest.approx(10)


def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="There is no video"):
        read_video(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(StarringError, match="cannot be read as a video"):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(StarringError, match="cannot be read as a video"):
        read_comment(tmp_path / "a.mp4")
    good = write_video(tmp_path / "b.mp4", film())
    with pytest.raises(StarringError, match="no frame after number 20"):
        read_video(good, start=20)
    with pytest.raises(StarringError, match="at least 1"):
        read_video(good, every=0)
    assert read_comment(good) == {}


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match=r"\.mp4"):
        write_video(tmp_path / "a.avi", film())
    with pytest.raises(StarringError, match="1 3 F H W"):
        write_video(tmp_path / "a.mp4", film()[:, :2])
    assert list(tmp_path.iterdir()) == []


def test_bytes_and_sizes() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 1, 5).expand(1, 3, 1, 1, 5)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    again = torch.from_numpy(np.arange(256, dtype=np.float32)).view(1, 1, 1, 1, 256).expand(1, 3, 1, 1, 256) / 127.5 - 1
    assert to_uint8(again)[0, 0, :, 0].tolist() == list(range(256))
    assert resize(film(3), 16, 20).shape == (1, 3, 3, 16, 20)
    assert torch.allclose(resize(film(2), 96, 128)[:, :, 0], resize(film(2)[:, :, :1], 96, 128)[:, :, 0])


def test_contact_sheets() -> None:
    sheet = contact_sheet(film(8), columns=4, side=64, gap=2)
    assert sheet.size == (4 * 66 + 2, 2 * 50 + 2)
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    labelled = contact_sheet([Image.new("RGB", (8, 8), "red")] * 3, side=32, labels=["a", "b", "a long label"])
    assert labelled.size == (3 * 36 + 4, 32 + 4 + 14 + 4)
    assert labelled.getpixel((10, 10)) == (255, 0, 0)
    with pytest.raises(StarringError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(StarringError, match="2 labels for 8 pictures"):
        contact_sheet(film(8), labels=["a", "b"])
