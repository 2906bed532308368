from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.core import Batch, Kind, Wrong, category, from_columns, number, text, vector
from detectors.encode import Undecodable
from detectors.profile import CELLS, HUGE, UNSEEN, Layout, Profile, cut_edges, lay_out, merged

SIZE = 8  # of the samples, small so that it fills

REFERENCE = from_columns({
    "x": number(np.random.default_rng(0).normal(size=500)),
    "flag": number([0.0, 1.0] * 250, kind=Kind.FLAG),
    "never": number([np.nan] * 500),
    "word": category(["a", "b", "c", "a", None] * 100),
    "other": category(["u"] * 500),
    "note": text(["hello"] * 500),
    "point": vector(np.ones((500, 2))),
})  # fmt: skip
LAYOUT = lay_out(REFERENCE)

numbers = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-300, 5e-324, 1e149, 1e151, -1e308, 1e308]),
    st.floats(-4, 4),
    st.floats(-1e6, 1e6),
)
words = st.sampled_from([None, "a", "b", "c", "new", "neu", "nouveau"])
arrived = st.one_of(st.just(0), st.sampled_from(Wrong))
rows = st.lists(st.tuples(st.integers(0, 20), numbers, words, st.sampled_from([None, "t"]), arrived), max_size=25)


def batch(rows: Sequence[tuple[int, float, str | None, str | None, int]]) -> Batch:
    """Rows of all kinds. Ids come again, as they do when a producer sends twice; the same id is the same row."""
    of = {row[0]: row for row in rows}
    rows = [of[row[0]] for row in rows]
    wrong = np.array([row[4] for row in rows], np.uint8)
    values = np.array([row[1] for row in rows], np.float64)
    columns = {
        "x": number(np.where(wrong > 0, np.nan, values), wrong),
        "flag": number([float(row[0] % 2) for row in rows], kind=Kind.FLAG),
        "never": number([row[1] if row[0] % 3 else math.nan for row in rows]),
        "word": category([row[2] for row in rows]),
        "note": text([None if row[4] else row[3] for row in rows], wrong),
        "point": vector(np.repeat(values[:, None], 2, axis=1)),
    }
    return from_columns(columns, [float(row[0]) for row in rows], [str(row[0]) for row in rows])


def counted(*parts: Batch, layout: Layout = LAYOUT) -> Profile:
    profile = Profile(layout, SIZE)
    for part in parts:
        profile.update(part)
    return profile


def counts(profile: Profile) -> dict[str, Any]:
    """Everything that is the same in whatever order rows and merges come. NaN as text, so that it equals itself."""
    keys, times, numbers, codes = profile.sample
    return {
        "rows": (profile.rows, profile.first, profile.last),
        "cells": profile.cells.tolist(),
        "missing": profile.missing.tolist(),
        "arrived": profile.arrived.tolist(),
        "extremes": (repr(profile.low.tolist()), repr(profile.high.tolist())),
        "tails": [part.tolist() for part in profile.tails],
        "words": profile.words.tolist(),
        "unseen": (profile.unseen.tolist(), profile.unseen_words),
        "copies": profile.copies.tolist(),
        "sample": (keys.tolist(), times.tolist(), repr(numbers.tolist()), codes.tolist()),
    }


def moments(profile: Profile) -> list[float]:
    """Mean and deviation of the columns, which depend on order by rounding only."""
    return [*profile.mean.tolist(), *np.sqrt(profile.variance).tolist()]


def cut(whole: Batch, places: Sequence[int]) -> list[Batch]:
    edges = [0, *sorted(places), len(whole)]
    return [whole.take(slice(a, b)) for a, b in pairwise(edges)]


def close(profile: Profile, other: Profile) -> bool:
    scale = max(1.0, np.nanmax(np.abs([profile.low, profile.high]), initial=0.0))
    return moments(profile) == pytest.approx(moments(other), rel=1e-9, abs=1e-9 * scale, nan_ok=True)


