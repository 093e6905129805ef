"""Real photographs go through every step: check, masks, learning, filming."""

from pathlib import Path

import pytest

from tests.cli.shell import Starring, learning

ALBUMS = Path(__file__).parents[3] / "shared" / "data" / "dreambooth"


def subjects() -> list[Path]:
    """Folders of photographs beside the checkout, where somebody has put some."""
    return sorted(path for path in ALBUMS.glob("*/") if any(path.glob("*.jpg"))) if ALBUMS.is_dir() else []


@pytest.mark.skipif(not subjects(), reason="there are no real photographs beside the checkout")
@pytest.mark.slow
def test_a_real_subject_goes_through_every_step(
    starring: Starring, tiny_folder: Path, eyes: Path, tmp_path: Path
) -> None:
    album = subjects()[0]
    sheet = tmp_path / "sheet.png"
    code, out, err = starring("check", album, "--class-word", "toy", "--size", 512, "--eyes", eyes, "--sheet", sheet)
    assert code == 0, err
    assert sheet.is_file()
    assert "unreadable" not in out
    code, out, err = starring(*learning(tiny_folder, eyes, album, tmp_path / "runs", "--steps", 2))
    assert code == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    code, out, err = starring(
        "generate", run, "a <*> toy on the beach", "--steps", 2, "--negative", "", "--device", "cpu"
    )
    assert code == 0, err
    assert len(list((run / "videos").glob("*.mp4"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not subjects(), reason="there are no real photographs beside the checkout")
def test_the_miniature_takes_them_and_says_what_it_cannot_do(starring: Starring, tmp_path: Path) -> None:
    from starring.backbones.presets import MINIATURE

    if not MINIATURE.is_dir():
        pytest.skip("the bundled weights have not been built")
    album = subjects()[-1]
    words = ("learn", "vcd", album, "--class-word", "dog", "--steps", 3, "--runs", tmp_path, "--device", "cpu")
    code, _, err = starring(*words)
    assert code == 0, err
    assert "cannot draw them well" in err
    (run,) = tmp_path.iterdir()
    code, _, err = starring("generate", run, "a <*> dog on the beach", "--steps", 2, "--device", "cpu")
    assert code == 0, err
