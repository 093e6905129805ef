"""DualReal's adapter.pth: the authors' names, and the same film on the way out and back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from starring.backbones.base import Backbone
from starring.cli.exchange import Export
from starring.config import to_json
from starring.errors import StarringError
from starring.generate import generate
from starring.methods import build, recipe_for
from starring.perception.encoders import load_clip
from starring.perception.transforms import CLIP_MEAN, CLIP_STD
from starring.released import adopt_adapter, export_adapter, is_adapter, read_adapter, spoken_as
from starring.run import Photographs, Record, Run
from tests.data.pictures import album, photo
from tests.methods import slow_dualreal as slow
from tests.perception.tiny_eyes import tiny_clip


def made(runs: Path, dit: Backbone, **chosen: object) -> Run:
    """A finished run with weights that bfloat16 can hold."""
    usual = recipe_for("dualreal", dit)
    options = {"class_word": "dog", "hidden": 4, "image_width": 16, "groups": 1, **chosen}
    method, generator = build("dualreal", dit, options), torch.Generator().manual_seed(3)
    weights = {
        key: (torch.randn(value.shape, generator=generator) * 0.3).bfloat16().float()
        for key, value in method.state_dict().items()
    }
    record = Record(
        recipe=replace(usual, options=to_json(method.config), sample=dit.sample, backbone=dit.origin["name_or_path"]),
        origin=dict(dit.origin), family=dit.family,
        subject=Photographs(name="rex", class_word="dog", folder=None, digests={}),
    )  # fmt: skip
    run = Run.create(runs, "rex-dualreal", record)
    run.save_weights(weights)
    return run


def film(run: Run, dit: Backbone) -> Tensor:
    return torch.from_numpy(generate(run, "a <*> dog running", backbone=dit, write=False)[0].frames)


def test_the_authors_names(dit: Backbone, tmp_path: Path) -> None:
    path = export_adapter(made(tmp_path, dit))
    content = torch.load(path, weights_only=True)
    assert {value.dtype for value in content.values()} == {torch.bfloat16}
    shapes = {name: tuple(value.shape) for name, value in content.items()}
    parts = {
        f"{side}_{site}_adapter.{layer}_linear"
        for side, site, layer in [
            (side, site, layer) for side in ("id", "motion") for site in ("attn", "ff") for layer in ("down", "up")
        ] + [("motion", "attn", "condition"), ("motion", "ff", "condition")]
    }  # fmt: skip
    blocks = {
        f"transformer_blocks.{i}.{part}.{what}" for i in range(2) for part in parts for what in ("weight", "bias")
    }
    layers = ("timestep_encoder.1", "channel_encoder.0", "norm", "fuse_proj", "fuse_proj_down", "fusion_net.1",
              "fusion_net.3")  # fmt: skip
    assert set(shapes) == blocks | {f"controller.{layer}.{what}" for layer in layers for what in ("weight", "bias")}
    assert shapes["transformer_blocks.1.motion_ff_adapter.condition_linear.weight"] == (32, 16)
    assert shapes["controller.fusion_net.3.weight"] == (1, 128)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"squash": "softmax", "groups": 2}, r"squash=softmax\. .* would film it with squash=sigmoid\."),
        ({"sides": "identity"}, r"sides=identity\. .* would film it with sides=both\."),
        ({"total": 1.0}, r"total=1\.0\. .* would film it with total=0\.2\."),
        (
            {"total": 1.0, "squash": "softmax", "groups": 2},
            r"squash=softmax and total=1\.0\. .* squash=sigmoid and total=0\.2\.",
        ),
    ],
)
def test_what_the_file_cannot_say_is_not_left_out(
    chosen: dict[str, object], told: str, dit: Backbone, tmp_path: Path
) -> None:
    run = made(tmp_path, dit, **chosen)
    with pytest.raises(StarringError, match=told):
        export_adapter(run)
    assert not (run.folder / "exports").exists()


def test_how_the_subject_is_named_is_told(dit: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spoken_as(made(tmp_path, dit)) is None
    run = made(tmp_path, dit, star="sks")
    assert spoken_as(run) == "dog sks"
    Export(learned=run.folder, to="dualreal").run()
    assert '"dog sks"' in " ".join(capsys.readouterr().err.split())
    assert export_adapter(made(tmp_path, dit, controller=False, squash="softmax", groups=2)).is_file()


def test_there_and_back_it_is_the_same_film(dit: Backbone, tmp_path: Path) -> None:
    """The photograph is not in the file, so it is given again."""
    run, eye = made(tmp_path, dit), tiny_clip(tmp_path / "clip")
    photograph = album(tmp_path / "rex", 1) / "1.png"
    weights = run.load_weights()
    run.save_weights({**weights, "image": load_clip(str(eye)).embeddings([photo(1)])[0]})
    adopted = adopt_adapter(
        export_adapter(run), dit, class_word="dog", photograph=photograph, encoder=str(eye), runs_dir=tmp_path / "other"
    )
    truth = film(run, dit)
    assert torch.equal(film(adopted, dit), truth)
    assert adopted.record.recipe.options["groups"] == 1
    blind = adopt_adapter(export_adapter(run), dit, class_word="dog", runs_dir=tmp_path / "other")
    assert blind.name == "adapter-dualreal-2"
    assert not torch.equal(film(blind, dit), truth)


def test_a_photograph_is_shown_as_their_script_shows_it(dit: Backbone, tmp_path: Path) -> None:
    """Stretched to a square by PIL, with CLIP's statistics; by default its middle is cut out."""
    path, eye = export_adapter(made(tmp_path, dit)), tiny_clip(tmp_path / "clip")
    photo(1, (96, 64)).save(tmp_path / "wide.png")
    network: Any = CLIPModel.from_pretrained(eye)
    side = network.config.vision_config.image_size
    small = photo(1, (96, 64)).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
    pixels = (pixels - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    with torch.no_grad():
        truth = network.get_image_features(pixel_values=pixels)
    truth = getattr(truth, "pooler_output", truth)[0]
    found = {
        stretch: adopt_adapter(
            path, dit, photograph=tmp_path / "wide.png", encoder=str(eye), stretch=stretch, runs_dir=tmp_path / "runs"
        )
        for stretch in (False, True)
    }
    errors = {how: float((run.load_weights()["image"] - truth).norm() / truth.norm()) for how, run in found.items()}
    assert errors[True] < 0.05 < errors[False] / 2, errors
    assert found[True].record.recipe.options["stretch"] is True


def test_a_file_of_theirs_is_their_formula(dit: Backbone, tmp_path: Path) -> None:
    """One adapter by the authors' own names, in double precision."""
    content = torch.load(export_adapter(made(tmp_path, dit)), weights_only=True)
    ours = read_adapter(tmp_path / "rex-dualreal" / "exports" / "adapter.pth")
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)).double().numpy()
    site = "transformer_blocks.1.motion_ff_adapter"
    theirs = {name: value.double().numpy() for name, value in content.items()}
    hidden = slow.gelu(slow.linear(theirs, f"{site}.down_linear", x))
    truth = slow.linear(theirs, f"{site}.up_linear", hidden) + x
    named = {name: value.double().numpy() for name, value in ours.items()}
    found = slow.adapters(named, "adapters.transformer_blocks__1__ff", x, 0.0, 1.0, None)
    assert abs(found - truth).max() < 1e-12


