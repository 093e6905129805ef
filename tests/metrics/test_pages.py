"""The pages in a browser: no complaint on the console, and scripts that have done their work."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from starring.backbones.base import Backbone
from starring.data.video import write_video
from starring.metrics.ballot import Duel, ballot_page
from starring.metrics.report import Chapter, Pair, Picture, Screen, html
from starring.metrics.suite import load_judge
from tests.browser import chromium, opened
from tests.metrics.test_report import report
from tests.perception.tiny_eyes import tiny_eyes
from tests.test_evaluate import PROMPTS, finished, judged


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pixels = torch.rand(3, 4, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", pixels).read_bytes()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_the_report_opens_without_a_complaint(film: bytes, tmp_path: Path) -> None:
    png = picture()
    screen = Screen(label="VCD", mp4=film, poster=png, sheet=png, size=(64, 64), scores={})
    pair = Pair(prompt="a <*> dog", seed=1, custom=screen, plain=screen)
    chapter = Chapter(name="rex", about="About.", references=[Picture(png=png)], pairs=[pair])
    page = tmp_path / "report.html"
    page.write_text(html(report(chapters=[chapter], sections=[])), encoding="utf-8")
    dom, said = opened(page, tmp_path)
    assert said == []
    assert '<button id="theme" type="button">' in dom, "the script has shown the switch between light and dark"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No '.*' was found")
def test_a_leaderboards_own_report_opens_without_a_complaint(tmp_path: Path, tiny: Backbone) -> None:
    """As `evaluate` writes it: films that were made, encoded and scored, contact sheets, tables of two methods."""
    chromium()
    runs = [finished(tmp_path, tiny, "rex", 0), finished(tmp_path, tiny, "tom", 1)]
    judge = load_judge(str(tiny_eyes(tmp_path / "eyes")))
    asked = {"seeds": (0,), "suite": PROMPTS[:1], "labels": ["vcd", "other"], "sample": {"steps": 1}}
    found = judged(runs, tiny, judge, **asked)
    dom, said = opened(found.report, tmp_path)
    assert said == []
    assert '<button id="theme" type="button">' in dom
    assert dom.count("<video") == len(found.shots)
    assert "Methods side by side" in dom
    assert all(row.protocol.replace("&", "&amp;") in dom for row in found.rows)


@pytest.mark.slow
def test_the_ballot_opens_without_a_complaint(film: bytes, tmp_path: Path) -> None:
    duel = Duel(said="a dog", references=[Picture(png=picture())], left=film, right=film, size=(64, 64))
    page = tmp_path / "vote.html"
    page.write_text(ballot_page("c", [duel, duel]), encoding="utf-8")
    dom, said = opened(page, tmp_path)
    assert said == []
    assert "0 of 8 answered" in dom
    assert '<section class="round" data-pair="0">' in dom, "the first pair is shown"
    assert '<section class="round" data-pair="1" hidden="">' in dom


@pytest.mark.slow
def test_a_script_that_breaks_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><title>x</title><script>nobody.knows();</script>", encoding="utf-8")
    _, said = opened(page, tmp_path)
    assert any("nobody is not defined" in line for line in said)
