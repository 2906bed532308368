from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.core import keys_of
from detectors.draw import Draw, uniforms
from detectors.encode import decode, encode
from detectors.selection import sizes


def drawn(ids: list[int], size: list[float], n: int, seed: int = 0) -> Draw:
    draw = Draw(n=n, seed=seed)
    draw.update(keys_of([str(i) for i in ids]), np.array(size, np.float64), lambda which: [ids[i] for i in which])
    return draw


def state(draw: Draw) -> tuple[Any, ...]:
    return draw.n, draw.seen, draw.keys.tolist(), draw.sizes.tolist(), draw.ids.tolist(), draw.rows


# ids come again: producers send twice
population = st.lists(st.integers(0, 60), max_size=40).map(lambda ids: (ids, [0.05 + i * i % 17 for i in ids]))


@given(rows=population, cuts=st.lists(st.integers(0, 40), max_size=4), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_parts_merge_into_the_draw_of_the_whole(
    rows: tuple[list[int], list[float]], cuts: list[int], n: int, seed: int
) -> None:
    ids, size = rows
    edges = [0, *sorted(cuts), len(ids)]
    parts = [drawn(ids[a:b], size[a:b], n, seed) for a, b in pairwise(edges)]
    np.random.default_rng(seed).shuffle(parts)
    merged = Draw(n=n, seed=seed)
    for part in parts:
        merged.merge(part)
    assert state(merged) == state(drawn(ids, size, n, seed))


@given(rows=population, cut=st.integers(0, 40), n=st.integers(1, 12))
def test_rows_offered_batch_by_batch_give_the_same_draw(rows: tuple[list[int], list[float]], cut: int, n: int) -> None:
    ids, size = rows
    draw = drawn(ids[:cut], size[:cut], n)
    draw.update(keys_of([str(i) for i in ids[cut:]]), np.array(size[cut:]), lambda which: [ids[cut + i] for i in which])
    assert state(draw) == state(drawn(ids, size, n))


@given(rows=population, n=st.integers(1, 12), fewer=st.integers(0, 12))
def test_a_prefix_is_the_draw_of_a_smaller_budget(rows: tuple[list[int], list[float]], n: int, fewer: int) -> None:
    fewer = min(fewer, n)
    assert state(drawn(*rows, n).first(fewer)) == state(drawn(*rows, fewer))


@given(rows=population, n=st.integers(1, 12))
def test_a_row_offered_twice_is_held_once(rows: tuple[list[int], list[float]], n: int) -> None:
    twice, once = drawn(*rows, n), drawn(*rows, n)
    twice.merge(once)
    assert state(twice)[2:] == state(once)[2:]
    assert twice.seen == 2 * once.seen


def test_survives_encoding() -> None:
    draw = drawn(list(range(50)), [1.0] * 50, 8)
    assert state(decode(encode(draw), Draw)) == state(draw)


def test_draws_of_another_budget_or_seed_do_not_merge() -> None:
    with pytest.raises(ValueError, match="seed 0 and 1"):
        Draw(n=2, seed=0).merge(Draw(n=2, seed=1))
    with pytest.raises(ValueError, match="n 2 and 3"):
        Draw(n=2).merge(Draw(n=3))
    with pytest.raises(ValueError, match="no first 3"):
        Draw(n=2).first(3)


def test_where_every_row_is_drawn_each_has_probability_one() -> None:
    draw = drawn([1, 2, 3], [0.1, 5.0, 1.0], 3)
    assert len(draw) == 3
    assert draw.inclusion().tolist() == [1.0, 1.0, 1.0]
    assert len(Draw(n=3).inclusion()) == 0


def test_only_rows_that_enter_are_kept_in_full() -> None:
    asked: list[int] = []
    draw = Draw(n=4)

    def kept(which: Sequence[int]) -> Sequence[int]:
        asked.extend(which)
        return which

    for start in range(0, 10_000, 100):
        ids = keys_of([str(i) for i in range(start, start + 100)])
        draw.update(ids, np.ones(100), kept)
    assert len(asked) < 5 * (1 + np.log(10_000))


@pytest.mark.parametrize("prefix", [10, 25])
def test_the_estimate_from_a_draw_is_unbiased(prefix: int) -> None:
    """Horvitz-Thompson from 2,000 draws, sizes far from what is estimated; without weights it is off by a third."""
    rng = np.random.default_rng(7)
    margin = rng.beta(2, 1, 300)
    wrong = (rng.random(300) < 0.8 * (1 - margin)).astype(float)
    wants = (1 - margin) ** 2
    size = sizes(wants / wants.mean(), floor=0.2)
    ids = keys_of([f"event-{i}" for i in range(300)])
    estimates, plain = [], []
    for seed in range(2000):
        draw = Draw(n=25, seed=seed)
        draw.update(ids, size, list)
        draw = draw.first(prefix)
        z = wrong[draw.rows[: len(draw)]]
        estimates.append(float((z / draw.inclusion()).sum()))
        plain.append(z.mean() * 300)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - wrong.sum()) < 3 * error
    assert np.mean(plain) > 1.3 * wrong.sum()


