"""Embeddings of other programs: written, read, and spoken by diffusers' own loader to the same film."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.diffusion.noise import white
from starring.errors import StarringError
from starring.formats import PROGRAMS, Embedding, adopt, export, read_embedding, spoken, token, write_embedding
from starring.generate import generate
from starring.methods import build
from starring.methods.base import Plain, Request
from starring.run import Run
from tests.test_generate import make_run
from tests.tiny import stock_pipeline

WIDTH = 32


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


def rows(count: int = 4, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


FILES = [(program, suffix) for program, suffixes in PROGRAMS.items() for suffix in suffixes]


@pytest.mark.parametrize(("program", "suffix"), FILES)
@pytest.mark.parametrize("count", [1, 4])
def test_what_is_written_is_read(tmp_path: Path, program: str, suffix: str, count: int) -> None:
    given = Embedding(rows=rows(count), word="rex", step=400, base="animatediff")
    path = write_embedding(tmp_path / f"rex{suffix}", given, program)
    read = read_embedding(path)
    assert torch.equal(read.rows, given.rows)
    assert read.word == "rex"
    if program != "diffusers" and suffix == ".pt":
        assert (read.step, read.base) == (400, "animatediff")


def test_a1111_finds_what_it_looks_for(tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "rex.pt", Embedding(rows=rows(), word="rex", step=400), "a1111")
    content = torch.load(path, weights_only=True)
    assert set(content) == {
        "string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name"
    }  # fmt: skip
    assert content["string_to_token"] == {"*": 265}
    assert list(content["string_to_param"]) == ["*"]
    assert torch.equal(content["string_to_param"]["*"], rows())
    assert (content["name"], content["step"]) == ("rex", 400)


def test_comfyui_and_diffusers_find_what_they_look_for(tmp_path: Path) -> None:
    comfy = load_file(write_embedding(tmp_path / "a.safetensors", Embedding(rows=rows(), word="rex"), "comfyui"))
    assert {key: tuple(value.shape) for key, value in comfy.items()} == {"emb_params": (4, WIDTH)}
    stock = load_file(write_embedding(tmp_path / "b.safetensors", Embedding(rows=rows(), word="rex"), "diffusers"))
    assert {key: tuple(value.shape) for key, value in stock.items()} == {"<rex>": (4, WIDTH)}
    assert (token("rex"), token("<rex>"), token("my rex")) == ("<rex>", "<rex>", "<my-rex>")


# --- round trips through diffusers ----------------------------------------------------------------------------------


def stock_latents(pipe: AnimateDiffPipeline, prompt: str, noise: Tensor) -> Tensor:
    size = {"num_frames": 4, "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0}
    return pipe(prompt, negative_prompt="black", latents=noise.clone(), output_type="latent", **size).frames


def our_latents(run: Run, backbone: Backbone, prompt: str, noise: Tensor) -> Tensor:
    method = build("vcd", backbone, dict(run.record.recipe.options))
    method.load_state_dict(run.load_weights())
    request = Request(prompt=prompt, sample=backbone.sample, negative="black", noise=noise)
    return method.generate(backbone, request)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
@pytest.mark.parametrize(("program", "suffix"), [("diffusers", ".safetensors"), ("diffusers", ".bin"), ("a1111", ".pt"),
                                                 ("comfyui", ".safetensors")])  # fmt: skip
def test_diffusers_makes_the_same_film_of_our_words(
    run: Run, tiny: Backbone, tiny_folder: Path, tmp_path: Path, program: str, suffix: str
) -> None:
    path = export(run, program, tmp_path / f"rex{suffix}")
    pipe = stock_pipeline(tiny_folder)
    pipe.load_textual_inversion(str(path), token="<rex>")
    noise = white((1, *tiny.latent_shape(4, 32, 32)), torch.Generator().manual_seed(3))
    theirs = stock_latents(pipe, "a <rex> dog on the beach", noise)
    ours = our_latents(run, tiny, "a <*> dog on the beach", noise)
    plain = stock_latents(pipe, "a dog on the beach", noise)
    scale = theirs.abs().max()
    assert float((ours - theirs).abs().max() / scale) < 1e-4
    assert float((plain - theirs).abs().max() / scale) > 1e-2, "the words do nothing, so the test shows nothing"
    words = pipe.maybe_convert_prompt("a <rex> dog", pipe.tokenizer)
    assert words == "a <rex> <rex>_1 <rex>_2 <rex>_3 dog"


@pytest.mark.slow
def test_the_miniature_speaks_exported_words_like_diffusers(tmp_path: Path) -> None:
    backbone = load_backbone("miniature", device="cpu")
    run = make_run(tmp_path / "runs", backbone)
    weights = build("vcd", backbone, dict(run.record.recipe.options)).state_dict()["rows"]
    run.save_weights({"rows": weights + 0.02 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))})
    path = export(run, "diffusers", tmp_path / "rex.safetensors")
    pipe = stock_pipeline(Path(backbone.source)).to(torch.float32)
    pipe.load_textual_inversion(str(path))
    seven = torch.Generator().manual_seed(7)
    size = {"num_frames": 16, "height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 3.0}
    theirs = pipe("a <rex> dog in the snow", generator=seven, output_type="latent", **size).frames
    method = build("vcd", backbone, dict(run.record.recipe.options))
    method.load_state_dict(run.load_weights())
    settings = {"steps": 4, "guidance": 3.0, "negative": ""}
    sample = type(backbone.sample)(**{"frames": 16, "height": 64, "width": 64, **settings})
    request = Request(
        prompt="a <*> dog in the snow", sample=sample, correlation=0.0, generator=torch.Generator().manual_seed(7)
    )
    ours = method.generate(backbone, request)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_foreign_embedding_becomes_a_run_that_films_alike(
    run: Run, tiny: Backbone, tmp_path: Path, suffix: str
) -> None:
    path = export(run, "a1111", tmp_path / f"rex{suffix}")
    adopted = adopt(path, tiny, class_word="dog", runs_dir=tmp_path / "mine")
    assert Run.open(adopted.folder).record == adopted.record
    assert adopted.name == "rex-vcd"
    assert adopted.finished
    assert adopted.record.recipe.options["vectors"] == 4
    assert path.name in adopted.record.recipe.source
    mine, theirs = (
        generate(each, "a <*> dog on the beach", seed=7, backbone=tiny, sample={"negative": ""})[0]
        for each in (run, adopted)
    )
    assert (mine.frames == theirs.frames).all()
    again = adopt(path, tiny, class_word="dog", runs_dir=tmp_path / "mine")
    assert again.name == "rex-vcd-2"


@pytest.mark.parametrize("count", [1, 12])
def test_other_lengths_than_our_own_are_adopted(tiny: Backbone, tmp_path: Path, count: int) -> None:
    save_file({"emb_params": rows(count)}, tmp_path / "long.safetensors")
    adopted = adopt(tmp_path / "long.safetensors", tiny, runs_dir=tmp_path / "runs")
    (film,) = generate(adopted, "a <*> dog", seed=1, backbone=tiny, write=False, sample={"negative": "", "steps": 1})
    assert film.frames.std() > 0


# --- layouts met in the wild ----------------------------------------------------------------------------------------


def written(path: Path, content: object, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "the released Magic-Me": lambda p: written(p / "x.pt", {"string_to_param": {"*": rows()}}),
    "the first textual inversion": lambda p: written(
        p / "x.pt", {"string_to_token": {"*": torch.tensor(265)},
                     "string_to_param": nn.ParameterDict({"*": nn.Parameter(rows())})}),
    "before zip files": lambda p: written(
        p / "x.pt", {"string_to_param": {"*": rows()}}, _use_new_zipfile_serialization=False),
    "a bare tensor": lambda p: written(p / "x.bin", rows()),
    "diffusers' .bin": lambda p: written(p / "x.bin", {"<cat-toy>": rows()}),
    "half precision": lambda p: written(p / "x.pt", {"string_to_param": {"*": rows().half()}}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_met_in_the_wild(name: str, tmp_path: Path) -> None:
    read = read_embedding(LAYOUTS[name](tmp_path))
    torch.testing.assert_close(read.rows, rows(), atol=2e-3, rtol=2e-3)
    assert read.rows.dtype == torch.float32
    assert read.word == ("cat-toy" if "bin" in name else "x")


def test_one_flat_vector_is_one_row(tmp_path: Path) -> None:
    assert read_embedding(written(tmp_path / "x.bin", {"<toy>": rows(1)[0]})).rows.shape == (1, WIDTH)


# --- what is refused ------------------------------------------------------------------------------------------------


class Burglar:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, tiny: Backbone) -> None:
    proof, path = tmp_path / "was-here", tmp_path / "nice.pt"
    content = {"string_to_param": {"*": rows()}, "name": Burglar(proof)}
    for save in (lambda: torch.save(content, path), lambda: path.write_bytes(pickle.dumps(content))):
        save()
        with pytest.raises(StarringError, match="refused") as refusal:
            adopt(path, tiny, runs_dir=tmp_path / "runs")
        assert "safetensors" in str(refusal.value)
        assert not proof.exists()
        assert not (tmp_path / "runs").exists()
    pickle.loads(path.read_bytes())  # it would have worked
    assert proof.exists()


def test_another_width_names_both(tmp_path: Path, tiny: Backbone) -> None:
    save_file({"emb_params": rows(2, 768)}, tmp_path / "big.safetensors")
    with pytest.raises(StarringError, match=r"width 768.*width 32.*--backbone"):
        adopt(tmp_path / "big.safetensors", tiny, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nowhere": (lambda p: p / "x.pt", "There is no file"),
    "a picture": (lambda p: (p / "x.png", (p / "x.png").write_bytes(b"x"))[0], "no embedding by its name"),
    "text": (lambda p: (p / "x.pt", (p / "x.pt").write_text("hello"))[0], "damaged|refused"),
    "nothing": (lambda p: (p / "x.pt", (p / "x.pt").write_bytes(b""))[0], "damaged"),
    "half a file": (
        lambda p: (p / "x.pt", (p / "x.pt").write_bytes(written(p / "y.pt", {"a": rows()}).read_bytes()[:400]))[0],
        "damaged",
    ),
    "broken safetensors": (
        lambda p: (p / "x.safetensors", (p / "x.safetensors").write_bytes(b"x" * 99))[0], "damaged"),
    "SDXL": (
        lambda p: written(p / "x.pt", {"clip_l": rows(2, 768), "clip_g": rows(2, 1280)}), r"XL.*\(2, 768\).*\(2, 1280\)"
    ),
    "a LoRA": (lambda p: written(p / "x.pt", {"lora_a": rows(), "lora_b": rows()}), "2 entries .lora_a, lora_b"),
    "two words": (lambda p: written(p / "x.pt", {"string_to_param": {"*": rows(), "+": rows()}}), "2 embeddings"),
    "whole numbers": (lambda p: written(p / "x.pt", {"<x>": torch.ones(2, 3, dtype=torch.long)}), "int64"),
    "a cube": (lambda p: written(p / "x.pt", {"<x>": torch.ones(2, 3, 4)}), r"\(2, 3, 4\)"),
    "no tensor": (lambda p: written(p / "x.pt", {"<x>": "rex"}), "str"),
    "a list": (lambda p: written(p / "x.pt", [1, 2]), "list"),
    "no numbers": (lambda p: written(p / "x.pt", {"<x>": rows() / 0}), "no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_embedding(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    with pytest.raises(StarringError, match=message):
        read_embedding(make(tmp_path))


def test_a_whole_model_is_no_embedding(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(StarringError, match=r"65 MB.*--base"):
        read_embedding(tmp_path / "model.safetensors")


def test_what_cannot_be_exported(run: Run, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StarringError, match="Did you mean 'comfyui'"):
        export(run, "comfy")
    with pytest.raises(StarringError, match=r"diffusers reads .safetensors and .bin, not 'rex.pt'"):
        export(run, "diffusers", tmp_path / "rex.pt")
    monkeypatch.setattr("starring.formats.find", lambda _: Plain)
    with pytest.raises(StarringError, match="more than words"):
        export(run, "a1111")
    monkeypatch.undo()
    run.weights.unlink()
    with pytest.raises(StarringError, match="not finished"):
        export(run, "a1111")


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    path = export(run, "comfyui")
    assert path == run.folder / "exports" / "rex.safetensors"
    assert export(run, "comfyui") == path  # the same bytes again
    path.write_bytes(b"mine")
    with pytest.raises(StarringError, match="is there already"):
        export(run, "comfyui")
    assert path.read_bytes() == b"mine"
    assert export(run, "diffusers").name == "learned_embeds.safetensors"


def test_prompts_say_the_word_as_each_program_wants_it(tmp_path: Path) -> None:
    said = {program: spoken(program, tmp_path / "rex.pt", "rex", "dog") for program in PROGRAMS}
    assert said == {
        "a1111": "a rex dog running on the beach",
        "comfyui": "a embedding:rex dog running on the beach",
        "diffusers": "a <rex> dog running on the beach",
    }


def test_a_full_disk_leaves_no_run(run: Run, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(run, "a1111", tmp_path / "rex.pt")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save_weights", full)
    with pytest.raises(OSError, match="No space"):
        adopt(path, tiny, runs_dir=tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_an_adopted_run_is_recorded_like_any_other(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    adopted = adopt(export(run, "a1111"), tiny, class_word=" dog ", runs_dir=tmp_path / "mine", name="rex two")
    values = json.loads((adopted.folder / "config.json").read_text())
    assert adopted.name == "rex-two"
    assert values["subject"] == {**values["subject"], "name": "rex", "class_word": "dog", "folder": None, "digests": {}}
    assert values["recipe"]["stages"] == []
    assert values["recipe"]["options"]["class_word"] == "dog"
