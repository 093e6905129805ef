"""The segmenter: masks at each image's size, equal to CLIPSeg called by hand, and tidied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from starring.errors import StarringError
from starring.perception.clipseg import CLIPSeg
from starring.perception.segment import (
    SPECKS,
    First,
    Instance,
    Segmenter,
    coverage,
    load_segmenter,
    pieces,
    tidy,
    weightiest_first,
)
from tests.perception.tiny_eyes import tiny_segmenter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_segmenter(tmp_path_factory.mktemp("eyes") / "segmenter")


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> CLIPSeg:
    loaded = load_segmenter(str(folder))
    assert isinstance(loaded, CLIPSeg)
    return loaded


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 255, (40 + 8 * i, 50, 3), dtype=np.uint8)) for i in range(3)]


def test_masks_are_zero_or_one_at_each_images_size(segmenter: CLIPSeg) -> None:
    masks = segmenter.segment(pictures(), "dog")
    assert [mask.shape for mask in masks] == [(40, 50), (48, 50), (56, 50)]
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in masks)
    assert all(mask.dtype == torch.float32 for mask in masks)


def test_scores_equal_the_network_called_by_hand(segmenter: CLIPSeg, folder: Path) -> None:
    model: Any = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
    images = pictures()
    tokens = tokenizer(["dog"] * 3, return_tensors="pt")
    pixels = torch.cat(
        [segmenter.transform(torch.from_numpy(np.array(i)).permute(2, 0, 1)[None].float() / 255) for i in images]
    )
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits
    for score, map, image in zip(segmenter.scores(images, "dog"), logits.sigmoid(), images, strict=True):
        expected = torch.nn.functional.interpolate(map[None, None], size=image.size[::-1], mode="bilinear")[0, 0]
        assert torch.allclose(score, expected, atol=1e-5)


def test_one_image_and_none(segmenter: CLIPSeg) -> None:
    (alone,) = segmenter.scores(pictures()[:1], "cat")
    assert torch.allclose(alone, segmenter.scores(pictures(), "cat")[0], atol=1e-5)
    assert segmenter.segment([], "cat") == []


def test_the_word_matters_and_must_be_there(segmenter: CLIPSeg) -> None:
    assert not torch.equal(segmenter.scores(pictures(), "cat")[0], segmenter.scores(pictures(), "dog")[0])
    with pytest.raises(StarringError, match="class-word"):
        segmenter.segment(pictures(), "  ")


def test_the_id_knows_weights_and_threshold(segmenter: CLIPSeg, folder: Path) -> None:
    assert load_segmenter(str(folder)).id == segmenter.id
    assert load_segmenter(str(folder), threshold=0.4).id != segmenter.id


def test_crumbs_go_and_pinholes_close() -> None:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False  # a pinhole
    mask[30:33, 30:33] = True  # a crumb
    mask[28:38, 2:12] = True  # a second piece of some size
    clean = tidy(mask, 0.05)
    assert clean[5:25, 5:25].all()
    assert not clean[30:33, 30:33].any()
    assert clean[28:38, 2:12].all()
    assert not clean[0, 0]
    assert torch.equal(tidy(mask, 0), mask)


def test_tidying_leaves_empty_and_full_masks_alone() -> None:
    for value in (False, True):
        mask = torch.full((8, 8), value)
        assert torch.equal(tidy(mask, 0.05), mask)


def test_coverage() -> None:
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    assert coverage(mask) == 0.5


def test_instances_are_the_pieces_above_the_threshold(segmenter: CLIPSeg, folder: Path) -> None:
    images = pictures()
    middle = float(torch.cat([score.flatten() for score in segmenter.scores(images, "dog")]).median())
    cutter = load_segmenter(str(folder), threshold=middle)
    wholes, found = cutter.segment(images, "dog"), cutter.instances(images, "dog")
    assert any(len(each) > 1 for each in found)
    for whole, each, score in zip(wholes, found, segmenter.scores(images, "dog"), strict=True):
        together = torch.stack([instance.mask for instance in each]).sum(0)
        assert int(together.max()) == 1
        assert torch.equal(tidy(together.bool(), SPECKS).float(), whole)
        for instance in each:
            assert instance.score == pytest.approx(float(score[instance.mask].mean()))
        weights = [instance.score * float(instance.mask.float().mean()) for instance in each]
        assert weights == sorted(weights, reverse=True)


def test_a_small_face_beside_a_large_one_is_an_instance_but_not_of_the_mask(folder: Path) -> None:
    score = torch.zeros(64, 96)
    score[2:8, 80:86] = 0.9  # 36 pixels: less than 5 % of the other
    score[10:60, 5:45] = 0.8
    score[30:33, 20:23] = 0.1  # a hole in it
    score[62:64, 60:63] = 0.9  # a crumb

    class Seen(CLIPSeg):
        def scores(self, images: Sequence[Image.Image], text: str) -> list[Tensor]:
            return [score for _ in images]

    given = load_segmenter(str(folder))
    assert isinstance(given, CLIPSeg)
    eye = Seen(given.network, given.tokenizer, given.transform)
    image = Image.new("RGB", (96, 64))
    large, small = torch.zeros(64, 96), torch.zeros(64, 96)
    large[10:60, 5:45] = 1
    small[2:8, 80:86] = 1
    (found,) = eye.instances([image], "face")
    assert torch.equal(torch.stack([each.mask for each in found]).float(), torch.stack([large, small]))
    assert torch.equal(eye.segment([image], "face")[0], large)
    assert torch.equal(First(eye).segment([image], "face")[0], large), "the small one lies above, and counts last"
    score[:] = 0
    assert eye.instances([image], "face") == [[]]
    score[62:64, 60:63] = 0.9
    assert len(eye.instances([image], "face")[0]) == 1, "alone, it is no crumb"


def test_the_largest_and_most_certain_comes_first() -> None:
    def square(side: int, score: float) -> Instance:
        mask = torch.zeros(10, 10, dtype=torch.bool)
        mask[:side, :side] = True
        return Instance(mask=mask, score=score)

    first, large, certain, nothing = square(2, 0.9), square(6, 0.6), square(5, 0.95), square(0, 1.0)
    # areas 4, 36, 25 of 100: weights 0.036, 0.216, 0.2375
    ordered = weightiest_first([first, large, nothing, certain])
    assert [each.mask.sum() for each in ordered] == [25, 36, 4]
    assert [each.place for each in ordered] == [3, 1, 0]


def test_the_first_finding_may_be_asked_for() -> None:
    def bar(start: int, width: int) -> Tensor:
        mask = torch.zeros(8, 40, dtype=torch.bool)
        mask[:, start : start + width] = True
        return mask

    class Two(Segmenter):
        """Finds a narrow bar, then a wide one."""

        id = "two"

        def instances(self, images: Sequence[Image.Image], text: str) -> list[list[Instance]]:
            found = [Instance(mask=bar(0, 4), score=0.9), Instance(mask=bar(10, 30), score=0.8)]
            return [weightiest_first(found) for _ in images]

    image = Image.new("RGB", (40, 8))
    assert torch.equal(Two({}).segment([image], "bar")[0], bar(10, 30).float())
    first = First(Two({}))
    assert torch.equal(first.segment([image], "bar")[0], bar(0, 4).float())
    assert first.id != Two.id, "masks of the other choice must not be taken from the cache"


def test_pieces_touch_at_corners_too() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True
    assert sorted(int(piece.sum()) for piece in pieces(mask)) == [1, 2]
    assert pieces(torch.zeros(3, 3, dtype=torch.bool)) == []


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(StarringError, match="Did you mean 'clipseg'"):
        load_segmenter("clip-seg")


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(StarringError, match=r"'bert'.*clipseg"):
        load_segmenter(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StarringError, match="damaged"):
        load_segmenter(str(tmp_path))
