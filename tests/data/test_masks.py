from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.data.masks import cut_masks, load_masks, overlay, overview, settle
from starring.data.subject import Subject
from starring.errors import StarringError
from tests.data.pictures import RedFinder, album, photo


def album_with_a_blank(folder: Path) -> Subject:
    album(folder, 3)
    photo(9, subject=False).save(folder / "9.png")
    return Subject.from_folder(folder, "ball")


def test_masks_are_cut_cached_and_told(tmp_path: Path) -> None:
    subject, finder, steps = album_with_a_blank(tmp_path / "a"), RedFinder(), []
    masks = cut_masks(subject, finder, "ball", tmp_path / "masks", lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert masks.found == [True, True, True, False]
    assert all(0.1 < share < 0.3 for share in masks.coverage[:3])
    for image, mask in zip(subject.images, masks.masks, strict=True):
        assert torch.equal(mask, RedFinder().segment([image], "")[0])
    assert len(list((tmp_path / "masks").glob("*.png"))) == 4
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["1.png", "2.png", "3.png", "9.png"]

    again = cut_masks(subject, finder, "ball", tmp_path / "masks")
    stored = load_masks(subject, "ball", tmp_path / "masks")
    assert finder.looked == 4
    assert stored is not None
    for one, two, three in zip(masks.masks, again.masks, stored.masks, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_another_text_segmenter_or_photograph_is_cut_again(tmp_path: Path) -> None:
    subject, finder = album_with_a_blank(tmp_path / "a"), RedFinder()
    cut_masks(subject, finder, "ball", tmp_path / "m")
    assert load_masks(subject, "dog", tmp_path / "m") is None
    cut_masks(subject, finder, "dog", tmp_path / "m")
    assert finder.looked == 8
    photo(20).save(tmp_path / "a" / "1.png")
    changed = Subject.from_folder(tmp_path / "a", "ball")
    assert load_masks(changed, "dog", tmp_path / "m") is None
    cut_masks(changed, finder, "dog", tmp_path / "m")
    assert finder.looked == 9

    other = RedFinder()
    other.id = "red-finder/2"
    cut_masks(changed, other, "dog", tmp_path / "m")
    assert other.looked == 4


def test_photographs_of_equal_stem_keep_their_own_masks(tmp_path: Path) -> None:
    tmp_path.joinpath("a").mkdir()
    photo(1).save(tmp_path / "a" / "x.png")
    photo(2, (64, 80)).save(tmp_path / "a" / "x.jpg", quality=100)
    subject = Subject.from_folder(tmp_path / "a")
    cut_masks(subject, RedFinder(), "ball", tmp_path / "m")
    stored = load_masks(subject, "ball", tmp_path / "m")
    assert stored is not None
    assert [tuple(m.shape) for m in stored.masks] == [(i.height, i.width) for i in subject.images]


def test_a_photograph_without_subject_is_skipped_or_used_whole_and_told(tmp_path: Path) -> None:
    subject = album_with_a_blank(tmp_path)
    masks = cut_masks(subject, RedFinder(), "ball")
    kept, chosen, told = settle(subject, masks)
    assert [p.name for p in kept.paths] == ["1.png", "2.png", "3.png"]
    assert all(m is not None for m in chosen)
    assert [(c.path.name, c.kind) for c in told] == [("9.png", "no-subject")]
    assert "left out" in str(told[0])

    kept, chosen, told = settle(subject, masks, "unmasked")
    assert len(kept) == 4
    assert [m is None for m in chosen] == [False, False, False, True]
    assert "background included" in str(told[0])
    with pytest.raises(StarringError, match=r"skip.*unmasked"):
        settle(subject, masks, "skipp")


def test_nothing_found_anywhere_goes_on_unmasked_and_says_so() -> None:
    subject = Subject.of([photo(i, subject=False) for i in range(3)], "ball")
    kept, chosen, told = settle(subject, cut_masks(subject, RedFinder(), "ball"))
    assert len(kept) == 3
    assert chosen == [None] * 3
    assert [c.kind for c in told] == ["unmasked"]
    assert "WITHOUT masks" in str(told[0])
    assert "red-finder/1" in str(told[0])


def test_a_speck_is_not_a_subject() -> None:
    image = Image.new("RGB", (100, 100))
    image.paste((255, 0, 0), (0, 0, 5, 5))
    masks = cut_masks(Subject.of([image], "ball"), RedFinder(), "ball")
    assert masks.coverage == pytest.approx([0.0025])
    assert masks.found == [False]


def test_wrong_requests_are_errors() -> None:
    class Careless(RedFinder):
        def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
            return [mask.T[:, :-1] for mask in super().segment(images, text)]

    subject = Subject.of([photo(1)], "ball")
    with pytest.raises(StarringError, match="must have the picture's size"):
        cut_masks(subject, Careless(), "ball")
    with pytest.raises(StarringError, match="what to look for"):
        cut_masks(subject, RedFinder(), " ")


def test_the_overview_fades_the_background_only() -> None:
    image = photo(1)
    mask = RedFinder().segment([image], "")[0]
    shown = np.array(overlay(image, mask))
    inside = mask.bool().numpy()
    assert (shown[inside] == np.array(image)[inside]).all()
    assert shown[~inside].mean() > np.array(image)[~inside].mean() + 20
    assert overview([image], [None]) == [image]
