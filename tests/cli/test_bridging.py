"""BridgeIV over the words of another method, beside a photograph, from the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.shell import Starring, refused


@pytest.mark.slow
def test_words_of_vcd_are_bridged_beside_a_photograph(
    starring: Starring, learned: Path, photographs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    learn = ["learn", "bridgeiv", photographs, "--class-word", "dog", "--backbone", tiny_folder, "--device", "cpu",
             "--size", 32, "--runs", tmp_path, "--tokens", learned]  # fmt: skip
    code, out, err = starring(*learn, "--options", "dreambooth=none")
    assert code == 0, err
    (run,) = tmp_path.iterdir()
    assert str(run) in out
    film = ["generate", run, "a <*> dog on the beach", "--steps", 2, "--device", "cpu", "--out", tmp_path / "films"]
    picture = sorted(photographs.glob("*.png"))[0]
    code, _, err = starring(*film, "--reference", picture)
    assert code == 0, err
    (sidecar,) = (tmp_path / "films").glob("*.json")
    facts = json.loads(sidecar.read_text())
    assert facts["photograph"]["file"] == str(picture)
    assert facts["correlation"] == 0.15
    code, out, _ = starring("generate", "--from", sidecar, "--out", tmp_path / "again")
    assert (code, "Bit for bit the same film." in out) == (0, True)
    refused(starring(*film, "--reference", tmp_path / "nowhere.png"), "no picture", "nowhere.png")
    refused(starring("generate", learned, *film[2:], "--reference", picture), "vcd films beside no reference image")
    refused(starring(*learn[:-1], photographs), "is not a run")
    refused(starring("learn", "--resume", run, "--tokens", learned), "Leave them out beside --resume")
