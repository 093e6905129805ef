"""Embeddings out and in, films verified, and other base models, from the command line."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from starring.data.video import write_video
from tests.backbones.ldm import write_single_file
from tests.cli.shell import Starring, learning, refused
from tests.data.pictures import album
from tests.tiny import tiny_animatediff

ONCE = ["--steps", 1, "--negative", "", "--device", "cpu"]


@pytest.mark.parametrize(("program", "suffix", "said"), [
    ("a1111", ".pt", "a rex dog"), ("comfyui", ".safetensors", "embedding:rex dog"), ("diffusers", "", "<rex> dog"),
])  # fmt: skip
def test_export_says_where_and_how(
    starring: Starring, learned: Path, tmp_path: Path, program: str, suffix: str, said: str
) -> None:
    words = ["--out", tmp_path / f"rex{suffix}"] if suffix else []
    code, out, err = starring("export", learned, "--to", program, *words)
    assert code == 0, err
    assert said in err
    (path,) = (Path(line.partition(": ")[2]) for line in out.splitlines() if line.startswith("Embedding"))
    assert path.is_file()


@pytest.mark.slow
def test_adopt_makes_a_run_that_films(starring: Starring, learned: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert starring("export", learned, "--to", "a1111", "--out", tmp_path / "rex.pt")[0] == 0
    code, out, err = starring("adopt", tmp_path / "rex.pt", "--class-word", "dog", "--backbone", tiny_folder,
                              "--device", "cpu", "--runs", tmp_path / "runs")  # fmt: skip
    assert code == 0, err
    assert "Adopted, 4 vectors" in out
    assert "starring generate" in err
    (run,) = (tmp_path / "runs").iterdir()
    assert load_file(run / "method.safetensors")["rows"].equal(load_file(learned / "method.safetensors")["rows"])
    code, _, err = starring("generate", run, "a <*> dog", *ONCE, "--out", tmp_path / "films")
    assert code == 0, err
    assert len(list((tmp_path / "films").glob("*.mp4"))) == 1


def test_what_cannot_be_exchanged(starring: Starring, learned: Path, tiny_folder: Path, tmp_path: Path) -> None:
    class Burglar:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'was-here'}",)

    torch.save({"string_to_param": {"*": torch.ones(1, 32)}, "name": Burglar()}, tmp_path / "evil.pt")
    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "wide.safetensors")
    to = ["--backbone", tiny_folder, "--device", "cpu", "--runs", tmp_path / "runs"]
    refused(starring("adopt", tmp_path / "evil.pt", *to), "refused", ".safetensors")
    assert not (tmp_path / "was-here").exists()
    refused(starring("adopt", tmp_path / "wide.safetensors", *to), "width 768", "width 32")
    refused(starring("adopt", tmp_path / "none.pt", *to), "There is no file")
    refused(starring("export", learned, "--to", "a111"), "Did you mean 'a1111'")
    refused(starring("export", tmp_path, "--to", "a1111"), "is not a run")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_verify_tells_and_refuses_foreign_films(starring: Starring, learned: Path, tmp_path: Path) -> None:
    code, _, err = starring("generate", learned, "a <*> dog", *ONCE, "--seed", 7, "--out", tmp_path / "films")
    assert code == 0, err
    (film,) = (tmp_path / "films").glob("*.mp4")
    code, out, err = starring("verify", film)
    assert code == 0, err
    for fragment in ("a <*> dog", "vcd", "bit for bit", "torch", "trainedAlgorithmicMedia"):
        assert fragment in out
    assert "generate --from" in err
    film.with_suffix(".json").unlink()
    code, out, err = starring("verify", film)
    assert (code, "bit for bit" in out, "no sidecar" in err) == (0, True, True)
    foreign = write_video(tmp_path / "foreign.mp4", torch.zeros(1, 3, 2, 32, 32))
    refused(starring("verify", foreign), "no film of Starring")
    refused(starring("verify", tmp_path / "none.mp4"), "There is no")


@pytest.mark.slow
def test_other_base_adapter_and_vae(starring: Starring, learned: Path, tiny_folder: Path, tmp_path: Path) -> None:
    other = tiny_animatediff(tmp_path / "other", seed=1)
    single = write_single_file(
        tmp_path / "community.safetensors", UNet2DConditionModel.from_pretrained(other / "unet"),
        AutoencoderKL.from_pretrained(other / "vae"), CLIPTextModel.from_pretrained(other / "text_encoder"),
    )  # fmt: skip
    frames: set[str] = set()
    choices = [(), ("--base", single), ("--adapter", other / "motion_adapter"), ("--vae", other / "vae")]
    for i, choice in enumerate(choices):
        out = tmp_path / str(i)
        code, _, err = starring("generate", learned, "a <*> dog", *ONCE, *choice, "--out", out)
        assert code == 0, err
        (facts,) = (json.loads(path.read_text()) for path in out.glob("*.json"))
        assert facts["backbone"]["origin"] == {
            "name_or_path": str(tiny_folder), **({choice[0][2:]: str(choice[1])} if choice else {})
        }  # fmt: skip
        frames.add(facts["frames_sha256"])
    assert len(frames) == len(choices)
    refused(starring("generate", learned, "a <*> dog", *ONCE, "--vae", tmp_path / "none", "--out", tmp_path), "VAE")


def test_declared_consent_is_shown_and_obeyed(
    starring: Starring, eyes: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = album(tmp_path / "ada", 3)
    words = ["check", folder, "--size", 32, "--eyes", eyes]
    (folder / "subject.json").write_text('{"owner": "Ada", "consent": "given", "expiry": "2099-12-31"}')
    code, out, err = starring(*words)
    assert code == 0, err
    assert "owner Ada, consent given, until 2099-12-31" in out
    (folder / "subject.json").write_text('{"owner": "Ada", "consent": "given", "expiry": "2020-12-31"}')
    assert "expired on 2020-12-31" in starring(*words)[1]
    refused(starring(*learning(tiny_folder, eyes, folder, tmp_path / "runs")), "expired on 2020-12-31", "Ada")
    (folder / "subject.json").write_text("consent: given")
    refused(starring(*words), "subject.json", "not JSON")
    assert not (tmp_path / "runs").exists()
