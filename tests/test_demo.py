"""The demonstration, on tiny models: everything it promises is made, once, and gone on with after a stop."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.footage import digest
from starring.data.subject import Subject
from starring.data.video import read_comment, read_video
from starring.demo import PHOTOGRAPHS, SHARES, TITLES, Demonstration, Progress, bundled_subject, demo
from starring.errors import Interrupted, StarringError
from starring.methods import recipe
from starring.metrics.suite import load_judge
from starring.perception.segment import load_segmenter
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_eyes

PROMPTS = ["a <*> dog running", "a <*> dog in the snow"]


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_eyes(tmp_path_factory.mktemp("eyes"))


def small() -> Recipe:
    """The miniature's recipe, made for three steps and 32 pixels."""
    chosen = recipe("vcd-miniature")
    stages = tuple(replace(stage, train=replace(stage.train, steps=3, batch=1)) for stage in chosen.stages)
    return replace(chosen, stages=stages, data=replace(chosen.data, size=32, variants=4))


def play(folder: Path, home: Path, tiny: Backbone, eyes: Path, tell: Any = None, **more: Any) -> Demonstration:
    photographs = folder / "rex"
    subject = Subject.from_folder(photographs if photographs.is_dir() else album(photographs, 4), "dog")
    segmenter = cast("Any", load_segmenter(str(eyes / "segmenter")))
    chosen: dict[str, Any] = {"recipe": small(), "prompts": PROMPTS, **more}
    return demo(
        home,
        subject=subject,
        backbone=tiny,
        segmenter=segmenter,
        judge=load_judge(str(eyes)),
        on_progress=tell,
        **chosen,
    )


@pytest.mark.slow
def test_everything_is_made_and_told(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    told: list[Progress] = []
    done = play(tmp_path, tmp_path / "demo", tiny, eyes, told.append)
    home = tmp_path / "demo"
    assert done.evaluation.report == home / "report.html"
    page = done.evaluation.report.read_text()
    assert "data:video/mp4;base64," in page
    assert "What was learned from" in page
    assert "While it learned" in page
    (before_after,) = (home / "refined").glob("*.png")
    assert base64.b64encode(before_after.read_bytes()).decode() in page
    (larger,) = (home / "refined").glob("*.mp4")
    first = done.evaluation.shots[0]
    assert first.customized
    assert read_video(larger).pixels.shape[-2:] == (64, 64)
    assert read_comment(larger)["refined"]["film"]["sha256"] == digest(first.film)
    assert len(list((home / "films").glob("*.mp4"))) == 2 * len(PROMPTS)
    assert done.run.folder == home / "rex-vcd"
    with Image.open(done.poster) as poster:
        assert poster.width > 8 * 128
        assert poster.height > (2 + len(PROMPTS)) * 128
    shares = [progress.share for progress in told]
    assert shares == sorted(shares), [(p.part, p.done, p.total) for p in told]
    assert shares[-1] == pytest.approx(1)
    pictures = [progress.picture for progress in told if progress.picture is not None]
    assert pictures[0].name == "photographs.png"
    assert pictures[-1] == done.poster
    assert all(picture.is_file() for picture in pictures)


@pytest.mark.slow
def test_a_second_call_makes_nothing_twice(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    first = play(tmp_path, tmp_path / "demo", tiny, eyes)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.mp4")}
    again = play(tmp_path, tmp_path / "demo", tiny, eyes)
    assert again.run.folder == first.run.folder
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.mp4")} == files


@pytest.mark.slow
def test_an_interrupted_one_is_gone_on_with(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.part == "film" and progress.done > 300:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        play(tmp_path, tmp_path / "demo", tiny, eyes, stop)
    kept = sorted((tmp_path / "demo" / "films").glob("*.mp4"))
    assert 0 < len(kept) < 2 * len(PROMPTS)
    play(tmp_path, tmp_path / "demo", tiny, eyes)
    assert len(list((tmp_path / "demo" / "films").glob("*.mp4"))) == 2 * len(PROMPTS)


@pytest.mark.slow
def test_it_is_stopped_while_a_film_is_enlarged(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.part == "refine" and progress.done > 300:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="enlarged"):
        play(tmp_path, tmp_path / "demo", tiny, eyes, stop, prompts=PROMPTS[:1])
    assert not list((tmp_path / "demo" / "refined").glob("*"))
    done = play(tmp_path, tmp_path / "demo", tiny, eyes, prompts=PROMPTS[:1])
    assert "Made larger" in done.evaluation.report.read_text()


@pytest.mark.slow
def test_another_demonstration_in_the_same_folder_is_refused(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    play(tmp_path, tmp_path / "demo", tiny, eyes, prompts=PROMPTS[:1])
    other = replace(small(), options={"vectors": 2})
    with pytest.raises(StarringError, match="choose another folder"):
        play(tmp_path, tmp_path / "demo", tiny, eyes, recipe=other)


def test_parts_make_a_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(TITLES) == set(SHARES)
    assert Progress(part="refine", done=1, total=1).share == pytest.approx(1)
    assert Progress(part="check", done=0, total=3).share == 0


def test_the_bundled_photographs_can_be_learned_from() -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("the demonstration's photographs have not been made yet")
    subject = bundled_subject()
    assert 3 <= len(subject) <= 10
    assert subject.class_word
    assert not subject.skipped
    assert json.loads((PHOTOGRAPHS / "subject.json").read_text())["name"] == subject.name
