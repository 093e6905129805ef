"""Tables: what is averaged over what, and what refuses to stand together."""

from __future__ import annotations

import numpy as np
import pytest

from starring.errors import StarringError
from starring.metrics.catalogue import METRICS, short
from starring.metrics.statistics import Estimate, Score
from starring.metrics.table import Ceiling, Measured, all_rows, as_table, comparable, named, plus_minus, rows_of

KEYS = ("dino_i", "clip_t", "motion")


def measured(
    run: str, group: str = "vcd", level: float = 0.6, protocol: str = "p", ceiling: float | None = 0.9
) -> Measured:
    def scores(base: float) -> list[dict[str, Score]]:
        return [{key: Score(value=base + 0.01 * i, protocol=protocol) for key in KEYS} for i in range(4)]

    top = {
        "dino_i": Ceiling(estimate=Estimate(mean=ceiling, error=0.01, count=5), protocol=protocol, source="references")
    }
    ceilings = top if ceiling is not None else {}
    return Measured(run=run, group=group, scores=scores(level), floors=scores(0.4), ceilings=ceilings)


def test_a_runs_rows() -> None:
    dino, text, motion = rows_of(measured("rex"))
    assert [row.metric for row in (dino, text, motion)] == list(KEYS)
    assert dino.score.mean == pytest.approx(0.615)
    assert dino.score.error == pytest.approx(np.std([0, 0.01, 0.02, 0.03], ddof=1) / 2)
    assert dino.recovered is not None
    assert dino.recovered.mean == pytest.approx((0.615 - 0.415) / (0.9 - 0.415))
    assert (text.ceiling, text.recovered, text.source) == (None, None, "")


def test_what_is_only_descriptive_is_never_recovered() -> None:
    one = measured("rex")
    ceiling = Ceiling(estimate=Estimate(mean=0.9, error=None, count=1), protocol="p", source="renders")
    with_all = Measured(
        run="rex", group="vcd", scores=one.scores, floors=one.floors, ceilings=dict.fromkeys(KEYS, ceiling)
    )
    rows = {row.metric: row for row in rows_of(with_all)}
    assert rows["clip_t"].recovered is not None
    assert rows["motion"].ceiling is not None
    assert rows["motion"].recovered is None


def test_a_group_averages_subjects_and_not_films() -> None:
    rows = all_rows([measured("rex", level=0.6), measured("tom", level=0.7)])
    group = next(row for row in rows if row.metric == "dino_i")
    assert (group.name, group.subjects, group.score.count) == ("vcd", 2, 2)
    assert group.score.mean == pytest.approx((0.615 + 0.715) / 2)
    assert group.score.error == pytest.approx(0.05)
    assert group.recovered is not None
    assert group.recovered.mean == pytest.approx(np.mean([(x - 0.415) / (0.9 - 0.415) for x in (0.615, 0.715)]))
    assert [named(row) for row in rows if row.metric == "dino_i"] == ["vcd (2 subjects)", "rex", "tom"]


@pytest.mark.parametrize(("other", "told"), [(0.35, True), (0.2, False)])
def test_a_few_runs_do_not_speak_for_a_group_whose_ceiling_is_below_its_floor(other: float, told: bool) -> None:
    rows = all_rows([measured("rex", ceiling=0.5), measured("tom", ceiling=other)])
    group, rex, tom = (row for row in rows if row.metric == "dino_i")
    assert rex.recovered is not None
    assert tom.recovered is None
    assert (group.recovered is not None) == told


def test_groups_stay_apart_and_a_single_run_is_no_group() -> None:
    rows = all_rows([measured("rex"), measured("tom"), measured("ada", group="other")])
    assert [row.name for row in rows if row.metric == "dino_i"] == ["vcd", "rex", "tom", "ada"]


def test_different_protocols_refuse_one_table() -> None:
    with pytest.raises(StarringError, match="different protocols"):
        all_rows([measured("rex", protocol="a"), measured("tom", protocol="b", group="other")])


def test_what_differs_in_protocol_is_left_out_and_told() -> None:
    one, other = measured("rex"), measured("tom")
    faster = [{**film, "motion": Score(value=1.0, protocol="16 fps")} for film in other.scores]
    mixed = Measured(run="tom", group="vcd", scores=faster, floors=other.floors, ceilings=other.ceilings)
    kept, notes = comparable([one, mixed])
    assert {row.metric for row in all_rows(kept)} == {"dino_i", "clip_t"}
    assert len(notes) == 1
    assert all(word in notes[0] for word in ("Motion is left out", "16 fps | p", "same frames"))
    same, silent = comparable([one, other])
    assert (same, silent) == ([one, other], [])


def test_a_film_without_a_number_leaves_with_its_partner() -> None:
    one = measured("rex")
    floors = [{k: v for k, v in film.items() if i or k != "clip_t"} for i, film in enumerate(one.floors)]
    rows = rows_of(Measured(run="rex", group="vcd", scores=one.scores, floors=floors, ceilings=one.ceilings))
    assert {row.metric: row.score.count for row in rows} == {"dino_i": 4, "clip_t": 3, "motion": 4}
    assert {row.metric: row.score.mean for row in rows}["clip_t"] == pytest.approx(0.62)


def test_unpaired_films_are_refused() -> None:
    one = measured("rex")
    with pytest.raises(StarringError, match="pair up"):
        rows_of(Measured(run="rex", group="vcd", scores=one.scores, floors=one.floors[:2], ceilings=one.ceilings))


def test_text_cells() -> None:
    table = as_table(rows_of(measured("rex")), "VCD on rex", ["A note."])
    assert table.columns == ("score", "customized", "floor", "ceiling", "recovered", "protocol")
    assert table.rows[0] == ("DINO-I", "0.615 ± 0.006", "0.415 ± 0.006", "0.900 ± 0.010", "41 % ± 1", short("p"))
    assert table.rows[1][3:5] == ("–", "–")
    assert table.notes == ("A note.",)
    several = as_table(all_rows([measured("rex"), measured("tom")]), "VCD")
    assert several.columns[0] == "run"
    assert {len(row) for row in several.rows} == {7}


def test_single_measurements_show_no_error() -> None:
    assert plus_minus(Estimate(mean=0.5, error=None, count=1), 3) == "0.500"
    assert plus_minus(None, 3) == "–"


def test_every_metric_says_what_it_means() -> None:
    assert all(metric.meaning.endswith(".") and metric.title and metric.key == key for key, metric in METRICS.items())
