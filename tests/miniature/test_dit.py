"""The second miniature's networks and training, on a handful of clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import load_backbone
from starring.config import Sample
from starring.errors import StarringError
from starring.methods.base import Plain, Request
from starring.miniature import build, clips, corpus, dit, export, gates, models, reading
from starring.miniature.captions import corpus as vocabulary
from starring.miniature.corpus import Shelf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with six clips, which stand for stills too."""
    folder = tmp_path_factory.mktemp("dit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "FILMS_PER_SHARD", 6)
        corpus.build_films(folder / "corpus", 0, "clips", dit.FRAMES)
    for name in ("tokens", "labels", "masks", "images"):
        array = np.load(folder / "corpus" / f"clips-000-{name}.npy")
        np.save(folder / "corpus" / f"stills-000-{name}.npy", array[:, 0] if name in ("masks", "images") else array)
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FILMS_PER_SHARD", 6)
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", 6)


def random_pipeline(folder: Path) -> Path:
    """Untrained networks in the shipped layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export.dit(dit.vae(), dit.text_encoder(), dit.transformer(), folder)
    return folder / "dit"


def test_every_word_of_the_world_is_one_piece(tmp_path: Path) -> None:
    tokenizer = dit.tokenizer()
    for word in vocabulary():
        assert len(tokenizer.tokenize(word)) == len(tokenizer.tokenize(word.capitalize())) == 1
    ids = dit.encode(["a brown dog", "Zorgl"])
    assert [len(row) for row in ids] == [32, 32]
    assert tokenizer.unk_token_id not in ids[1]
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again("a brown dog, Zorgl")["input_ids"] == tokenizer("a brown dog, Zorgl")["input_ids"]


def test_everything_fits_into_sixteen_megabytes() -> None:
    made = (dit.vae(), dit.text_encoder(), dit.transformer())
    assert 2 * sum(p.numel() for net in made for p in net.parameters()) <= 16e6


def test_clips_are_films_of_seventeen_frames(folder: Path) -> None:
    shelf = Shelf(folder / "corpus", "clips", ("images", "masks", "tokens", "labels"))
    images, masks = shelf.get("images", np.arange(6)), shelf.get("masks", np.arange(6))
    assert images.shape == (6, 17, 64, 64, 3)
    assert masks.shape == (6, 17, 64, 64)
    assert masks.reshape(6, 17, -1).any(-1).all()


def test_the_video_vae_begins_as_the_image_vae() -> None:
    torch.manual_seed(0)
    flat = models.vae().eval()
    flat.post_quant_conv.bias.data.zero_()  # pyright: ignore  (at the rim it cannot be folded)
    deep = dit.inflated(flat, dit.vae()).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        flat_latents = flat.encode(x).latent_dist.mode()
        latents = deep.encode(x.unsqueeze(2)).latent_dist.mode()
        torch.testing.assert_close(latents[:, :4, 0], flat_latents, rtol=1e-4, atol=1e-5)
        seen = deep.decode(latents).sample[:, :, 0]
        torch.testing.assert_close(seen, flat.decode(flat_latents).sample, rtol=1e-4, atol=1e-4)
        assert latents[:, 4:].abs().max() > 0


@pytest.mark.slow
def test_balanced_latents_have_their_deviation_and_decode_alike() -> None:
    torch.manual_seed(0)
    net = dit.inflated(models.vae(), dit.vae()).eval()
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        before = net.encode(x).latent_dist
        film = net.decode(before.mode()).sample
        std = before.mode().std((0, 2, 3, 4))
        after = dit.balanced(net, std).encode(x).latent_dist
        spread = torch.tensor(dit.SPREAD)
        torch.testing.assert_close(after.mode().std((0, 2, 3, 4)), spread, rtol=1e-4, atol=1e-4)
        smaller = (spread / std).view(1, -1, 1, 1, 1)
        torch.testing.assert_close(after.std, before.std * smaller, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(net.decode(after.mode()).sample, film, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_video_vae_learns_from_clips(folder: Path, tmp_path: Path) -> None:
    trainer = clips.vae_trainer(tmp_path)
    loss = clips.vae_loss(folder, trainer)
    values = [float(loss(np.random.default_rng(seed), 0.0)["mse"].detach()) for seed in (0, 1)]
    assert max(values) < 0.05, "it starts from the image VAE, so it reconstructs at once"
    trainer.run(loss, until=1)
    assert clips.vae_trainer(tmp_path).step == 1


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.slow
def test_the_transformer_learns_from_stills_and_clips(folder: Path, tmp_path: Path, progress: float) -> None:
    clips.encode_corpus(folder, dit.vae().eval())
    trainer = clips.dit_trainer(tmp_path)
    trainer.plan = clips.DIT.__class__(steps=10, lr=2e-3, batch=10, muon=True)
    loss = clips.dit_loss(folder, trainer)
    values = [float(loss(np.random.default_rng(3), progress)["loss"].detach())]
    for _ in range(2):
        torch.manual_seed(0)
        trainer._advance(lambda *_: loss(np.random.default_rng(3), progress))
    torch.manual_seed(0)
    values.append(float(loss(np.random.default_rng(3), progress)["loss"].detach()))
    assert all(np.isfinite(values))
    moved = {name.split(".")[0] for name, p in trainer.modules.named_parameters() if p.grad is None}
    assert moved == {"transformer", "text_encoder", "seen"}, "gradients are cleared after a step"


def test_the_shipped_layout_is_cogvideox_s(tmp_path: Path) -> None:
    """Factors of the VAE and the schedule, as they are read back from the files."""
    folder = random_pipeline(tmp_path)
    backbone = load_backbone(folder)
    assert isinstance(backbone, CogVideoX)
    assert (backbone.factor, backbone.time_factor) == (4, 4)
    assert backbone.latent_shape(17, 64, 64) == (dit.LATENT_CHANNELS, 5, 16, 16)
    with torch.no_grad():
        moments = backbone.encode_moments(torch.zeros(1, 3, 9, 32, 32))
    assert moments.mean.shape == (1, dit.LATENT_CHANNELS, 3, 8, 8)
    assert backbone.denoiser.config.use_rotary_positional_embeddings
    assert backbone.denoiser.config.patch_size == 2
    config = dict(backbone.scheduler().config)
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"] == type(
        backbone.scheduler()
    ).__name__ == "CogVideoXDDIMScheduler"  # fmt: skip
    expected = {
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "snr_shift_scale": 1.0,
        "set_alpha_to_one": True, "clip_sample": False,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    made = backbone.scheduler()
    made.set_timesteps(50)
    assert made.timesteps.tolist() == list(range(999, 0, -20))
    assert float(made.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-8), "no signal at the noisy end"
    assert float(made.alphas_cumprod[0]) == pytest.approx(0.99915, abs=1e-5)


@pytest.mark.slow
def test_the_shipped_layout_films(tmp_path: Path) -> None:
    backbone = load_backbone(random_pipeline(tmp_path))
    assert (backbone.family, backbone.sample.frames, backbone.sample.height) == ("cogvideox", 17, 64)
    sample = Sample(frames=17, height=64, width=64, steps=1, guidance=1.0)
    request = Request(prompt="a dog", sample=sample, generator=torch.Generator().manual_seed(0))
    latents = Plain(backbone).generate(backbone, request)
    with torch.no_grad():
        assert backbone.decode_video(latents).shape == (1, 3, 17, 64, 64)
    assert gates.evenly(torch.arange(17.0).view(1, 1, 17, 1, 1)).reshape(-1).tolist() == [
        *range(8), *range(9, 17)
    ]  # fmt: skip
    again = export.shipped("dit", tmp_path)
    assert set(again) == {"transformer", "text_encoder"}
    trainer = clips.dit_trainer(tmp_path / "further")
    trainer.start(again)
    for part, tensors in again.items():
        begun = trainer.modules[part].state_dict()
        assert all(torch.equal(begun[name], value) for name, value in tensors.items())


def test_a_vae_without_a_transformer_ships_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long to train is kept before the rest is there, and is no film model yet."""
    weights = tmp_path / "weights"
    export.dit(dit.vae(), weights=weights)
    assert [path.name for path in (weights / "dit").iterdir()] == ["vae"]
    again = export.shipped("video_vae", weights)["vae"]
    dit.vae().load_state_dict(again)
    monkeypatch.setattr("starring.backbones.presets.MINIATURE_DIT", weights / "dit")
    with pytest.raises(StarringError, match="bundled weights are not in"):
        load_backbone("miniature-dit")


@pytest.mark.slow
def test_a_decoder_learns_behind_an_encoder_that_stays(folder: Path, tmp_path: Path) -> None:
    """So the corpus need not be encoded again, and a transformer may learn from it meanwhile."""
    vae = dit.vae().eval()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    trainer = clips.decoder_trainer(tmp_path, vae)
    trainer.run(clips.vae_loss(folder, trainer), until=1)
    after = build.load_video_vae(tmp_path).state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"decoder"}


@pytest.mark.slow
def test_the_text_tower_repeats_what_the_first_one_says(folder: Path, tmp_path: Path) -> None:
    trainer = reading.trainer(tmp_path)
    trainer.plan = reading.PLAN.__class__(steps=12, lr=3e-3, batch=6, warmup=2, muon=True)
    loss = reading.loss(folder, trainer, build.load_unet(tmp_path)[1])
    before = float(loss(np.random.default_rng(0), 0.0)["loss"].detach())
    trainer.run(loss)
    trainer.averaged()
    assert float(loss(np.random.default_rng(0), 0.0)["loss"].detach()) < before
    begun = clips.dit_trainer(tmp_path).modules["text_encoder"].state_dict()
    assert all(torch.equal(begun[n], trainer.average[f"text_encoder.{n}"]) for n in begun)
