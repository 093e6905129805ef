"""The page stands alone, is well formed, and says everything that it was given."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from starring.metrics.report import Chapter, Pair, Picture, Report, Screen, Section, html
from starring.metrics.statistics import Estimate, Score
from starring.metrics.table import Row

VOID = {"meta", "link", "img", "path", "br"}
PNG = b"\x89PNG not really"


class Checker(HTMLParser):
    """Tags that close in order, and every attribute that names a resource."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def row(metric: str = "dino_i", name: str = "rex", subjects: int = 1, mean: float = 0.6) -> Row:
    return Row(
        name=name, subjects=subjects, metric=metric, score=Estimate(mean=mean, error=0.02, count=8),
        floor=Estimate(mean=0.4, error=0.01, count=8), ceiling=Estimate(mean=0.8, error=None, count=1),
        source="references", recovered=Estimate(mean=(mean - 0.4) / 0.4, error=0.05, count=8), protocol="dino(<x>&)",
    )  # fmt: skip


def report(**changes: object) -> Report:
    screen = Screen(
        label="VCD",
        mp4=b"film",
        poster=PNG,
        sheet=PNG,
        size=(64, 48),
        scores={"clip_t": Score(value=0.25, protocol="p")},
    )
    large = Screen(label="Without", mp4=b"film", poster=PNG, sheet=PNG, size=(512, 512), scores={})
    pair = Pair(prompt="a <*> dog <b>bold</b>", seed=7, custom=screen, plain=large)
    values: dict[str, object] = {
        "title": "VCD on <rex>", "lead": "One & only.", "rows": [row(), row("motion")],
        "chapters": [Chapter(name="rex-vcd", about="About.", references=[Picture(png=PNG, pixels=True)], pairs=[pair])],
        "sections": [Section(title="Masks", text="First.\n\nSecond.", pictures=[Picture(png=PNG, caption="mask 'x'")])],
        "notes": ["Read <this>."], "facts": {"rex": "vcd on miniature"},
    }  # fmt: skip
    return Report(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_stands_alone() -> None:
    page = html(report())
    checker = parsed(page)
    assert all(link.startswith("data:") for link in checker.links)
    assert not re.search(r"https?://|@import|url\(", page)
    assert len(set(checker.ids)) == len(checker.ids)
    assert {"theme", "large"} <= set(checker.ids)


def test_films_and_pictures_are_inside() -> None:
    page = html(report())
    assert page.count(f'src="data:video/mp4;base64,{base64.b64encode(b"film").decode()}"') == 2
    assert page.count(base64.b64encode(PNG).decode()) == 6
    small, large = re.findall(r"<video class=\"film([^\"]*)\"", page)
    assert (small, large) == (" pixels", "")
    assert "image-rendering: pixelated" in page


def test_text_is_escaped_and_the_placeholder_marked() -> None:
    page = html(report())
    assert "<b>bold</b>" not in page
    assert "VCD on &lt;rex&gt;" in page
    assert "a <mark>&lt;*&gt;</mark> dog" in page
    texts = " ".join(parsed(page).texts)
    for said in ("One & only.", "First.", "Second.", "Read <this>.", "dino(<x>&)", "vcd on miniature", "seed 7"):
        assert said in texts


def test_numbers_come_with_their_errors() -> None:
    page = html(report())
    assert '0.600 <span class="error">± 0.020</span>' in page
    assert "50 % ± 5" in page
    assert "50 %<small>" not in page
    assert 'style="width:50.0%"' in page


@pytest.mark.parametrize("mean", [0.1, 0.95])
def test_bars_stay_on_their_track(mean: float) -> None:
    page = html(report(rows=[row(mean=mean)]))
    places = [float(value) for value in re.findall(r"(?:left|width):([\d.-]+)%", page)]
    assert places
    assert all(0 <= place <= 100 for place in places)


def test_several_runs_get_a_column_of_names_once_each() -> None:
    rows = [row(name="vcd", subjects=2), row("motion", name="vcd", subjects=2), row(name="rex"), row(name="tom")]
    page = html(report(rows=rows))
    assert page.count("vcd (2 subjects)</td>") == 1
    assert "over 8 subjects in the first rows" in page


def test_a_page_without_numbers_or_films() -> None:
    checker = parsed(html(report(rows=[], chapters=[], sections=[], notes=[], facts={})))
    assert "How it was measured" in checker.texts