def test_uniforms_are_uniform_and_independent_of_key_and_seed() -> None:
    keys = keys_of([str(i) for i in range(20_000)])
    first, second = uniforms(keys, 0), uniforms(keys, 1)
    assert (first > 0).all()
    assert (first < 1).all()
    assert np.abs(np.histogram(first, 20, (0, 1))[0] - 1000).max() < 5 * np.sqrt(950)
    for other in (second, keys.astype(np.float64)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(20_000)
    assert uniforms(np.array([0, 2**64 - 1], np.uint64), 2**40).min() > 0


def test_copies_are_one_item_that_keeps_the_row_of_the_lowest_mark() -> None:
    draw = Draw(n=5)
    ids = keys_of(["a", "b", "a", "c", "a"])
    draw.update(ids, np.ones(5), list, np.array([4, 0, 2, 1, 3], np.uint64))
    held = dict(zip(draw.rows, draw.copies.tolist(), strict=True))
    assert held == {2: 3, 1: 1, 3: 1}
    assert draw.seen == 5


def estimates(of: Callable[[Draw], tuple[Draw, float]], values: np.ndarray[Any, Any], size: Any) -> list[float]:
    """Horvitz-Thompson totals over 1,000 seeds; `of` gives the draw to estimate from, and what is known beside it."""
    ids = keys_of([f"event-{i}" for i in range(len(values))])
    found = []
    for seed in range(1000):
        draw = Draw(n=40, seed=seed)
        draw.update(ids, size, list)
        part, sure = of(draw)
        found.append(sure + float((values[part.rows[: len(part)]] / part.inclusion()).sum()))
    return found


def test_what_is_left_out_poisson_draws_and_other_sizes_estimate_without_bias() -> None:
    rng = np.random.default_rng(3)
    size = rng.exponential(size=200) + 0.2
    values = (rng.random(200) < 0.3) * 1.0 + (size > 2)
    ids, other = keys_of([f"event-{i}" for i in range(200)]), rng.uniform(0.5, 1.5, 200)
    out = np.arange(0, 200, 9)

    def without(draw: Draw) -> tuple[Draw, float]:
        return draw.without(ids[out]).first(15), float(values[out].sum())

    def poisson(draw: Draw) -> tuple[Draw, float]:
        return draw.under(0.08), 0.0

    def cut_short(draw: Draw) -> tuple[Draw, float]:
        return draw.under(0.08).first(10), 0.0

    def resized(draw: Draw) -> tuple[Draw, float]:
        return draw.resized((size * other)[draw.rows], 1.5).first(15), 0.0

    for way in (without, poisson, cut_short, resized):
        found = estimates(way, values, size)
        assert abs(np.mean(found) - values.sum()) < 3.5 * np.std(found) / np.sqrt(len(found)), way.__name__
