"""CLIP and DINO: unit vectors, equal to the networks called by hand; loading, and what is said when that fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from starring.errors import StarringError
from starring.perception.encoders import CLIP, DINO, load_clip, load_dino
from starring.perception.loading import fingerprint
from tests.perception.tiny_eyes import tiny_clip, tiny_eyes


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="module")
def clip(eyes: Path) -> CLIP:
    return load_clip(str(eyes / "clip"))


@pytest.fixture(scope="module")
def dino(eyes: Path) -> DINO:
    return load_dino(str(eyes / "dino"))


def test_clip_images_equal_the_network_called_by_hand(clip: CLIP, eyes: Path) -> None:
    model: Any = CLIPModel.from_pretrained(eyes / "clip").eval()
    pixels = torch.rand(5, 3, 40, 56)
    with torch.no_grad():
        by_hand = [model.get_image_features(clip.transform(one[None])).pooler_output[0].numpy() for one in pixels]
    expected = np.stack([vector / np.linalg.norm(vector) for vector in by_hand])
    assert np.allclose(clip.images(pixels).numpy(), expected, atol=1e-6)


def test_clip_texts_equal_the_network_called_by_hand(clip: CLIP, eyes: Path) -> None:
    model: Any = CLIPModel.from_pretrained(eyes / "clip").eval()
    tokenizer: Any = CLIPTokenizer.from_pretrained(eyes / "clip")
    texts = ["a dog", "a red cat running on the beach"]
    with torch.no_grad():  # one at a time, so that padding cannot matter
        by_hand = [model.get_text_features(**tokenizer([text], return_tensors="pt")).pooler_output[0] for text in texts]
    expected = torch.stack([vector / vector.norm() for vector in by_hand])
    assert torch.allclose(clip.texts(texts), expected, atol=1e-6)


def test_dino_is_the_class_token_after_the_last_norm(dino: DINO, eyes: Path) -> None:
    model: Any = ViTModel.from_pretrained(eyes / "dino", add_pooling_layer=False).eval()
    pixels = torch.rand(3, 3, 37, 37)
    with torch.no_grad():
        hidden = model(dino.transform(pixels)).last_hidden_state
    assert torch.allclose(dino.images(pixels), torch.nn.functional.normalize(hidden[:, 0], dim=-1), atol=1e-6)
    assert torch.allclose(dino.tokens(pixels), hidden, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_vectors_have_length_one_and_do_not_depend_on_the_batch(
    kind: str, request: pytest.FixtureRequest, eyes: Path
) -> None:
    encoder = request.getfixturevalue(kind)
    load: Any = load_clip if kind == "clip" else load_dino
    pixels = torch.rand(7, 3, 48, 33)
    vectors = encoder.images(pixels)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(7), atol=1e-6)
    assert torch.allclose(load(str(eyes / kind), batch=2).images(pixels), vectors, atol=1e-6)


def test_pictures_of_different_sizes(clip: CLIP) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (40 + 9 * i, 50, 3), dtype=np.uint8)) for i in range(3)]
    vectors = clip.pictures(images)
    for image, vector in zip(images, vectors, strict=True):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        assert torch.allclose(clip.images(pixels)[0], vector, atol=1e-6)


def test_gradient_flows_to_pixels_and_not_to_weights(clip: CLIP, dino: DINO) -> None:
    for encoder in (clip, dino):
        pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
        encoder.images(pixels)[0, 0].backward()
        assert pixels.grad is not None
        assert (pixels.grad != 0).any()
        assert all(parameter.grad is None for parameter in encoder.parameters())


def test_eyes_stay_in_evaluation_mode(clip: CLIP) -> None:
    torch.nn.Sequential(clip).train()
    assert not clip.network.training


def test_long_texts_are_cut_and_named(clip: CLIP) -> None:
    short, long = "a dog", "a dog " * 20
    assert clip.context == 16
    assert clip.too_long([short, long]) == [long]
    assert clip.texts([long]).shape == (1, 16)


def test_protocols_know_weights_and_transform(clip: CLIP, dino: DINO, eyes: Path, tmp_path: Path) -> None:
    assert clip.protocol.startswith("clip(clip@")
    assert clip.protocol.endswith("short32-bicubic-crop32-clip)")
    assert dino.protocol.endswith("short37-bicubic-crop32-imagenet)")
    assert load_clip(str(eyes / "clip")).protocol == clip.protocol
    assert load_clip(str(eyes / "clip"), dtype=torch.bfloat16).id != clip.id  # it has lost digits
    other = load_clip(str(tiny_clip(tmp_path / "clip", seed=1)))
    assert other.protocol != clip.protocol
    assert load_dino(str(eyes / "dino"), transform="vbench").protocol != dino.protocol


def test_fingerprint_is_the_same_in_half_precision_files() -> None:
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.half())
        layer.bias.copy_(layer.bias.half())
    before = fingerprint(layer)
    assert fingerprint(layer.half()) == before
    with torch.no_grad():
        layer.bias[0] += 1
    assert fingerprint(layer) != before


def test_published_deviations_of_dino_run(eyes: Path) -> None:
    for name in ("vbench", "dreammatcher"):
        vectors = load_dino(str(eyes / "dino"), transform=name).images(torch.rand(2, 3, 40, 60))
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-6)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(StarringError, match="Did you mean 'dino-vits16'"):
        load_dino("dino-vits-16")
    with pytest.raises(StarringError, match="no CLIP model 'clap'"):
        load_clip("clap")
    with pytest.raises(StarringError, match="no CLIP model '/nowhere/at/all'"):
        load_clip("/nowhere/at/all")


def test_damaged_folders_are_one_readable_line(eyes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "clip"
    shutil.copytree(eyes / "clip", broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(StarringError, match="CLIP model could not be loaded") as caught:
        load_clip(str(broken))
    assert "\n" not in str(caught.value)
    shutil.copyfile(eyes / "dino" / "model.safetensors", broken / "model.safetensors")
    (broken / "config.json").write_text(json.dumps({"model_type": "clip"})[:-3])
    with pytest.raises(StarringError, match="could not be loaded"):
        load_clip(str(broken))
