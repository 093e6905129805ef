"""A page of results: what is between its markers is written anew, the rest stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.evaluate.results import fill, markers, section
from starring.metrics.suite import Judge, load_judge
from tests.perception.tiny_eyes import tiny_eyes
from tests.test_evaluate import PROMPTS, finished, judged

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- RESULTS small: begin -->", "<!-- RESULTS small: end -->"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def test_a_page_is_filled_between_its_markers_and_again(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    runs = [finished(tmp_path, tiny, "rex", 0), finished(tmp_path, tiny, "tom", 1)]
    found = judged(runs, tiny, judge, seeds=(0,), suite=PROMPTS[:1], labels=["vcd", "other"], sample={"steps": 1})
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    fill(page, "small", found)
    text = page.read_text()
    assert text.startswith(f"# Mine\n\nbefore\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    standing = next(s for s in found.board.standings if (s.method, s.metric) == ("vcd", "dino_i"))
    assert f"{standing.mean:.3f} [{standing.low:.3f}, {standing.high:.3f}]" in text
    for method in ("vcd", "other", "without"):
        assert f"| {method} |" in text
    assert "motion kept" in text
    assert "Prompts: 1. Seeds: 1. Films: 4." in section(found)
    fill(page, "small", found)
    assert page.read_text() == text, "the same results are the same page"


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_a_page_without_its_markers_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(StarringError, match="each once and in this order"):
        markers(page, "small")
    with pytest.raises(StarringError, match="There is no page"):
        markers(tmp_path / "none.md", "small")


def test_the_page_that_ships_can_be_filled() -> None:
    assert markers(ROOT / "docs" / "results.md", "miniature")