@given(rows=rows, places=st.lists(st.integers(0, 40), max_size=6), shuffle=st.randoms(use_true_random=False))
def test_any_split_merged_in_any_order_is_the_profile_of_the_whole(
    rows: list[Any], places: list[int], shuffle: Any
) -> None:
    whole = batch(rows)
    parts = [counted(part) for part in cut(whole, places)]
    shuffle.shuffle(parts)
    one_by_one = Profile(LAYOUT, SIZE)
    for part in parts:
        one_by_one.merge(part)
    at_once = merged(LAYOUT, parts, SIZE)
    expected = counted(whole)
    for found in (one_by_one, at_once):
        assert counts(found) == counts(expected)
        assert close(found, expected)


@given(rows=rows, places=st.lists(st.integers(0, 40), max_size=6), shuffle=st.randoms(use_true_random=False))
def test_rows_in_any_order_and_any_batches_give_the_same_profile(
    rows: list[Any], places: list[int], shuffle: Any
) -> None:
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    whole = batch(rows)
    found, expected = counted(*cut(whole.take(np.array(order, int)), places)), counted(whole)
    assert counts(found) == counts(expected)
    assert close(found, expected)


@given(rows=rows)
def test_merging_with_an_empty_profile_changes_nothing(rows: list[Any]) -> None:
    expected, right, left = (counted(batch(rows)) for _ in range(3))
    right.merge(Profile(LAYOUT, SIZE))
    empty = Profile(LAYOUT, SIZE)
    empty.merge(left)
    for found in (right, empty):
        assert counts(found) == counts(expected)
        assert repr(moments(found)) == repr(moments(expected))


@given(rows=rows)
def test_decoding_gives_the_encoded_profile_back(rows: list[Any]) -> None:
    expected = counted(batch(rows))
    found = Profile.decode(LAYOUT, expected.encode())
    assert counts(found) == counts(expected)
    assert repr(moments(found)) == repr(moments(expected))
    assert found.encode() == expected.encode()
    found.update(batch(rows))
    expected.update(batch(rows))
    assert counts(found) == counts(expected)


@given(rows=rows)
def test_a_profile_merged_with_itself_keeps_its_sample(rows: list[Any]) -> None:
    once, twice = counted(batch(rows)), counted(batch(rows))
    twice.merge(once)
    assert counts(twice)["sample"] == counts(once)["sample"]
    assert twice.rows == 2 * once.rows


@given(rows=rows)
def test_every_row_is_in_one_cell_or_missing(rows: list[Any]) -> None:
    profile = counted(batch(rows))
    for i, name in enumerate(LAYOUT.numbers):
        assert profile.cells[i].sum() + profile.missing[LAYOUT.index[name]] == len(rows)
    for c, name in enumerate(LAYOUT.categories):
        known, missing = profile.word_counts(name).sum(), profile.missing[LAYOUT.index[name]]
        assert known + profile.unseen[c] + missing == len(rows)
        assert sum(profile.unseen_words[c].values()) == profile.unseen[c]


@given(rows=rows)
def test_moments_and_extremes_are_numpys(rows: list[Any]) -> None:
    held = batch(rows)
    profile = counted(held)
    values = held["x"].values
    seen = values[np.abs(values) <= HUGE]
    x = LAYOUT.numbers.index("x")
    assert profile.counts[x] == seen.size
    if seen.size:
        assert (profile.low[x], profile.high[x]) == (seen.min(), seen.max())
        assert profile.mean[x] == pytest.approx(seen.mean(), rel=1e-9, abs=1e-9 * np.abs(seen).max())
    if seen.size > 1:
        deviation = np.sqrt(profile.variance[x])
        assert deviation == pytest.approx(seen.std(ddof=1), rel=1e-9, abs=1e-9 * np.abs(seen).max())
    assert math.isnan(profile.mean[x]) == (seen.size == 0)


