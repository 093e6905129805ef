import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starring.data.quality import apart, blur, fingerprint
from starring.data.subject import Complaint, Subject, complaints, natural
from starring.errors import StarringError
from tests.data.pictures import ColourEye, RedFinder, album, blurred, photo


def kinds(told: list[Complaint]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for complaint in told:
        found.setdefault(complaint.path.name, set()).add(complaint.kind)
    return found


def test_reads_every_format_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.JPG", "2.png", "1.jpeg", "3.WebP", "b.PNG", "a2.jpg", "a10.jpg"):
        photo(1).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("nothing")
    subject = Subject.from_folder(tmp_path, " dog ")
    assert [p.name for p in subject.paths] == ["1.jpeg", "2.png", "3.WebP", "10.JPG", "a2.jpg", "a10.jpg", "b.PNG"]
    assert subject.class_word == "dog"
    assert subject.name == tmp_path.name
    assert {image.mode for image in subject.images} == {"RGB"}
    assert not subject.skipped


def test_natural_order_with_odd_names() -> None:
    names = ["9", "10", "x9y2", "x9y10", "x²", "", "X8"]
    assert [p.name for p in sorted(map(Path, names), key=natural)] == ["", "9", "10", "X8", "x9y2", "x9y10", "x²"]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = Subject.from_folder(tmp_path).images[0]
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 2)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (0, 0, 4, 8))
    layer.convert(mode).save(tmp_path / "a.png", **({"transparency": 0} if mode == "P" else {}))
    image = Subject.from_folder(tmp_path).images[0]
    if mode != "P":
        assert image.getpixel((1, 1)) == (0, 0, 0)
    assert image.getpixel((6, 6)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_large_ones_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 6), 32896, dtype=np.uint16)).save(tmp_path / "a.png")
    Image.new("RGB", (4096, 32)).save(tmp_path / "b.png")
    subject = Subject.from_folder(tmp_path)
    assert subject.images[0].getpixel((3, 3)) == (128, 128, 128)
    assert subject.images[1].size == (2048, 16)
    assert subject.sizes[1] == (4096, 32)


def test_corrupt_among_good_is_named_and_skipped(tmp_path: Path) -> None:
    album(tmp_path, 3)
    (tmp_path / "4.jpg").write_bytes(b"not an image")
    cut = (tmp_path / "1.png").read_bytes()
    (tmp_path / "5.png").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "6.png").write_bytes(b"")
    (tmp_path / "7.heic").write_bytes(b"x")
    subject = Subject.from_folder(tmp_path)
    assert len(subject) == 3
    assert kinds(subject.skipped) == {
        "4.jpg": {"unreadable"}, "5.png": {"unreadable"}, "6.png": {"unreadable"}, "7.heic": {"unsupported"},
    }  # fmt: skip
    assert "4.jpg" in str(subject.skipped[1])
    assert all(c.advice for c in subject.skipped)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "holds no photograph"),
        (lambda f: (f / "a.heic").write_bytes(b"x"), "a.heic"),
        (lambda f: (f / "a.png").write_bytes(b"x"), "No image in .* can be read .*a.png"),
        (lambda f: f.rmdir(), "There is no folder"),
    ],
    ids=["empty", "foreign", "unreadable", "missing"],
)
def test_hopeless_folders_are_errors(tmp_path: Path, make, message: str) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    make(folder)
    with pytest.raises(StarringError, match=message):
        Subject.from_folder(folder)


def test_a_single_file_is_a_subject(tmp_path: Path) -> None:
    album(tmp_path / "dogs", 2)
    subject = Subject.from_folder(tmp_path / "dogs" / "2.png")
    assert [p.name for p in subject.paths] == ["2.png"]
    assert subject.name == "2"


def test_captions_from_all_sources(tmp_path: Path) -> None:
    album(tmp_path, 4)
    (tmp_path / "1.txt").write_text("a <*> dog\n on grass")
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "2.png", "text": "my Dog asleep"}) + "\n\n"
        + json.dumps({"file_name": "1.png", "text": "ignored"}) + "\n"
    )  # fmt: skip
    subject = Subject.from_folder(tmp_path, "dog")
    assert subject.captions == ["a <*> dog on grass", "my Dog asleep", None, None]
    template = "photo of a <*> {class_word}"
    assert subject.caption(0, template) == "a <*> dog on grass"
    assert subject.caption(1, template) == "my <*> Dog asleep"
    assert subject.caption(2, template) == "photo of a <*> dog"


