from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detectors.encode import decode, encode
from detectors.failing import Failing, Search, Value

Rows = list[dict[str, Value]]


def batches(
    rng: np.random.Generator, days: int, bad: float, n: int = 120
) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
    """Labelled rows of a day, drawn by doubt: of young ones in the north the share `bad` is wrong, else 10 %."""
    for _ in range(days):
        ages, regions = rng.uniform(18, 80, n), rng.choice(["north", "south"], n)
        visits, cities = rng.integers(0, 9, n), rng.choice(8, n)
        rows: Rows = [
            {"age": float(ages[i]), "region": str(regions[i]), "visits": int(visits[i]), "city": str(cities[i])}
            for i in range(n)
        ]
        young = (ages < 38) & (regions == "north")
        wrong = rng.random(n) < np.where(young, bad, 0.1)
        doubt = rng.uniform(0.2, 3.0, n) * np.where(wrong, 1.5, 1.0)
        yield rows, wrong.astype(float), 1 / np.minimum(1.0, doubt * 0.1)


def searched(seed: int, days: int, bad: float) -> list[Failing]:
    search = Search()
    for batch in batches(np.random.default_rng(seed), days, bad):
        search = search.after(*batch)
    return search.found()


def test_a_planted_slice_of_two_conditions_is_found_and_nothing_else() -> None:
    found = searched(1, 12, 0.6)
    assert len(found) == 1
    assert found[0].conditions[1] == "region = 'north'"
    assert found[0].conditions[0].startswith("age <= ")
    assert found[0].error > 2 * found[0].others


def test_slices_that_fail_as_all_do_are_named_once_in_twenty_searches_at_most() -> None:
    """Looked at every day. Of 30 searches 1.5 may name one; 6 would be over three standard deviations more."""
    named = 0
    for seed in range(30):
        search, any_day = Search(), False
        for batch in batches(np.random.default_rng(seed), 10, 0.1):
            search = search.after(*batch)
            any_day |= bool(search.found())
        named += any_day
    assert named <= 5


def test_a_model_that_falls_everywhere_makes_no_slice_fail() -> None:
    search = Search()
    rng = np.random.default_rng(3)
    for day, (rows, wrong, weights) in enumerate(batches(rng, 20, 0.1)):
        everywhere = np.maximum(wrong, rng.random(len(wrong)) < (0.5 if day >= 10 else 0.0))
        search = search.after(rows, everywhere, weights)
    assert search.found() == []


def test_losses_are_searched_as_well() -> None:
    rng = np.random.default_rng(4)
    search = Search()
    for _ in range(10):
        rows: Rows = [{"line": str(line)} for line in rng.choice(["a", "b", "c"], 100)]
        loss = np.array([rng.gamma(2.0, 9.0 if row["line"] == "b" else 3.0) for row in rows])
        search = search.after(rows, loss, np.ones(100))
    assert [one.conditions for one in search.found()] == [("line = 'b'",)]


def test_few_rows_and_odd_ones_say_nothing() -> None:
    assert not Search().after([{"a": 1}] * 20, np.ones(20), np.ones(20)).conditions
    odd: Rows = [{}, {"a": None}, {"a": float("nan")}, {"a": "x" * 50}] * 50
    search = Search().after(odd, np.zeros(200), np.ones(200)).after([], np.zeros(0), np.zeros(0))
    assert search.found() == []


def test_a_search_goes_on_after_a_checkpoint() -> None:
    whole = broken = Search()
    for batch in batches(np.random.default_rng(5), 6, 0.5):
        whole, broken = whole.after(*batch), decode(encode(broken), Search).after(*batch)
    assert encode(whole) == encode(broken)
