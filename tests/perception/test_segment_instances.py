"""Segmenters that tell instances apart, on tiny networks of the real classes, with the libraries' own processing."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, GroundingDinoForObjectDetection, SamModel

import starring.perception.segment as segment
from starring.errors import StarringError
from starring.perception.clipseg import CLIPSeg
from starring.perception.grounded import GroundedSAM
from starring.perception.segment import SPECKS, load_segmenter, tidy
from tests.perception.tiny_cutters import photograph, tiny_concepts, tiny_detector, tiny_sam
from tests.perception.tiny_eyes import tiny_segmenter

TORCHVISION = importlib.util.find_spec("torchvision") is not None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("cutters")
    return tiny_detector(home / "dino"), tiny_sam(home / "sam")


@pytest.fixture(scope="module")
def grounded(pair: tuple[Path, Path]) -> GroundedSAM:
    loaded = load_segmenter(f"{pair[0]}+{pair[1]}")
    assert isinstance(loaded, GroundedSAM)
    return loaded


def by_hand(pair: tuple[Path, Path], image: Image.Image, text: str) -> list[tuple[float, np.ndarray[Any, Any]]]:
    """Score and mask of every box, in the detector's order, by the libraries' own processors and nothing of ours."""
    detector: Any = GroundingDinoForObjectDetection.from_pretrained(pair[0]).eval()
    sam: Any = SamModel.from_pretrained(pair[1]).eval()
    reader: Any = AutoProcessor.from_pretrained(pair[0], backend="pil")
    cutter: Any = AutoProcessor.from_pretrained(pair[1], backend="pil")
    with torch.no_grad():
        given = reader(images=image, text=text, return_tensors="pt")
        (boxes,) = reader.post_process_grounded_object_detection(
            detector(**given), given.input_ids, threshold=0.3, text_threshold=0.25, target_sizes=[image.size[::-1]]
        )
        found = []
        for box, score in zip(boxes["boxes"].tolist(), boxes["scores"].tolist(), strict=True):
            inside = [min(max(box[i], 0.0), float(image.size[i % 2])) for i in range(4)]
            if inside[2] <= inside[0] or inside[3] <= inside[1]:
                continue
            cut = cutter(image, input_boxes=[[inside]], return_tensors="pt")
            answer = sam(
                pixel_values=cut["pixel_values"], input_boxes=cut["input_boxes"].float(), multimask_output=False
            )
            (masks,) = cutter.post_process_masks(answer.pred_masks, cut["original_sizes"], cut["reshaped_input_sizes"])
            found.append((score, np.asarray(tidy(masks[0, 0], SPECKS))))
    return found


def test_the_heaviest_of_all_boxes_is_taken_not_the_first(grounded: GroundedSAM, pair: tuple[Path, Path]) -> None:
    image = photograph()
    found = by_hand(pair, image, "dog.")
    assert 1 < len(found) <= 16
    weights = [score * mask.mean() for score, mask in found]
    best = int(np.argmax(weights))
    assert best != 0
    (mask,) = grounded.segment([image], " Dog. ")
    assert mask.shape == (100, 150)
    assert np.array_equal(mask.numpy() > 0.5, found[best][1])
    (instances,) = grounded.instances([image], "dog")
    ours = [instance.score * float(instance.mask.float().mean()) for instance in instances]
    assert ours == pytest.approx(sorted((w for w in weights if w > 0), reverse=True), abs=1e-4)


def test_every_picture_is_seen_alone_and_in_any_mode(grounded: GroundedSAM) -> None:
    images = [photograph(), photograph(80, 120), photograph(mode="L")]
    masks = grounded.segment(images, "dog")
    assert [tuple(mask.shape) for mask in masks] == [(100, 150), (120, 80), (100, 150)]
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} and mask.dtype == torch.float32 for mask in masks)
    assert torch.equal(grounded.segment(images[1:2], "dog")[0], masks[1])
    assert grounded.segment([], "dog") == []


def test_boxes_lie_inside_the_picture_and_are_bounded_in_number(grounded: GroundedSAM) -> None:
    boxes, scores = grounded.boxes(photograph(), "dog.")
    assert len(boxes) == len(scores) <= 16
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, [0, 2]] <= 150).all())
    assert bool((boxes[:, [1, 3]] <= 100).all())
    assert bool((scores > 0.3).all())


def test_nothing_found_is_an_empty_mask(pair: tuple[Path, Path]) -> None:
    strict = load_segmenter(f"{pair[0]}+{pair[1]}", threshold=1.0)
    (mask,) = strict.segment([photograph()], "dog")
    assert mask.shape == (100, 150)
    assert not mask.any()


def test_the_word_matters_and_must_be_there(grounded: GroundedSAM) -> None:
    dog, cat = (grounded.instances([photograph()], word)[0] for word in ("dog", "cat"))
    assert [instance.score for instance in dog] != [instance.score for instance in cat]
    with pytest.raises(StarringError, match="class-word"):
        grounded.segment([photograph()], " ")


@pytest.mark.slow
def test_the_id_knows_both_networks_and_the_threshold(
    grounded: GroundedSAM, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert load_segmenter(f"{pair[0]}+{pair[1]}").id == grounded.id
    assert str(pair[0].parent) not in grounded.id
    assert load_segmenter(f"{pair[0]}+{pair[1]}", threshold=0.4).id != grounded.id
    other = tiny_sam(tmp_path / "sam", seed=5)
    assert load_segmenter(f"{pair[0]}+{other}").id != grounded.id


def test_networks_are_frozen_and_a_detector_alone_is_refused(grounded: GroundedSAM, pair: tuple[Path, Path]) -> None:
    assert not grounded.training
    assert not any(parameter.requires_grad for parameter in grounded.parameters())
    with pytest.raises(StarringError, match="boxes only"):
        load_segmenter(str(pair[0]))
    with pytest.raises(StarringError, match="There is no segmenter"):
        load_segmenter(f"{pair[0]}+nowhere")


def test_a_damaged_network_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "sam"
    shutil.copytree(pair[1], broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(StarringError, match=r"segmenter could not be loaded from.*sam"):
        load_segmenter(f"{pair[0]}+{broken}")


def presets(monkeypatch: pytest.MonkeyPatch, places: Mapping[str, object]) -> None:
    monkeypatch.setattr(segment, "SEGMENTERS", {name: str(place) for name, place in places.items()})


def test_auto_falls_back_and_says_so(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny_segmenter(tmp_path / "clipseg")
    missing = {"sam3": tmp_path / "sam3", "grounded-sam": f"{pair[0]}+{tmp_path / 'sam'}", "clipseg": small}
    presets(monkeypatch, missing)
    with pytest.warns(UserWarning, match=r"Masks are cut by clipseg, since better ones failed\. sam3: .*grounded-sam"):
        assert isinstance(load_segmenter("auto"), CLIPSeg)
    presets(monkeypatch, {**missing, "grounded-sam": f"{pair[0]}+{pair[1]}"})
    with pytest.warns(UserWarning, match=r"cut by grounded-sam"):
        assert isinstance(load_segmenter("auto"), GroundedSAM)
    presets(monkeypatch, {**missing, "clipseg": tmp_path / "clipseg-2"})
    with pytest.raises(StarringError, match=r"No segmenter can be had\..*sam3.*grounded-sam.*clipseg.*--segmenter"):
        load_segmenter("auto")


def test_the_best_one_needs_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets(monkeypatch, {"grounded-sam": tiny_segmenter(tmp_path / "any"), "clipseg": "c"})
    monkeypatch.setattr(segment, "AUTO", ("grounded-sam", "clipseg"))
    assert isinstance(load_segmenter("auto"), CLIPSeg)


@pytest.mark.skipif(TORCHVISION, reason="torchvision is installed, so nothing is missing")
def test_sam3_without_torchvision_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam3"}')
    with pytest.raises(StarringError, match=r"needs torchvision.*starring\[sam3\]"):
        load_segmenter(str(tmp_path))


@pytest.mark.skipif(not TORCHVISION, reason="SAM 3 needs torchvision (the extra 'sam3'), which is not installed")
def test_sam3_equals_the_library_called_by_hand(tmp_path: Path) -> None:
    from transformers import Sam3Model, Sam3Processor

    folder, image = tiny_concepts(tmp_path / "sam3"), photograph()
    model: Any = Sam3Model.from_pretrained(folder).eval()
    processor: Any = Sam3Processor.from_pretrained(folder)
    with torch.no_grad():
        given = processor(images=image, text="dog", return_tensors="pt")
        answer = model(**{k: given[k] for k in ("pixel_values", "input_ids", "attention_mask")})
    (told,) = processor.post_process_instance_segmentation(
        answer, threshold=0.1, mask_threshold=0.5, target_sizes=given["original_sizes"].tolist()
    )
    masks = [np.asarray(tidy(mask.bool(), SPECKS)) for mask in told["masks"]]
    weights = [float(score) * mask.mean() for score, mask in zip(told["scores"], masks, strict=True)]
    assert len(weights) > 1
    ours = load_segmenter(str(folder), threshold=0.1)
    assert np.array_equal(ours.segment([image], "dog")[0].numpy() > 0.5, masks[int(np.argmax(weights))])
    assert [i.score for i in ours.instances([image], "dog")[0]] != [i.score for i in ours.instances([image], "cat")[0]]
    assert not load_segmenter(str(folder), threshold=1.0).segment([image], "dog")[0].any()
