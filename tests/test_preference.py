"""Two runs side by side: films, a blind page, its key, and votes counted with it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starring.backbones.base import Backbone
from starring.data.video import read_video
from starring.errors import StarringError
from starring.evaluate.preference import Comparison, Sides, compare, count, sides_of
from starring.run import Run
from tests.test_evaluate import PROMPTS, finished


@pytest.fixture(scope="module")
def both(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """The same photographs, other words."""
    home = tmp_path_factory.mktemp("runs")
    one = finished(home / "a", tiny, "rex", 0)
    other = finished(home / "b", tiny, "rex", 0)
    other.save_weights({key: -value for key, value in other.load_weights().items()})
    other = replace(other, folder=other.folder.rename(home / "rex-other"))
    return sides_of(one.folder, other.folder)


def made(sides: Sides, backbone: Backbone, folder: Path, **more: Any) -> Comparison:
    asked: dict[str, Any] = {"suite": PROMPTS, "seeds": (0, 1, 2), "sample": {"steps": 1}, **more}
    return compare(sides, backbone=backbone, folder=folder, **asked)


@pytest.mark.slow
def test_films_are_shown_blind_and_votes_find_their_way_back(both: Sides, tiny: Backbone, tmp_path: Path) -> None:
    found = made(both, tiny, tmp_path / "c")
    key = json.loads((found.folder / "key.json").read_text())
    assert key["names"] == ["rex-vcd", "rex-other"]
    assert {pair["left"] for pair in key["pairs"]} == {0, 1}, "sides are shuffled"
    asked = [(pair["prompt"], pair["seed"]) for pair in key["pairs"]]
    assert sorted(asked) == sorted((prompt, seed) for prompt in PROMPTS for seed in (0, 1, 2))
    page = found.page.read_text()
    films = [base64.b64decode(text) for text in re.findall(r"data:video/mp4;base64,([^\"]+)", page)]
    assert len(films) == 12
    for text in (page, *(film.decode("latin-1") for film in films)):
        assert "rex-other" not in text, "nobody can see whose it is"
        assert '"method"' not in text
    _same_films(found, key, films, tmp_path)

    before = {path: path.read_bytes() for path in (found.page, found.folder / "key.json")}
    made(both, tiny, tmp_path / "c")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(StarringError, match="another comparison"):
        made(both, tiny, tmp_path / "c", seed=5)

    # Somebody who always prefers the film of the first run, wherever it is shown.
    votes = [
        {"pair": number, "question": question, "choice": "left" if pair["left"] == 0 else "right"}
        for number, pair in enumerate(key["pairs"])
        for question in ("identity", "overall")
    ]
    file = tmp_path / "votes.json"
    file.write_text(json.dumps({"format": "starring-votes", "comparison": key["comparison"], "votes": votes}))
    counted = count(found.folder, [file])
    assert [(w.question, w.won, w.lost, w.p) for w in counted.wins] == [
        ("identity", 6, 0, 2 / 64), ("overall", 6, 0, 2 / 64),
    ]  # fmt: skip
    assert json.loads(counted.results.read_text())["wins"][0]["won"] == 6


def _same_films(found: Comparison, key: dict[str, Any], films: list[bytes], scratch: Path) -> None:
    """What is beside each other is what is on the page, the first run on the left."""
    asked = [(prompt, seed) for prompt in PROMPTS for seed in (0, 1, 2)]
    assert len(found.films) == 6
    for number, pair in enumerate(key["pairs"]):
        beside = read_video(found.films[asked.index((pair["prompt"], pair["seed"]))]).pixels
        assert beside.shape == (1, 3, 4, 32, 66)
        shown = []
        for side in range(2):
            (scratch / "one.mp4").write_bytes(films[2 * number + side])
            shown.append(read_video(scratch / "one.mp4").pixels)
        first = shown[pair["left"]]
        # Compressed anew, and still nearer to the right one.
        assert (beside[..., :32] - first).abs().mean() < (beside[..., :32] - shown[1 - pair["left"]]).abs().mean()


def test_what_cannot_be_compared(both: Sides, tiny: Backbone, tmp_path: Path) -> None:
    ((one, other),) = both.runs
    with pytest.raises(StarringError, match="with itself"):
        sides_of(one.folder, one.folder)
    with pytest.raises(StarringError, match="no photograph in common"):
        sides_of(one.folder, finished(tmp_path, tiny, "tom", 1).folder)
    with pytest.raises(StarringError, match="holds no leaderboard"):
        sides_of("vcd", "bridgeiv", tmp_path)
    with pytest.raises(StarringError, match="holds no comparison"):
        count(tmp_path, [])
    longer = replace(one.record, recipe=replace(one.record.recipe, sample=replace(tiny.sample, frames=6)))
    uneven = Sides(names=both.names, runs=((Run(folder=one.folder, record=longer), other),))
    with pytest.raises(StarringError, match="32x32x6 at 8 fps by rex-vcd and as 32x32x4 at 8 fps"):
        made(uneven, tiny, tmp_path / "c", suite=PROMPTS[:1], seeds=(0,))
    assert not (tmp_path / "c" / "vote.html").exists()
