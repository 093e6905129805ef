"""The papers' transforms, against PIL doing the same on 8-bit images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError
from starring.perception.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_tensor,
    centre,
    clip_transform,
    dino_transform,
    squash_transform,
    to_unit,
    variant,
)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours with edges, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    array = np.array(coarse)
    array[height // 4 : height // 2, width // 3 : width // 2] = (250, 10, 40)
    return Image.fromarray(array)


def by_pil(image: Image.Image, short: int, crop: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Resize the short side, cut the centre, normalise, as torchvision does it to a PIL image."""
    scale = short / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
    image = image.crop((left, top, left + crop, top + crop))
    array = (np.asarray(image).astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(array).permute(2, 0, 1).float()


@pytest.mark.parametrize("size", [(480, 720), (300, 200), (64, 64), (224, 224), (257, 511)])
def test_clip_is_openais_transform(size: tuple[int, int]) -> None:
    image = picture(*size)
    ours = clip_transform({})(as_tensor(image))[0]
    theirs = by_pil(image, 224, 224, CLIP_MEAN, CLIP_STD)
    assert ours.shape == (3, 224, 224)
    # PIL rounds to 8 bits after each of its two passes: two levels, in units of the standard deviation.
    assert (ours - theirs).abs().max() < 2.5 / 255 / min(CLIP_STD)
    assert (ours - theirs).abs().mean() < 0.5 / 255 / min(CLIP_STD)


@pytest.mark.parametrize("size", [(480, 720), (300, 257)])
def test_dino_is_the_papers_transform_and_not_a_squash(size: tuple[int, int]) -> None:
    image = picture(*size)
    published = {"size": 224, "resample": 2, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    ours = dino_transform(published)(as_tensor(image))[0]
    theirs = by_pil(image, 256, 224, IMAGENET_MEAN, IMAGENET_STD)
    assert (ours - theirs).abs().max() < 2.5 / 255 / min(IMAGENET_STD)


def test_sizes_come_from_the_folder() -> None:
    small = clip_transform({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}})
    assert (small.size, small.crop) == (64, 64)
    assert clip_transform({"size": 96}).crop == 96
    assert (dino_transform({"size": 64}).size, dino_transform({"size": 64}).crop) == (73, 64)
    spelled = dino_transform({"size": {"shortest_edge": 64}, "crop_size": 64})
    assert (spelled.size, spelled.crop) == (64, 64)
    squash = squash_transform({"size": {"height": 352, "width": 352}, "resample": 3})
    assert (squash.size, squash.crop, squash.filter, squash.squash) == (352, None, "bicubic", True)
    with pytest.raises(StarringError, match="shortest_edge"):
        clip_transform({"size": {"longest_edge": 3}})


def test_squash_ignores_the_shape() -> None:
    assert squash_transform({"size": 32})(torch.rand(1, 3, 40, 90)).shape == (1, 3, 32, 32)


def test_nothing_is_resampled_at_the_right_size() -> None:
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    assert torch.equal(clip_transform({"size": 64})(pixels), (pixels - mean) / std)


def test_every_transform_has_an_id_of_its_own() -> None:
    dino = dino_transform({})
    transforms = [
        clip_transform({}),
        dino,
        variant(dino, "vbench"),
        variant(dino, "dreammatcher"),
        variant(clip_transform({}), "dualreal"),
        variant(clip_transform({}), "dualreal-film"),
        squash_transform({}),
    ]
    transforms += [clip_transform({"size": 64}), clip_transform({"image_mean": [0.1, 0.2, 0.3]})]
    assert len({transform.id for transform in transforms}) == len(transforms)
    assert variant(dino, "paper") == dino
    assert dino.id == "short256-bicubic-crop224-imagenet"


def test_published_deviations() -> None:
    dino = dino_transform({})
    assert variant(dino, "vbench")(torch.rand(1, 3, 64, 96)).shape == (1, 3, 224, 336)
    strange = variant(dino, "dreammatcher")(torch.rand(1, 3, 512, 512))
    assert strange.shape == (1, 3, 256, 256)
    assert strange.min() >= -1
    with pytest.raises(StarringError, match="vbench"):
        variant(dino, "vbnch")


def test_gradient_reaches_the_pixels() -> None:
    pixels = torch.rand(1, 3, 40, 60, requires_grad=True)
    clip_transform({"size": 32})(pixels).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).any()


def test_centre_sits_where_torchvision_puts_it() -> None:
    # torchvision rounds half to even: (35 - 32) / 2 = 1.5 -> 2, (33 - 32) / 2 = 0.5 -> 0.
    grid = torch.arange(35 * 33).reshape(1, 1, 35, 33)
    assert int(centre(grid, 32)[0, 0, 0, 0]) == 2 * 33
    with pytest.raises(StarringError, match="no central square"):
        centre(grid, 34)


def test_eight_bits() -> None:
    levels = torch.arange(256).float()
    assert torch.equal((to_unit(levels / 127.5 - 1) * 255).round(), levels)
    assert to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert torch.equal(as_tensor(clear), torch.ones(1, 3, 4, 4))
    grey = as_tensor(Image.new("L", (4, 6), 51))
    assert grey.shape == (1, 3, 6, 4)
    assert torch.allclose(grey, torch.full_like(grey, 0.2))


def test_another_shape_is_refused() -> None:
    with pytest.raises(StarringError, match="b 3 H W"):
        clip_transform({})(torch.rand(3, 64, 64))
