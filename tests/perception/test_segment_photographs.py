"""Real photographs through the published sizes and processing of each segmenter; the networks are tiny and random."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPSegForImageSegmentation, CLIPTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from starring.data.masks import cut_masks
from starring.data.subject import Subject
from starring.perception.segment import SPECKS, load_segmenter, tidy
from tests.perception.test_segment_instances import by_hand
from tests.perception.tiny_cutters import tiny_concepts, tiny_detector, tiny_sam
from tests.perception.tiny_eyes import tiny_segmenter

ALBUMS = Path(__file__).parents[3] / "shared" / "data" / "dreambooth"
FOLDERS = sorted(path for path in ALBUMS.glob("*") if any(path.glob("*.jpg")))
DETECTOR_SIDE, SAM_SIDE, CLIPSEG_SIDE = 800, 1024, 352
"""To which the published networks' processors bring pictures."""

pytestmark = pytest.mark.skipif(not FOLDERS, reason="there are no real photographs beside the checkout")


def subjects() -> list[Subject]:
    return [Subject.from_folder(folder, "dog") for folder in FOLDERS[:2]]


@pytest.mark.slow
def test_grounded_sam_cuts_photographs_as_the_libraries_do(tmp_path: Path) -> None:
    pair = tiny_detector(tmp_path / "dino", side=DETECTOR_SIDE), tiny_sam(tmp_path / "sam", side=SAM_SIDE)
    eye = load_segmenter(f"{pair[0]}+{pair[1]}")
    for image in (subject.images[0] for subject in subjects()):
        found = by_hand(pair, image, "dog.")
        assert found
        weights = [score * mask.mean() for score, mask in found]
        (mask,) = eye.segment([image], "dog")
        assert mask.shape == (image.height, image.width)
        assert np.array_equal(mask.numpy() > 0.5, found[int(np.argmax(weights))][1])


def test_clipseg_cuts_photographs_as_the_library_does(tmp_path: Path) -> None:
    folder = tiny_segmenter(tmp_path / "clipseg")
    side = {"height": CLIPSEG_SIDE, "width": CLIPSEG_SIDE}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ViTImageProcessorPil(size=side, image_mean=mean, image_std=std).save_pretrained(folder)
    reader: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model: Any = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    tokens: Any = CLIPTokenizer.from_pretrained(folder)(["dog"], return_tensors="pt")
    eye: Any = load_segmenter(str(folder))
    for image in (subject.images[0] for subject in subjects()):
        given = reader(images=[image], return_tensors="pt")
        assert given.pixel_values.shape[-2:] == (CLIPSEG_SIDE, CLIPSEG_SIDE)
        ours = eye.transform(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)
        assert float((ours - given.pixel_values).abs().max()) < 2 / 255 / min(std), "PIL rounds to 8 bits, twice"
        with torch.no_grad():
            map = model(pixel_values=ours, **tokens).logits.sigmoid().reshape(1, 1, CLIPSEG_SIDE, CLIPSEG_SIDE)
        wanted = torch.nn.functional.interpolate(map, image.size[::-1], mode="bilinear")[0, 0]
        assert torch.allclose(eye.scores([image], "dog")[0], wanted, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="SAM 3 needs torchvision (extra 'sam3')")
def test_sam3_cuts_photographs_as_the_library_does(tmp_path: Path) -> None:
    from transformers import Sam3Model, Sam3Processor

    folder = tiny_concepts(tmp_path / "sam3")
    model: Any = Sam3Model.from_pretrained(folder).eval()
    processor: Any = Sam3Processor.from_pretrained(folder)
    image = subjects()[0].images[0]
    with torch.no_grad():
        given = processor(images=image, text="dog", return_tensors="pt")
        answer = model(**{k: given[k] for k in ("pixel_values", "input_ids", "attention_mask")})
    (told,) = processor.post_process_instance_segmentation(
        answer, threshold=0.1, mask_threshold=0.5, target_sizes=given["original_sizes"].tolist()
    )
    masks = [np.asarray(tidy(mask.bool(), SPECKS)) for mask in told["masks"]]
    weights = [float(score) * mask.mean() for score, mask in zip(told["scores"], masks, strict=True)]
    (mask,) = load_segmenter(str(folder), threshold=0.1).segment([image], "dog")
    assert np.array_equal(mask.numpy() > 0.5, masks[int(np.argmax(weights))])


@pytest.mark.slow
def test_masks_of_a_whole_album(tmp_path: Path) -> None:
    eye = load_segmenter(f"{tiny_detector(tmp_path / 'dino')}+{tiny_sam(tmp_path / 'sam')}")
    subject = subjects()[0]
    masks = cut_masks(subject, eye, "dog")
    sizes = [(image.height, image.width) for image in subject.images]
    assert [tuple(mask.shape) for mask in masks.masks] == sizes
    assert any(masks.found), "even tiny random networks find something in real photographs"
