"""Films that do not show their subject: 0 alike in every table, and one column whatever the subject is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starring.metrics.leaderboard import standings
from starring.metrics.measures import Eyes
from starring.metrics.statistics import Score
from starring.metrics.suite import Judge
from starring.metrics.table import Measured, rows_of
from starring.perception.identity import IdentityEncoder
from starring.perception.transforms import as_tensor
from tests.data.pictures import RedFinder, photo
from tests.perception.tiny_identity import tiny_iresnet


class Portraits:
    """Sees a face where a frame is red, and the same one every time."""

    protocol = "portraits"

    def faces(self, frames: Tensor) -> list[Tensor]:
        one = torch.nn.functional.normalize(torch.ones(1, 4), dim=1)
        return [one if float(frame[0].mean() - frame[1].mean()) > 0.05 else one[:0] for frame in frames]


@pytest.fixture(scope="module")
def judge() -> Judge:
    encoder = IdentityEncoder(tiny_iresnet(), 32, "tiny")
    return Judge(eyes=Eyes(segmenter=RedFinder(), identity=encoder, faces=Portraits(), interpolator=None))  # pyright: ignore[reportArgumentType]


def film(judge: Judge, shown: bool, word: str = "dog") -> dict[str, Score]:
    frames = torch.stack([as_tensor(photo(i, subject=shown))[0] for i in range(3)], 1) * 2 - 1
    return judge.score(frames, f"a {word}", judge.references([photo(8), photo(9)]), class_word=word)


def test_who_is_not_seen_is_not_alike(judge: Judge) -> None:
    seen, lost = film(judge, True), film(judge, False)
    for key in ("identity", "face"):
        assert seen[key].value > 0.5
        assert lost[key].value == 0
        assert lost[key].protocol == seen[key].protocol
        assert "nobody 0" in seen[key].protocol


def test_a_method_that_loses_its_subject_is_not_spared_those_films(judge: Judge) -> None:
    seen, lost = film(judge, True), film(judge, False)
    good = {("rex", "a", seed): seen for seed in range(4)}
    bad = {("rex", "a", seed): seen if seed % 2 else lost for seed in range(4)}
    for key in ("identity", "face"):
        found = {each.method: each for each in standings({"good": good, "bad": bad}) if each.metric == key}
        assert found["bad"].mean == pytest.approx(found["good"].mean / 2)
        assert found["bad"].films == found["good"].films == 4
        rows = rows_of(Measured(run="bad", group="m", scores=list(bad.values()), floors=list(good.values())))
        row = next(row for row in rows if row.metric == key)
        assert (row.score.mean, row.score.count) == (pytest.approx(found["bad"].mean), 4)


def test_subjects_of_several_classes_share_a_column(judge: Judge) -> None:
    dog, cat = film(judge, True), film(judge, True, "cat")
    assert dog["identity"].protocol == cat["identity"].protocol
    empty = judge.references([photo(1, subject=False)])
    scores = judge.score(torch.zeros(3, 2, 8, 8), "a dog", empty, class_word="dog")
    assert not {"identity", "face"} & set(scores), "photographs that show nobody have nobody to be like"