def test_captions_by_line_and_by_csv(tmp_path: Path) -> None:
    album(tmp_path / "a", 2)
    (tmp_path / "a" / "prompts.txt").write_text("one\n\ntwo\n")
    assert Subject.from_folder(tmp_path / "a").captions == ["one", "two"]
    assert Subject.from_folder(tmp_path / "a").caption(0, "a <*>") == "a <*>, one"
    album(tmp_path / "b", 2)
    (tmp_path / "b" / "metadata.csv").write_text('file_name,caption\n2.png,"a <*>, sitting"\n')
    assert Subject.from_folder(tmp_path / "b").captions == [None, "a <*>, sitting"]
    album(tmp_path / "c", 2)
    (tmp_path / "c" / "metadata.jsonl").write_text('{"file_name": "train/1.png", "text": "a <*>\u2028dog"}\r\n')
    assert Subject.from_folder(tmp_path / "c").captions == ["a <*> dog", None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.txt", "one", "1 lines, but there are 2 images"),
        ("metadata.jsonl", "{", "Line 1 of .* is not JSON"),
        ("metadata.jsonl", '{"file": "1.png"}', "without 'file_name'"),
        ("metadata.csv", "a,b\n1,2", "without 'file_name'"),
        ("metadata.jsonl", '{"file_name": "7.png", "text": "a"}', "'7.png', but there is no such file"),
    ],
)
def test_bad_caption_files_are_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    (album(tmp_path, 2) / name).write_text(text)
    with pytest.raises(StarringError, match=message):
        Subject.from_folder(tmp_path)


def test_a_subject_from_memory() -> None:
    subject = Subject.of([photo(1), photo(2), photo(1)], "dog", "my dog")
    assert subject.name == "my-dog"
    assert subject.folder is None
    assert subject.digests[0] == subject.digests[2] != subject.digests[1]
    assert [p.name for p in subject.choose([2, 1]).paths] == ["my dog-2.png", "my dog-1.png"]
    with pytest.raises(StarringError, match="at least one"):
        Subject.of([])


def test_the_doctor_finds_what_was_done(tmp_path: Path) -> None:
    album(tmp_path, 5, (160, 160))
    blurred(photo(6, (160, 160))).save(tmp_path / "6.png")
    photo(7, (40, 200)).save(tmp_path / "7.png")
    photo(1, (160, 160)).resize((200, 200)).save(tmp_path / "8.jpg", quality=80)
    photo(9, (160, 160), subject=False).save(tmp_path / "9.png")
    green = np.array(photo(10, (160, 160)))[..., [1, 0, 2]]
    Image.fromarray(green).save(tmp_path / "10.png")
    subject = Subject.from_folder(tmp_path, "ball")
    found = [float(m.mean()) > 0.01 for m in RedFinder().segment(subject.images, "ball")]
    told = complaints(subject, size=128, found=found, encoder=ColourEye())
    assert kinds(told) == {
        "6.png": {"blurred"}, "7.png": {"small"}, "8.jpg": {"duplicate"},
        "9.png": {"no-subject", "outlier"}, "10.png": {"no-subject", "outlier"},
    }  # fmt: skip
    assert next(c for c in told if c.kind == "duplicate").message.endswith("1.png.")
    assert all(c.advice.endswith(".") and c.message.endswith(".") for c in told)


def test_the_doctor_is_silent_about_good_ones_and_tells_about_few(tmp_path: Path) -> None:
    assert complaints(Subject.from_folder(album(tmp_path / "a", 5, (128, 128))), size=128, encoder=ColourEye()) == []
    told = complaints(Subject.from_folder(album(tmp_path / "b", 1)), size=64)
    assert [c.kind for c in told] == ["few"]
    assert "only 1 photograph" in str(told[0])


def test_the_encoder_sees_the_subject_only() -> None:
    images = [photo(i) for i in range(4)]
    odd = np.array(photo(9, subject=False))
    odd[:50] = (230, 20, 20)  # as red as the others in the mean, but outside its mask
    masks = [*RedFinder().segment(images, ""), torch.cat([torch.zeros(50, 96), torch.ones(46, 96)])]
    subject = Subject.of([*images, Image.fromarray(odd)])
    assert not [c for c in complaints(subject, size=64, encoder=ColourEye()) if c.kind == "outlier"]
    told = complaints(subject, size=64, encoder=ColourEye(), masks=masks)
    assert [c.path.name for c in told if c.kind == "outlier"] == ["subject-4.png"]


def test_blur_rises_with_the_radius_and_flat_pictures_are_blurred() -> None:
    image = photo(3, (200, 200))
    measures = [blur(image), *(blur(blurred(image, radius)) for radius in (1, 2, 4))]
    assert measures == sorted(measures)
    assert measures[0] < 0.45
    assert measures[-1] > 0.65
    assert blur(Image.new("RGB", (50, 50), "red")) == 1.0
    assert blur(Image.new("RGB", (2, 2), "red")) == 1.0


def test_blur_equals_its_definition() -> None:
    image = photo(4, (30, 20))
    gray = np.asarray(image.convert("L"), dtype=np.float64) / 255
    worst = 0.0
    for picture in (gray, gray.T):
        padded = np.pad(picture, ((4, 4), (0, 0)), mode="edge")
        soft = np.array([padded[i : i + 9].mean(0) for i in range(len(picture))])
        before, after = np.abs(np.diff(picture, axis=0)), np.abs(np.diff(soft, axis=0))
        worst = max(worst, (before.sum() - np.clip(before - after, 0, None).sum()) / before.sum())
    assert blur(image) == pytest.approx(worst, abs=1e-4)


def test_fingerprints_of_copies_are_close_and_of_others_far() -> None:
    a, b = photo(1, (128, 128)), photo(2, (128, 128))
    assert apart(fingerprint(a), fingerprint(a.resize((90, 90)))) < 0.08
    assert apart(fingerprint(a), fingerprint(b)) > 0.2
