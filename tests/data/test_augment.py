from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.config import Data
from starring.data.augment import FAR, NEAR, Crop, seeded, square, take
from tests.data.pictures import RedFinder, photo

CAPTION = "photo of a <*> ball"
STILL = Data(augment=False, flip=False)


def crops(count: int, data: Data, size: int = 64, masked: bool = True) -> list[Crop]:
    image = photo(3, (120, 120))
    mask = RedFinder().segment([image], "")[0] if masked else None
    return [take(image, mask, CAPTION, data, size, seeded("crop", i)) for i in range(count)]


def test_shapes_ranges_and_visible_subject() -> None:
    for crop in crops(60, Data()):
        assert crop.pixels.shape == (3, 64, 64)
        assert crop.mask.shape == (1, 64, 64)
        assert crop.pixels.abs().max() <= 1
        assert set(crop.mask.unique().tolist()) <= {0.0, 1.0}
        assert crop.mask.any()


def test_the_mask_moves_with_the_picture() -> None:
    for crop in crops(60, Data()):
        red = (crop.pixels[0] > 0.2) & (crop.pixels[1] < -0.3)
        overlap = (red & crop.mask[0].bool()).sum() / (red | crop.mask[0].bool()).sum()
        assert overlap > 0.75


@pytest.mark.slow
def test_shares_of_zooms_and_their_words() -> None:
    words = Counter(crop.caption.removesuffix(CAPTION) for crop in crops(1500, Data()))
    assert set(words) == {*FAR, *NEAR, ""}
    near = sum(words[w] for w in NEAR) / 1500
    far = sum(words[w] for w in FAR) / 1500
    assert near == pytest.approx(1 / 3, abs=0.04)
    # Two thirds shrink, uniformly over [1/3, 1] of the frame, of which those below 0.6 are pasted on a canvas.
    assert far == pytest.approx(2 / 3 * (307 - 170) / (512 - 170), abs=0.04)
    assert words[FAR[0]] == pytest.approx(words[FAR[1]], rel=0.3)


def test_far_ones_lie_on_grey_and_near_ones_show_more() -> None:
    plain = crops(1, STILL)[0].mask.mean()
    for crop in crops(200, Data(flip=False, rotate=0)):
        grey = (crop.pixels.abs() < 0.01).all(0).float().mean()
        prefix = crop.caption.removesuffix(CAPTION)
        if prefix in FAR:
            assert grey > 0.6
            assert crop.mask.mean() < 0.4 * plain
        else:
            assert grey < 0.1
        if prefix == "":
            assert crop.mask.mean() == pytest.approx(float(plain), abs=1e-6)


def test_without_augmentation_it_is_the_centre_square() -> None:
    (crop,) = crops(1, STILL)
    expected = photo(3, (120, 120)).resize((64, 64), Image.Resampling.LANCZOS)
    assert torch.equal(crop.pixels, torch.from_numpy(np.array(expected, np.float32)).permute(2, 0, 1) / 127.5 - 1)
    assert crop.caption == CAPTION


def test_mirroring_can_be_forbidden_and_rotation_shared() -> None:
    mirrored = crops(200, replace(STILL, flip=True))
    same = sum(torch.equal(crop.pixels, mirrored[0].pixels) for crop in mirrored)
    assert 70 < same < 130
    assert len({crop.pixels.sum().item() for crop in crops(20, STILL)}) == 1


@pytest.mark.parametrize("mask", [None, torch.ones(120, 120)])
def test_without_a_mask_the_whole_photograph_counts_and_nothing_around_it(mask: Tensor | None) -> None:
    white = Image.new("RGB", (120, 120), "white")
    shares: list[float] = []
    for i in range(60):
        crop = take(white, mask, CAPTION, Data(), 64, seeded("white", i))
        shown = crop.pixels[:1] > 0.5  # what was filled in is grey
        assert (shown != crop.extent.bool()).float().mean() < 0.02
        assert torch.equal(crop.mask, crop.extent)
        shares.append(float(crop.extent.mean()))
    assert min(shares) < 0.2, "small photographs lie on grey"
    assert max(shares) == 1


def test_the_subject_lies_in_the_photograph() -> None:
    for crop in crops(60, Data()):
        assert (crop.mask <= crop.extent).all()
    assert all(crop.extent.all() for crop in crops(20, STILL))


def test_same_seed_same_crop_whatever_came_before() -> None:
    one, two = crops(10, Data()), crops(10, Data())
    assert all(torch.equal(a.pixels, b.pixels) and a.caption == b.caption for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].pixels, one[1].pixels)


def test_the_square_holds_a_subject_at_the_edge() -> None:
    image = Image.new("RGB", (300, 100))
    mask = Image.new("L", (300, 100), 0)
    mask.paste(255, (10, 20, 50, 60))
    assert square(image, mask)[1].getbbox() == (0, 20, 40, 60)  # moved from 100 to 10, no further than it must
    mask.paste(0, (0, 0, 300, 100))
    mask.paste(255, (120, 20, 160, 60))
    assert square(image, mask)[1].getbbox() == (20, 20, 60, 60)  # the centred square holds it: nothing moves
    mask.paste(255, (100, 0, 300, 100))
    assert square(image, mask)[1].getbbox() == (0, 0, 100, 100)
    assert square(image, Image.new("L", (300, 100), 0))[0].size == (100, 100)


def test_a_tiny_subject_is_never_lost() -> None:
    image, mask = photo(3, (100, 100)), torch.zeros(100, 100)
    mask[2:6, 2:6] = 1
    for i in range(40):
        assert take(image, mask, CAPTION, Data(), 64, seeded(i)).mask.any()
