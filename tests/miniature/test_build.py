"""Building goes on from the shipped weights, part by part, and writes only what it trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from starring.miniature import build, cinema, corpus, export, latents
from starring.miniature.fit import Plan, Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus with latents."""
    place = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "STILLS_PER_SHARD", 16)
        patch.setattr(corpus, "FILMS_PER_SHARD", 4)
        corpus.build_stills(place / "corpus", 0)
        corpus.build_films(place / "corpus", 0)
    for kind in ("stills", "films"):
        latents.build(place / "corpus", build.load_vae(place), kind)
    return place


def _flat(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, state in found.items() for name, value in state.items()}


@pytest.mark.parametrize("part", ["vae", "unet", "motion", "clip", "dino", "segmenter"])
def test_a_warm_start_is_the_shipped_network(part: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", 16)
    monkeypatch.setattr(corpus, "FILMS_PER_SHARD", 4)
    trainer, _ = build._training(part, folder)
    shipped = _flat(export.shipped(part))
    before = trainer.modules.state_dict()
    assert any(not torch.equal(before[name], shipped[name]) for name in shipped)
    trainer.start(export.shipped(part))
    after = trainer.modules.state_dict()
    assert all(torch.equal(after[name], shipped[name]) for name in shipped)
    assert all(torch.equal(trainer.average[name], after[name]) for name in after)


def test_a_motion_adapter_survives_the_way_to_its_trainer_and_back() -> None:
    adapter = export.adapter_from(_flat(export.shipped("motion"))).state_dict()
    shipped = export.shipped("motion_adapter")["motion_adapter"]
    assert adapter.keys() == shipped.keys()
    assert all(torch.equal(adapter[name], shipped[name]) for name in shipped)


@pytest.mark.slow
def test_only_the_trained_part_of_the_film_model_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", 16)
    trainer, loss = build._training("decoder", folder)
    trainer.plan = replace(trainer.plan, batch=2)
    trainer.run(loss, until=2)
    build.export_film(folder, tmp_path)
    for part in ("unet", "motion_adapter", "text_encoder"):
        found = list((tmp_path / "film" / part).glob("*.safetensors"))
        assert (
            [path.read_bytes() for path in found]
            == [(export.WEIGHTS / "film" / part / path.name).read_bytes() for path in found]
            != []
        )
    tuned, plain = (AutoencoderKL.from_pretrained(place / "film" / "vae") for place in (tmp_path, export.WEIGHTS))
    assert tuned.config.scaling_factor == plain.config.scaling_factor
    before = plain.state_dict()
    moved = {name.split(".")[0] for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert {"decoder"} <= moved <= {"decoder", "post_quant_conv"}


def test_bfloat16_computes_near_float32_and_keeps_weights_whole(folder: Path, tmp_path: Path) -> None:
    def trained(bf16: bool) -> tuple[float, torch.dtype]:
        torch.manual_seed(0)
        net = nn.Linear(8, 8)
        plan = Plan(steps=3, lr=1e-3, batch=4, bf16=bf16)
        trainer = Trainer(tmp_path / str(bf16), {"net": net}, plan)
        seen: list[float] = []

        def loss(rng: np.random.Generator, _: float) -> dict[str, Tensor]:
            out = trainer.modules["net"](torch.from_numpy(rng.random((4, 8), dtype=np.float32)))
            assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
            value = out.float().square().mean()
            seen.append(value.item())
            return {"loss": value}

        trainer.run(loss)
        return seen[-1], net.weight.dtype

    (half, kept), (whole, _) = trained(True), trained(False)
    assert kept == torch.float32
    assert half != whole
    assert abs(half - whole) < 0.05 * whole


@pytest.mark.slow
def test_the_film_loss_reads_films(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FILMS_PER_SHARD", 4)
    unet, text = build.load_unet(folder)
    trainer, film = cinema.motion_trainer(folder, unet, text)
    trainer.start(export.shipped("motion"))
    values = cinema.motion_loss(folder, trainer, film, text)(np.random.default_rng(0), 0.0)
    assert 0 < values["noise"].item() < 1