def test_values_without_size_are_missing_and_wrong() -> None:
    profile = counted(from_columns({"x": number([1.0, np.inf, -np.inf, 1e200, np.nan])}))
    x = LAYOUT.index["x"]
    assert (profile.missing[x], profile.wrong[x], profile.arrived[x, Wrong.BOUNDS - 1]) == (4, 3, 3)
    assert profile.mean[LAYOUT.numbers.index("x")] == 1.0


def test_a_column_of_another_kind_is_missing_and_wrong_and_an_absent_one_only_missing() -> None:
    profile = counted(from_columns({"x": category(["1", None]), "word": number([1.0, 2.0])}))
    at = [LAYOUT.index[name] for name in ("x", "word", "other")]
    assert profile.missing[at].tolist() == [2, 2, 2]
    assert profile.wrong[at].tolist() == [1, 2, 0]
    assert profile.arrived[at[0], Wrong.TEXT - 1] == 1
    assert profile.arrived[at[1], Wrong.NUMBER - 1] == 2


def test_profiles_on_different_layouts_do_not_merge() -> None:
    other = lay_out(from_columns({"x": number([1.0, 2.0])}))
    with pytest.raises(ValueError, match="different layouts"):
        Profile(LAYOUT).merge(counted(from_columns({"x": number([1.0])}), layout=other))
    with pytest.raises(ValueError, match="different layouts"):
        merged(LAYOUT, [counted(from_columns({"x": number([1.0])}), layout=other)])
    with pytest.raises(Undecodable, match="on layout"):
        Profile.decode(LAYOUT, Profile(other).encode())


def test_the_sample_is_the_rows_of_lowest_key() -> None:
    held = batch([(i, float(i), "a", None, False) for i in range(200)])
    lowest = np.sort(held.keys)[:SIZE]
    assert counted(held).sample.keys.tolist() == lowest.tolist()
    assert Profile(LAYOUT, 0).sample.keys.size == 0


def test_a_profile_without_sample_counts_all_the_same() -> None:
    profile = Profile(LAYOUT, 0)
    profile.update(batch([(1, 2.0, "a", None, False)]))
    assert (profile.rows, profile.sample.keys.size) == (1, 0)


# -- words that the reference lacks


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False))
def test_of_too_many_unseen_words_those_kept_are_the_same_in_any_order_and_counted_exactly(
    seed: int, order: Any
) -> None:
    rng = np.random.default_rng(seed)
    drawn = [f"w{i}" for i in rng.zipf(1.3, 3000) % 2000]
    parts = [counted(from_columns({"word": category(drawn[i : i + 250])})) for i in range(0, 3000, 250)]
    order.shuffle(parts)
    held = merged(LAYOUT, parts).unseen_words[LAYOUT.categories.index("word")]
    assert held == counted(from_columns({"word": category(drawn)})).unseen_words[LAYOUT.categories.index("word")]
    assert len(held) == UNSEEN
    truth = Counter(drawn)
    assert held == {word: truth[word] for word in held}


# -- cells and quantiles

LAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray[Any, Any]]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "heavy": lambda rng, n: rng.standard_cauchy(size=n),
    "lognormal": lambda rng, n: rng.lognormal(0, 3, size=n),
    "counts": lambda rng, n: rng.poisson(3, size=n).astype(float),
    "two values": lambda rng, n: rng.integers(0, 2, size=n).astype(float),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
    "constant": lambda _rng, n: np.full(n, 5.2),
}


def one_column(values: np.ndarray[Any, Any], layout: Layout) -> Profile:
    profile = Profile(layout)
    profile.update(from_columns({"x": number(values)}))
    return profile


