from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Data
from starring.data.latents import LatentBank, bank_key, shrink
from starring.data.subject import Subject
from tests.data.pictures import RedFinder, photo

DATA = Data(variants=12, template="photo of a <*> {class_word}")


@dataclass
class Moments:
    mean: Tensor
    std: Tensor


def encode(pixels: Tensor) -> Moments:
    """Means of 4x4 blocks, three channels."""
    assert pixels.ndim == 5
    assert pixels.shape[2] == 1
    small = torch.nn.functional.avg_pool3d(pixels, (1, 4, 4))
    return Moments(small, torch.full_like(small, 0.1))


def subject(count: int = 5) -> tuple[Subject, list[Tensor]]:
    images = [photo(i) for i in range(count)]
    return Subject.of(images, "ball"), RedFinder().segment(images, "")


def bank(data: Data = DATA, seed: int = 1, count: int = 5) -> LatentBank:
    them, masks = subject(count)
    return LatentBank.build(them, masks, encode, data, 32, seed)


def test_build_shapes_progress_and_balance() -> None:
    them, masks = subject()
    steps: list[tuple[int, int]] = []
    made = LatentBank.build(them, masks, encode, DATA, 32, 1, lambda done, total: steps.append((done, total)))
    assert steps == [(8, 12), (12, 12)]
    assert made.mean.shape == made.std.shape == (12, 3, 1, 8, 8)
    assert made.masks.shape == (12, 1, 1, 8, 8)
    assert made.masks.flatten(1).any(1).all()
    assert all("<*> ball" in caption for caption in made.captions)


def test_crops_depend_on_seed_and_number_alone() -> None:
    few, many, other = bank(), bank(replace(DATA, variants=20)), bank(seed=2)
    assert torch.equal(few.mean, many.mean[:12])
    assert few.captions == many.captions[:12]
    assert not torch.equal(few.mean, other.mean)


def test_there_is_at_least_one_crop_of_every_photograph() -> None:
    assert len(bank(replace(DATA, variants=1))) == 5


def test_order_shows_all_before_any_again_and_needs_no_history() -> None:
    made = bank()
    whole = made.rows(0, 36)
    for epoch in range(3):
        assert sorted(whole[12 * epoch : 12 * epoch + 12]) == list(range(12))
    assert whole[:12] != whole[12:24]
    for start in (0, 5, 11, 12, 23):
        assert made.rows(start, 7) == whole[start : start + 7]
    assert bank(seed=2).rows(0, 12) != whole[:12]


def test_draws_follow_the_moments_and_the_generator() -> None:
    made = bank()
    many = [made.draw(0, 12, torch.Generator().manual_seed(i)) for i in range(400)]
    latents = torch.stack([draw.latents for draw in many])
    rows = many[0].rows
    assert torch.allclose(latents.mean(0), made.mean[rows], atol=0.03)
    assert torch.allclose(latents.std(0), made.std[rows], atol=0.03)
    again = made.draw(0, 12, torch.Generator().manual_seed(7))
    assert torch.equal(again.latents, many[7].latents)
    assert many[0].captions == [made.captions[row] for row in rows]


def test_masks_are_opened_as_often_as_asked_and_no_further_than_the_photograph() -> None:
    made = bank()
    rows = made.rows(0, 12)
    opened: list[Tensor] = []
    for i in range(200):
        masks = made.draw(0, 12, torch.Generator().manual_seed(i), unmasked=0.25).masks
        whole, own = ((masks == area[rows]).flatten(1).all(1) for area in (made.extents, made.masks))
        assert (whole | own).all()
        opened.append(whole.float())
    assert torch.stack(opened).mean() == pytest.approx(0.25, abs=0.04)
    assert (made.masks <= made.extents).all()
    assert not made.extents.all(), "small photographs lie on grey, which nobody should learn"
    assert torch.equal(made.draw(0, 4, torch.Generator()).masks, made.masks[made.rows(0, 4)])


def test_without_masks_the_photograph_counts_and_not_what_surrounds_it() -> None:
    them, _ = subject()
    made = LatentBank.build(them, [None] * len(them), encode, DATA, 32, 1)
    assert torch.equal(made.masks, made.extents)
    assert not made.masks.all()


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    made, path = bank(), tmp_path / "moments.safetensors"
    assert LatentBank.load(path, "k") is None
    made.save(path, "k")
    assert LatentBank.load(path, "other") is None
    loaded = LatentBank.load(path, "k")
    assert loaded is not None
    for name in ("mean", "std", "masks", "extents"):
        assert torch.equal(getattr(loaded, name), getattr(made, name))
    assert (loaded.captions, loaded.seed) == (made.captions, made.seed)
    path.write_bytes(path.read_bytes()[:-100])
    assert LatentBank.load(path, "k") is None
    path.write_bytes(b"")
    assert LatentBank.load(path, "k") is None


def test_the_key_changes_with_everything_a_bank_follows_from() -> None:
    them, masks = subject()
    base = (them, masks, DATA, 32, 1, "vae")
    variants = [
        (them.choose([1, 0, 2, 3, 4]), masks, DATA, 32, 1, "vae"),
        (Subject.of(them.images, "dog"), masks, DATA, 32, 1, "vae"),
        (them, [None, *masks[1:]], DATA, 32, 1, "vae"),
        (them, masks, replace(DATA, flip=False), 32, 1, "vae"),
        (them, masks, DATA, 64, 1, "vae"),
        (them, masks, DATA, 32, 2, "vae"),
        (them, masks, DATA, 32, 1, "other"),
    ]
    keys = {bank_key(*args) for args in (base, *variants)}
    assert len(keys) == 8
    assert bank_key(*base) in keys


def test_small_masks_stay_binary_and_are_never_lost() -> None:
    masks = torch.zeros(3, 1, 1, 32, 32)
    masks[0, ..., 8:24, 8:24] = 1
    masks[1, ..., 5, 5] = 1
    small = shrink(masks, (8, 8))
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(small[0, 0, 0], expected)
    assert small[1].sum() == 1
    assert small[1, 0, 0, 1, 1] == 1
    assert small[2].sum() == 0
    film = torch.zeros(1, 1, 3, 32, 32)
    film[:, :, 1, :16] = 1
    assert shrink(film, (8, 8)).flatten(3).sum(-1).tolist() == [[[0.0, 32.0, 0.0]]]


def test_a_draw_is_what_encoding_the_crop_gives(tiny: Backbone) -> None:
    images = [photo(i) for i in range(2)]
    made = LatentBank.build(Subject.of(images, "ball"), [None, None], tiny.encode_moments, Data(variants=2), 32, 1)
    assert made.mean.shape[1:] == tiny.latent_shape(1, 32, 32)
    assert Counter(made.rows(0, 4)) == {0: 2, 1: 2}
