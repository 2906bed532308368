from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from monitor.demo.acts import ACTS, LENGTH, NEW, SETTLE, act_at, starts, starts_between
from monitor.demo.diary import Diary, ModelStatus, News, OpenAlert, Status, Turn

START = 1_000_000.0
BEGINS = list(starts())
GAIN = next(i for i, act in enumerate(ACTS) if act.scene.gain)
MISSING = next(i for i, act in enumerate(ACTS) if act.scene.lost)


def alert(second: float, check: str = "psi", column: str = "brightness") -> OpenAlert:
    return OpenAlert(f"shelf-camera/{check}/{column}", check, column, START + second, f"{column} moved.")


def look(*alerts: OpenAlert) -> ModelStatus:
    return ModelStatus("shelf-camera", alerts=alerts)


def test_every_trouble_is_followed_by_a_calm_longer_than_it_settles() -> None:
    for act, after in pairwise(ACTS):
        if not act.calm:
            assert after.calm
            assert after.seconds > SETTLE
    assert ACTS[0].calm
    assert ACTS[-1].calm
    assert all(act.calm for act in ACTS if act.scene == ACTS[0].scene)


def test_what_is_new_on_the_shelf_stays() -> None:
    assert [act.scene.new for act in ACTS] == [i >= NEW for i in range(len(ACTS))]


def test_acts_follow_one_another() -> None:
    assert [act_at(start) for start in BEGINS] == list(range(len(ACTS)))
    assert [act_at(start - 1.0) for start in BEGINS[1:]] == list(range(len(ACTS) - 1))


def test_every_act_is_announced_once_whatever_the_looks() -> None:
    for looks in ([10.0 * n for n in range(1, 701)], [7.0, 600.0, 600.0, 610.0, 2700.0, 6299.0]):
        begun = [s for before, now in pairwise([-1.0, *looks]) for s in starts_between(before, now)]
        assert begun == BEGINS


def test_a_sign_is_noticed_once_by_the_first_alert_that_shows_it() -> None:
    diary = Diary(START)
    first, second = alert(BEGINS[GAIN] + 40.0), alert(BEGINS[GAIN] + 70.0, check="ks")
    diary.read(look(first))
    diary.read(look(first, second))
    told = diary.acts(LENGTH)[1]
    assert told.well
    assert list(told.first.values()) == [first]
    assert told.began == START + BEGINS[GAIN]


def test_an_act_of_which_nothing_told_is_not_well() -> None:
    told = Diary(START).acts(LENGTH)
    assert [act.well for act in told] == [not ACTS[act.act].signs for act in told]


def test_another_column_is_no_sign() -> None:
    diary = Diary(START)
    diary.read(look(alert(BEGINS[MISSING] + 10.0, check="missing", column="brightness")))
    assert not diary.acts(LENGTH)[MISSING].well


def test_an_alert_in_the_calm_is_held_against_the_daemon() -> None:
    diary = Diary(START)
    wrong = alert(300.0)
    diary.read(look(wrong))
    assert diary.acts(LENGTH)[0].unexpected == [wrong]
    assert not diary.acts(LENGTH)[0].well


@pytest.mark.parametrize(("after", "act"), [(SETTLE, 1), (SETTLE + 1.0, 2)])
def test_an_alert_soon_after_a_trouble_is_still_of_the_trouble(after: float, act: int) -> None:
    diary = Diary(START)
    diary.read(look(alert(BEGINS[GAIN] + ACTS[1].seconds + after)))
    told = diary.acts(LENGTH)
    assert bool(told[1].first) == (act == 1)
    assert bool(told[2].unexpected) == (act == 2)


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
    assert len(diary.acts(LENGTH)[0].unexpected) == 4


def test_a_status_with_more_in_it_and_without_windows_is_read() -> None:
    body = b'{"models":[{"model":"m","window_end":null,"alerts":[],"columns":[{"name":"x"}]}],"uptime":3}'
    assert msgspec.json.decode(body, type=Status).models == (ModelStatus("m"),)
