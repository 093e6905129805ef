"""What the segmenter is asked while it learns, and what answers: only the asked one of two subjects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from starring.miniature import corpus, eyes, models, world
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.miniature.words import encode

SHARD = 400


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> corpus.Shelf:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "STILLS_PER_SHARD", SHARD)
        corpus.build_stills(folder, 0)
        return corpus.Shelf(folder, "stills", ("images", "masks", "labels"))


def test_a_frame_knows_its_first_actor() -> None:
    rng = np.random.default_rng(3)
    shots = [world.random_shot(rng) for _ in range(60)]
    pairs = [shot for shot in shots if len(shot.actors) == 2]
    assert pairs
    for shot in pairs:
        frame = world.render(shot)
        assert np.nonzero(frame.first)[1].mean() < world.SIZE / 2  # the first stands on the left
        assert np.nonzero(frame.mask & ~frame.first)[1].mean() > world.SIZE / 2
    alone = world.render(next(shot for shot in shots if len(shot.actors) == 1))
    assert np.array_equal(alone.first, alone.mask)


def test_the_answer_is_where_the_asked_one_stands(shelf: corpus.Shelf) -> None:
    """Every question of many, answered again from the labels and the halves of the frame."""
    names = tuple(CLASSES)
    rows = np.arange(SHARD)
    labels, masks = shelf.get("labels", rows).astype(np.int64), shelf.get("masks", rows)
    kinds = labels[:, [corpus.LABELS.index("kind"), corpus.LABELS.index("second")]]
    pairs = labels[:, corpus.LABELS.index("actors")] == 2
    assert pairs.sum() > 10
    left = np.arange(world.SIZE) < world.SIZE / 2
    seen: set[str] = set()
    for seed in range(4):
        asked, wanted = eyes._ask(labels, masks, np.random.default_rng(seed))
        for i in range(SHARD):
            word, subject = eyes.ASKED[asked[i]], (masks[i].astype(int) & 1) > 0
            seen.add(word)
            if word == "face":
                assert np.array_equal(wanted[i] > 0, (masks[i].astype(int) & corpus.FACE) > 0)
                continue
            both = [names[k] for k in kinds[i]]
            shown = [word in ("subject", kind) or (word == "person" and kind in PEOPLE) for kind in both]
            if all(shown):
                assert np.array_equal(wanted[i] > 0, subject)
            elif not any(shown):
                assert not wanted[i].any()
            else:
                own = left if shown[0] else ~left
                assert wanted[i][:, own].sum() > 0.9 * subject[:, own].sum()
                assert wanted[i][:, ~own].sum() < 0.1 * subject[:, ~own].sum()
    assert set(names) | {"subject", "face", "person"} <= seen


def test_a_step_sees_people_and_pairs(shelf: corpus.Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "STILLS_PER_SHARD", SHARD)
    labels = shelf.get("labels", eyes._chosen(shelf, 20, np.random.default_rng(1)))
    pairs = labels[:, corpus.LABELS.index("actors")] == 2
    people = np.isin(labels[:, 0], [tuple(CLASSES).index(kind) for kind in PEOPLE])
    assert len(labels) == 20
    assert pairs.sum() == 10
    assert (people & ~pairs).sum() == 5


def test_a_step_teaches_the_segmenter(shelf: corpus.Shelf, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "STILLS_PER_SHARD", 16)
        corpus.build_stills(tmp_path / "corpus", 0)
        trainer = eyes.segmenter_trainer(tmp_path)
        trainer.plan = replace(trainer.plan, batch=8)
        values = eyes.segmenter_loss(tmp_path, trainer)(np.random.default_rng(0), 0.0)
    assert 0 < float(values["overlap"].detach()) < 1 < float(values["loss"].detach())
    values["loss"].backward()
    for tower in (
        "decoder",
        "vision_model",
        "text_model",
        "head",
    ):  # the class itself freezes both towers
        grads = {name: p.grad for name, p in trainer.modules.named_parameters() if tower in name}
        assert any(grad is not None and grad.abs().max() > 0 for grad in grads.values()), tower


def test_the_trained_forward_is_the_networks_own() -> None:
    net = models.segmenter().eval()
    ids = torch.from_numpy(np.array(encode(["a dog", "a face"])).astype(np.int64))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        logits, patches, said = eyes.answered(net, ids, images)
        own = net(input_ids=ids, pixel_values=images)
    torch.testing.assert_close(logits, own.logits)
    torch.testing.assert_close(said, own.conditional_embeddings)
    torch.testing.assert_close(patches, own.vision_model_output.last_hidden_state[:, 1:])
