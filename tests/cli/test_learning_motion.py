"""A subject and a motion from the command line: learned, filmed, written for the authors' code, adopted, refused."""

from pathlib import Path

import pytest
import torch

from starring.run import Run
from tests.cli.shell import Starring, refused
from tests.moving import IMAGE_WIDTH, clips
from tests.tiny import tiny_cogvideox


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("dit") / "tiny")


@pytest.mark.slow
def test_learn_film_export_adopt(starring: Starring, dit: Path, eyes: Path, photographs: Path, tmp_path: Path) -> None:
    home = clips(tmp_path / "running", 2)
    (home / "broken.avi").write_bytes(b"no film")
    (home / "prompts.txt").unlink()
    eye = ("--options", f"encoder={eyes / 'clip'}", f"image_width={IMAGE_WIDTH}", "hidden=4")
    machine = ("--backbone", dit, "--device", "cpu", "--runs", tmp_path / "runs")
    code, _, err = starring(
        "learn", "dualreal", photographs, "--motion", home, "--motion-prompt", "a man running", "--class-word", "dog",
        "--steps", 2, "--precision", "no", "--clip-share", 0.25, "--clip-share-end", 0.75, *machine, *eye,
    )  # fmt: skip
    assert code == 0, err
    assert "dualreal is experimental" in err
    assert "broken.avi: it was left out" in " ".join(err.split())
    (folder,) = (tmp_path / "runs").iterdir()
    assert Run.open(folder).record.motion is not None
    (stage,) = Run.open(folder).record.recipe.stages
    assert (stage.clip_share, stage.clip_share_end) == (0.25, 0.75)
    code, _, err = starring("generate", folder, "a <*> dog running", "--steps", 1, "--device", "cpu", "--out", tmp_path)
    assert code == 0, err
    code, out, err = starring("blend", folder, "a <*> dog running", "--steps", 1, "--device", "cpu", "--judge", eyes)
    assert code == 0, err
    assert "identity alone" in out
    assert (folder / "blend" / "blend.png").is_file()
    code, out, err = starring("export", folder, "--to", "dualreal", "--out", tmp_path / "adapter.pth")
    assert code == 0, err
    assert len(torch.load(tmp_path / "adapter.pth", weights_only=True)) == 2 * 20 + 14
    code, out, err = starring("adopt", tmp_path / "adapter.pth", "--class-word", "dog", "--photograph",
                              photographs / "1.png", "--encoder", eyes / "clip", *machine)  # fmt: skip
    assert code == 0, err
    assert "Adopted" in out
    adopted = Run.open(tmp_path / "runs" / "adapter-dualreal")
    truth = Run.open(folder).load_weights()["image"]
    torch.testing.assert_close(adopted.load_weights()["image"], truth)


def test_what_is_refused(starring: Starring, dit: Path, photographs: Path, tmp_path: Path) -> None:
    home = clips(tmp_path / "running", 1)
    machine = ("--backbone", dit, "--device", "cpu", "--class-word", "dog", "--runs", tmp_path / "runs")
    refused(starring("learn", "dualreal", photographs, *machine), "photographs alone", "--motion", "vcd")
    refused(starring("learn", "dualreal", "--motion", home, *machine), "photographs too", "starring generate")
    refused(starring("learn", "dualreal", photographs, "--motion", home, "--frames", 17, *machine), "12 frames", "17")
    refused(starring("learn", "dualreal", photographs, "--motion", home, "--options", "groups=3", *machine),
            "3 groups do not divide 2 blocks", "1, 2")  # fmt: skip
    refused(starring("learn", "dualreal", photographs, "--motion", home, "--fit", "fill", *machine), "letterbox")
    refused(starring("learn", "dualreal", photographs, "--motion", home, "--clip-share", 1.5, *machine),
            "clip_share is 1.5", "(0, 1)")  # fmt: skip
    refused(starring("learn", "customvideox", photographs, "--clip-share", 0.5, *machine), "clip_share", "from clips")
    (home / "prompts.txt").write_text("one\ntwo")
    refused(starring("learn", "dualreal", photographs, "--motion", home, *machine), "2 lines", "1 clips")
    assert not (tmp_path / "runs").exists()
