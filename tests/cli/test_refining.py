"""Refining films from the command line."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from starring.cli import main
from starring.data.video import read_comment, write_video
from tests.cli.shell import Starring, refused
from tests.data.pictures import album
from tests.refine.tiny_yunet import tiny_yunet


@pytest.fixture(scope="module")
def made(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a film of the run; do not write into it."""
    folder = tmp_path_factory.mktemp("films")
    words = ("--steps", 2, "--negative", "", "--device", "cpu", "--out", folder)
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in ("generate", learned, "a <*> dog", *words)])
    assert not end.value.code
    return folder


@pytest.fixture
def film(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of the run, of the test's own, as far from the run as the first."""
    folder = tmp_path_factory.mktemp("films")
    (path,) = Path(shutil.copytree(made, folder, dirs_exist_ok=True)).glob("*.mp4")
    return path


@pytest.mark.slow
def test_refine_writes_a_larger_film_and_makes_it_again(starring: Starring, film: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    code, out, err = starring(
        "refine", film, "--tiles", 2, "--tile-strength", 0.5, "--tile-options", "blur=0", "--device", "cpu",
        "--correlation", 0, "--sheet", sheet,
    )  # fmt: skip
    assert code == 0, err
    larger = film.with_name(f"{film.stem}-2x.mp4")
    assert str(larger) in out
    assert larger.is_file()
    assert sheet.is_file()
    assert "Enlarged from 32x32 to 64x64" in err
    facts = json.loads(larger.with_suffix(".json").read_text())
    assert facts["refined"]["tiles"]["strength"] == 0.5
    assert facts["refined"]["tiles"]["blur"] == 0
    assert facts["correlation"] == 0
    for verb in ("refine", "generate"):  # either makes it again
        code, out, err = starring(verb, "--from", larger.with_suffix(".json"), "--out", tmp_path / verb)
        assert code == 0, err
        assert "Bit for bit" in out
        (same,) = (tmp_path / verb).glob("*.json")
        assert json.loads(same.read_text())["frames_sha256"] == facts["frames_sha256"]


def test_no_face_is_said_and_is_no_failure(starring: Starring, film: Path, tmp_path: Path) -> None:
    write_video(film, torch.zeros(1, 3, 4, 32, 32), metadata=read_comment(film))  # nothing that could be a face
    before = sorted(film.parent.iterdir())
    code, out, err = starring("refine", film, "--face", "--detector", tiny_yunet(tmp_path / "yunet.onnx"))
    assert code == 0, err
    assert "No face was found" in err
    assert "stays as it was" in err
    assert str(film) in out
    assert sorted(film.parent.iterdir()) == before


@pytest.mark.slow
def test_a_folder_of_frames_is_changed_by_generate(starring: Starring, learned: Path, tmp_path: Path) -> None:
    frames = album(tmp_path / "frames", 4)
    code, out, err = starring(
        "generate", learned, "a <*> dog", "--video", frames, "--strength", 0.6, "--steps", 2, "--negative", "",
        "--device", "cpu", "--out", tmp_path / "films",
    )  # fmt: skip
    assert code == 0, err
    (sidecar,) = (tmp_path / "films").glob("*.json")
    assert json.loads(sidecar.read_text())["video"]["frames"] == [0, 1, 2, 3]
    code, out, err = starring("generate", "--from", sidecar, "--out", tmp_path / "again")
    assert code == 0, err
    assert "Bit for bit" in out


@pytest.mark.parametrize(("words", "fragments"), [
    ([], ["--face"]),
    (["--tiles", "0"], ["0 times"]),
    (["--face", "--face-strength", "2"], ["strength"]),
    (["--face", "--face-region", "still"], ["'still'"]),
    (["--face", "--detector", "nowhere.onnx"], ["nowhere.onnx"]),
    (["--face", "--face-options", "factr=2"], ["Did you mean 'factor'?"]),
    (["--tiles", "2", "--face-options", "factor=2"], ["Add --face."]),
    (["--face", "--tile-options", "blur=0"], ["Add --tiles 2."]),
    (["--tiles", "2", "--tile-options", "blur=1"], ["padding"]),
    (["--tiles", "2", "--enlarger", "lanczo"], ["Did you mean 'lanczos'?"]),
    (["--tiles", "2", "--run", "nowhere"], ["nowhere"]),
    (["--tiles", "2", "--from", "film.json"], ["--from"]),
])  # fmt: skip
def test_what_cannot_be_refined(starring: Starring, film: Path, words: Sequence[str], fragments: Sequence[str]) -> None:
    before = sorted(film.parent.iterdir())
    refused(starring("refine", film, *words), *fragments)
    assert sorted(film.parent.iterdir()) == before


def test_no_film_at_all(starring: Starring, tmp_path: Path) -> None:
    refused(starring("refine"), "--from")
    refused(starring("refine", tmp_path / "nowhere.mp4", "--face"), "There is no video")
    refused(starring("refine", "/", "--face"), "no film")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The prompt 'cgi")  # long for a tiny vocabulary
def test_the_folder_one_stands_in_is_a_clip_too(
    starring: Starring, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album(tmp_path / "shots", 4, (32, 32)))
    code, out, err = starring(
        "refine", ".", "--tiles", 2, "--tile-strength", 0, "--run", learned, "--prompt", "a <*> dog", "--device", "cpu"
    )
    assert code == 0, err
    assert str(tmp_path / "shots-2x.mp4") in out