def test_what_is_no_adapter(dit: Backbone, tmp_path: Path) -> None:
    class Burglar:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'was-here'}",)

    torch.save({"x": Burglar()}, tmp_path / "evil.pth")
    with pytest.raises(StarringError, match="is refused"):
        read_adapter(tmp_path / "evil.pth")
    assert not (tmp_path / "was-here").exists()
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "other.pth")
    assert not is_adapter(tmp_path / "other.pth")
    with pytest.raises(StarringError, match=r"it holds 'a\.weight'"):
        read_adapter(tmp_path / "other.pth")
    path = export_adapter(made(tmp_path, dit))
    assert is_adapter(path)
    (tmp_path / "torn.pth").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StarringError, match="damaged"):
        read_adapter(tmp_path / "torn.pth")
    cut = {k: v for k, v in torch.load(path, weights_only=True).items() if "blocks.1." not in k}
    torch.save(cut, tmp_path / "half.pth")
    with pytest.raises(StarringError, match=r"does not fit .*blocks__1.*holds nothing"):
        adopt_adapter(tmp_path / "half.pth", dit, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    for side, ours in (("id", "identity"), ("motion", "motion")):
        one = {k: v for k, v in torch.load(path, weights_only=True).items() if f".{side}_" not in k}
        torch.save(one, tmp_path / f"no-{side}.pth")
        with pytest.raises(StarringError, match=rf"no-{side}\.pth has no adapters of the {ours}"):
            adopt_adapter(tmp_path / f"no-{side}.pth", dit, runs_dir=tmp_path / "runs")
    torch.save({}, tmp_path / "adapter.pth")
    with pytest.raises(StarringError, match="is there already"):
        export_adapter(Run.open(tmp_path / "rex-dualreal"), tmp_path / "adapter.pth")
