from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from monitor.demo.acts import ACTS, CYCLE, SETTLE, Trouble, act_at, starts_between, timeline
from monitor.demo.diary import Diary, ModelStatus, News, OpenAlert, Status, Turn

START = 1_000_000.0
BEGINS = {act.trouble: start for start, act in timeline() if act.trouble is not Trouble.NONE}


def alert(second: float, check: str = "psi", column: str = "brightness") -> OpenAlert:
    return OpenAlert(f"shelf-camera/{check}/{column}", check, column, START + second, f"{column} moved.")


def look(*alerts: OpenAlert) -> ModelStatus:
    return ModelStatus("shelf-camera", alerts=alerts)


def test_every_trouble_has_a_sign_and_is_followed_by_a_calm_longer_than_it_settles() -> None:
    for act, after in pairwise(ACTS):
        assert bool(act.signs) == (act.trouble is not Trouble.NONE)
        if act.trouble is not Trouble.NONE:
            assert after.trouble is Trouble.NONE
            assert after.seconds > SETTLE
    assert ACTS[0].trouble is ACTS[-1].trouble is Trouble.NONE


def test_acts_follow_one_another_and_start_anew_after_the_last() -> None:
    starts = [start for start, _ in timeline()]
    assert [act_at(start) for start in starts] == list(range(len(ACTS)))
    assert [act_at(start - 1.0) for start in starts[1:]] == list(range(len(ACTS) - 1))
    assert act_at(CYCLE + starts[2]) == 2


def test_every_act_is_announced_once_whatever_the_looks() -> None:
    starts = [start for start, _ in timeline()]
    for looks in ([10.0 * n for n in range(1, 601)], [7.0, 1200.0, 1200.0, 1210.0, 2700.0, 5999.0]):
        begun = [s for before, now in pairwise([-1.0, *looks]) for s in starts_between(before, now)]
        assert begun == starts


def test_a_sign_is_noticed_once_by_the_first_alert_that_shows_it() -> None:
    diary = Diary(START)
    first, second = alert(BEGINS[Trouble.GAIN] + 40.0), alert(BEGINS[Trouble.GAIN] + 70.0, check="ks")
    diary.read(look(first))
    diary.read(look(first, second))
    told = diary.acts(CYCLE)[1]
    assert told.well
    assert list(told.first.values()) == [first]
    assert told.began == START + BEGINS[Trouble.GAIN]


def test_an_act_of_which_nothing_told_is_not_well() -> None:
    told = Diary(START).acts(CYCLE)
    assert [act.well for act in told] == [not ACTS[act.act].signs for act in told]


def test_another_column_is_no_sign() -> None:
    diary = Diary(START)
    diary.read(look(alert(BEGINS[Trouble.MISSING] + 10.0, check="missing", column="brightness")))
    assert not diary.acts(CYCLE)[5].well


def test_an_alert_in_the_calm_is_held_against_the_daemon() -> None:
    diary = Diary(START)
    wrong = alert(600.0)
    diary.read(look(wrong))
    assert diary.acts(CYCLE)[0].unexpected == [wrong]
    assert not diary.acts(CYCLE)[0].well


@pytest.mark.parametrize(("after", "act"), [(SETTLE, 1), (SETTLE + 1.0, 2)])
def test_an_alert_soon_after_a_trouble_is_still_of_the_trouble(after: float, act: int) -> None:
    diary = Diary(START)
    diary.read(look(alert(BEGINS[Trouble.GAIN] + ACTS[1].seconds + after)))
    told = diary.acts(CYCLE)
    assert bool(told[1].first) == (act == 1)
    assert bool(told[2].unexpected) == (act == 2)


def test_the_second_round_of_the_story_is_reckoned_apart() -> None:
    diary = Diary(START)
    diary.read(look(alert(CYCLE + BEGINS[Trouble.GAIN] + 40.0)))
    told = diary.acts(2 * CYCLE)
    assert not told[1].well
    assert told[len(ACTS) + 1].well


def test_news_are_grouped_by_check() -> None:
    diary = Diary(START)
    a, b, c = alert(10.0), alert(10.0, column="contrast"), alert(10.0, check="missing", column="edge_energy")
    assert diary.read(look(a, b, c)) == [News(Turn.OPENED, (a, b)), News(Turn.OPENED, (c,))]
    assert diary.read(look(a, b, c)) == []
    d = alert(30.0, column="row_1")
    assert diary.read(look(a, b, c, d)) == [News(Turn.OPENED, (d,), first=False)]


def test_a_check_is_over_when_all_of_its_alerts_are() -> None:
    diary = Diary(START)
    a, b = alert(10.0), alert(10.0, column="contrast")
    diary.read(look(a, b))
    assert diary.read(look(b)) == []
    assert diary.read(look()) == [News(Turn.RESOLVED, (a, b))]
    assert diary.read(look(alert(900.0))) == [News(Turn.OPENED, (alert(900.0),))]


def test_a_column_that_comes_and_goes_is_told_once_but_held_against_the_calm() -> None:
    diary = Diary(START)
    steady = alert(10.0)
    diary.read(look(steady, alert(10.0, column="row_1")))
    diary.read(look(steady))
    assert diary.read(look(steady, alert(80.0, column="row_1"))) == []
    assert diary.read(look(steady, alert(200.0, column="row_1"))) == []  # resolved and opened between two looks
    assert len(diary.acts(CYCLE)[0].unexpected) == 4


def test_a_status_with_more_in_it_and_without_windows_is_read() -> None:
    body = b'{"models":[{"model":"m","window_end":null,"alerts":[],"columns":[{"name":"x"}]}],"uptime":3}'
    assert msgspec.json.decode(body, type=Status).models == (ModelStatus("m"),)