@given(
    law=st.sampled_from(sorted(LAWS)),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([0.0, 0.1, 3.0, -1e4, 1e9]),
    scale=st.sampled_from([1.0, 1.01, -1.0, 1e-3, 1e6]),
    q=st.floats(0, 1),
)
def test_a_quantile_is_within_its_cell_and_within_three_percent_outside_the_reference(
    law: str, seed: int, shift: float, scale: float, q: float
) -> None:
    rng = np.random.default_rng(seed)
    layout = lay_out(from_columns({"x": number(LAWS[law](rng, 2000))}))
    values = LAWS[law](rng, 500) * scale + shift
    profile = one_column(values, layout)
    found = profile.quantile("x", q)
    # the exact quantile lies between two neighbours in rank, one cell or bucket apart at most
    low, high = (float(np.quantile(values, np.clip(q + side / 500, 0, 1), method="nearest")) for side in (-1.01, 1.01))
    edges = layout.edges[0][np.isfinite(layout.edges[0])]

    def reach(value: float) -> tuple[float, float]:
        cell = int(np.searchsorted(edges, value))
        if cell in (0, len(edges)):
            return value - abs(value) / 16 - 2**-64, value + abs(value) / 16 + 2**-64
        return float(edges[cell - 1]), float(edges[cell])

    assert reach(low)[0] - 1e-12 * abs(low) <= found <= reach(high)[1] + 1e-12 * abs(high)
    assert profile.low[0] <= found <= profile.high[0]


def test_quantiles_of_the_references_own_law_are_off_by_less_than_a_64th_in_rank() -> None:
    rng = np.random.default_rng(3)
    layout = lay_out(from_columns({"x": number(rng.lognormal(size=20_000))}))
    values = np.sort(rng.lognormal(size=20_000))
    profile = one_column(values, layout)
    asked = np.linspace(0.01, 0.99, 99)
    ranks = np.searchsorted(values, [profile.quantile("x", q) for q in asked]) / 20_000
    assert np.abs(ranks - asked).max() < 1 / 64


def test_a_column_without_a_value_has_no_quantile() -> None:
    assert math.isnan(Profile(LAYOUT).quantile("x", 0.5))


def test_quantiles_of_a_column_that_the_reference_never_saw() -> None:
    profile = Profile(LAYOUT)
    profile.update(from_columns({"never": number([1.0, 2.0, 3.0, 1000.0])}))
    assert profile.quantile("never", 0.5) == pytest.approx(2.0, rel=0.04)
    assert profile.quantile("never", 1.0) == 1000.0


def test_a_value_just_outside_the_reference_is_told_on_its_side() -> None:
    layout = lay_out(from_columns({"x": number([5.2, 6.2])}))
    low, high = one_column(np.array([5.19, 6.21, 6.21]), layout).outside()
    assert low[0] == pytest.approx(5.19, rel=0.035)
    assert high[0] == pytest.approx(6.21, rel=0.035)
    assert np.isnan(one_column(np.array([5.5]), layout).outside()).all()


def test_tails_are_bounded_whatever_comes() -> None:
    rng = np.random.default_rng(4)
    wild = rng.choice([-1.0, 1.0], 200_000) * 10.0 ** rng.uniform(-140, 140, 200_000)
    profile = one_column(wild, lay_out(from_columns({"x": number([0.5])})))
    assert profile.tails[1].sum() == 200_000
    assert profile.tails[0].size <= 4_098
    assert len(profile.encode()) < 40_000


@given(values=st.lists(numbers, max_size=300))
def test_edges_ascend_and_hold_every_value_of_the_reference_between_them(values: list[float]) -> None:
    edges = cut_edges(np.array(values, np.float64))
    known = [v for v in values if abs(v) <= HUGE]
    finite = edges[np.isfinite(edges)]
    assert len(edges) == CELLS - 1
    assert (np.diff(finite) > 0).all()
    assert np.isinf(edges[len(finite) :]).all()
    if known:
        assert finite[0] < min(known)
        assert finite[-1] == max(known)
    else:
        assert not len(finite)


def test_few_distinct_values_get_a_cell_each() -> None:
    layout = lay_out(from_columns({"x": number([3.0, 1.0, 2.0, 2.0])}))
    assert one_column(np.array([2.0, 2.0, 3.0, 0.0, 9.0]), layout).cells[0, :5].tolist() == [1, 0, 2, 1, 1]
