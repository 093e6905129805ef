"""The world's pairs and the adapter that learns from them: who is in them, what they hold, and what ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from starring.backbones.base import Backbone
from starring.data.pairs import Pairs
from starring.errors import StarringError
from starring.generate import generate
from starring.miniature import adapter, build, world
from starring.miniature import pairs as world_pairs
from starring.miniature.__main__ import build as command
from starring.run import Run
from tests.pairing import cutout, pairs

COUNT = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_pairs.build(tmp_path_factory.mktemp("world") / "pairs", COUNT)


def drawn(number: int) -> tuple[world.Shot, float]:
    """The opening and the pace that a number stands for."""
    rng = np.random.default_rng([5, number])
    return world.random_shot(rng, films=True), float(rng.uniform(0.8, 1.1))


def pictures(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_pairs_are_the_world_s_without_loss(corpus: Path) -> None:
    found = Pairs.read(corpus)
    assert (len(found), found.skipped) == (COUNT, [])
    for number, pair in enumerate(found.rows):
        shot, pace = drawn(number)
        who = shot.actors[0].identity
        assert pair.entity == who.kind
        assert not world.held_out(who.seed)
        assert not world.development(who.seed)
        frames = np.stack([np.asarray(frame) for frame in pair.frames(17, 8, "film")])
        assert np.array_equal(frames, np.stack([frame.image for frame in world.film(shot, 17, pace)]))
        seen = pictures(pair.reference)
        assert seen.shape == (128, 128, 4)
        inside = seen[seen[..., 3] == 255][:, :3].astype(int)
        shades = [who.body, who.mark, who.trim, who.second, who.skin, who.hair]
        near = [np.abs(inside - np.array(shade)).sum(1).min() for shade in shades]
        assert min(near) <= 2, "the cut-out shows a shade of the very subject"


def test_captions_name_the_class_and_half_of_them_nothing_else() -> None:
    rng = np.random.default_rng(0)
    shot, _ = drawn(0)
    said = {world_pairs.plain(shot, rng) for _ in range(40)}
    who = shot.actors[0].identity
    assert len(said) > 5
    assert all(text.startswith(f"a {who.kind} ") for text in said)


def test_the_first_frame_may_be_the_reference(tmp_path: Path) -> None:
    (pair,) = Pairs.read(world_pairs.build(tmp_path, 1, "first")).rows
    shot, pace = drawn(0)
    every = world.film(shot, 18, pace)
    assert np.array_equal(np.asarray(pair.frames(17, 8, "film")[0]), every[1].image)
    expected = world.render(world.at(shot, 0.0, pace), 128)
    seen = pictures(pair.reference)
    assert np.array_equal(seen[..., :3], expected.image)
    assert np.array_equal(seen[..., 3] > 0, expected.mask)
    with pytest.raises(StarringError, match=r"frame for references 'last'.*another, first, random"):
        world_pairs.build(tmp_path, 1, "last")


def test_a_random_frame_may_be_the_reference(tmp_path: Path) -> None:
    """Of the clip's own frames, each pair another one; the clip is the whole film."""
    moments: list[int] = []
    world_pairs.build(tmp_path, 3, "random")
    for number, pair in enumerate(Pairs.read(tmp_path).rows):
        shot, pace = drawn(number)
        seen, film = pictures(pair.reference), world.film(shot, 17, pace, 128)
        (moment,) = [i for i, frame in enumerate(film) if np.array_equal(seen[..., :3], frame.image)][:1]
        assert np.array_equal(seen[..., 3] > 0, film[moment].mask)
        moments.append(moment)
        frames = pair.frames(17, 8, "film")
        assert np.array_equal(np.asarray(frames[0]), world.film(shot, 17, pace)[0].image)
    assert len(set(moments)) > 1


@pytest.mark.parametrize("references", ["another", "first", "random"])
def test_the_builder_asks_for_references(references: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(world_pairs, "build", lambda folder, **more: asked.append((folder, more["reference"])))
    command(parts=("pairs",), folder=tmp_path, references=references)  # type: ignore[arg-type]
    assert asked == [(tmp_path / "pairs", references)]


def test_building_goes_on(corpus: Path) -> None:
    before = Pairs.read(corpus).digest
    (corpus / "clips" / "000002.mkv").unlink()
    kept = (corpus / "clips" / "000001.mkv").stat().st_mtime_ns
    world_pairs.build(corpus, COUNT)
    assert Pairs.read(corpus).digest == before
    assert (corpus / "clips" / "000001.mkv").stat().st_mtime_ns == kept


def test_an_adapter_is_learned_stopped_and_shipped(dit: Backbone, tmp_path: Path) -> None:
    assert build.SECOND[-2:] == ("pairs", "adapter")
    with pytest.raises(StarringError, match=r"holds no metadata\.jsonl"):
        adapter.train(tmp_path, backbone=dit)
    pairs(tmp_path / "pairs", 2)
    assert adapter.train(tmp_path, 0.0, steps=2, backbone=dit) is None
    run = adapter.train(tmp_path, steps=2, backbone=dit)
    assert run is not None
    assert run.finished
    assert run.record.recipe.options["rank"] == 64
    shipped = Run.open(adapter.export(run, tmp_path / "weights"))
    assert shipped.folder == tmp_path / "weights" / "adapter"
    assert str(tmp_path) not in (shipped.folder / "config.json").read_text()
    assert all(value.dtype.itemsize == 2 for value in load_file(shipped.weights).values())
    assert sorted(path.name for path in shipped.folder.iterdir()) == ["config.json", "method.safetensors"]
    (film,) = generate(
        shipped, "a dog on the beach", backbone=dit, reference=cutout(tmp_path / "dog.png", 1), entity="dog",
        sample={"steps": 1}, write=False,
    )  # fmt: skip
    assert film.frames.shape == (9, 32, 32, 3)
