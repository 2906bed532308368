"""What holds for every strategy in the table: a new one is tested the moment it is listed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.core import Batch, Role, category, from_columns, number, vector
from detectors.encode import decode, encode
from detectors.reference import Reference, build_from, describe
from detectors.registry import STRATEGIES, default_scorers
from detectors.selection import Strategy, sizes

ROLES = {"scores": Role.OUTPUT, "members": Role.OUTPUT, "label": Role.OUTPUT}


def rows(n: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet((3.0, 1.0, 0.5), n)
    return from_columns(
        {
            "x": number(np.where(rng.random(n) < 0.05, np.nan, rng.normal(size=n))),
            "y": number(rng.exponential(size=n)),
            "scores": vector(scores),
            "members": vector(rng.dirichlet((3.0, 1.0, 0.5), (n, 3)).reshape(n, 9)),
            "label": category([("can", "jar", "box")[i] for i in scores.argmax(axis=1)]),
        },
        ids=[f"{seed}-{i}" for i in range(n)],
    )


@cache
def reference(*columns: str) -> Reference:
    learned = rows(2_000, 99)
    learned.columns = {name: column for name, column in learned.columns.items() if not columns or name in columns}
    scorers = default_scorers(describe(learned, ROLES))
    return build_from("shelf", learned, scorers, roles=ROLES, source="test", created=0.0)


def scored(batch: Batch) -> Batch:
    return reference().scored(batch, default_scorers(reference().schema))


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]()


def test_wants_are_one_on_average_over_rows_of_the_reference_s_kind(strategy: Strategy) -> None:
    wants = strategy.wants(scored(rows(5_000, 1)), strategy.fit(reference()))
    assert (wants[np.isfinite(wants)] >= 0).all()
    assert np.nanmean(wants) == pytest.approx(1.0, rel=0.15)
    assert np.nanstd(wants) > 0.1


def test_the_fit_is_plain_data_and_the_same_again(strategy: Strategy) -> None:
    fitted = strategy.fit(reference())
    assert encode(fitted) == encode(strategy.fit(reference()))
    batch = scored(rows(100, 2))
    again: Any = decode(encode(fitted), type(fitted))
    assert strategy.wants(batch, again).tolist() == strategy.wants(batch, fitted).tolist()


@given(cut=st.integers(0, 60), name=st.sampled_from(list(STRATEGIES)))
def test_a_row_s_want_does_not_hang_on_the_rows_beside_it(cut: int, name: str) -> None:
    strategy: Strategy = STRATEGIES[name]()
    batch, fitted = scored(rows(60, 3)), strategy.fit(reference())
    apart = [strategy.wants(batch.take(part), fitted) for part in (slice(0, cut), slice(cut, None))]
    assert np.concatenate(apart).tolist() == pytest.approx(strategy.wants(batch, fitted).tolist(), nan_ok=True)


def test_without_what_it_looks_at_it_wants_no_row_more_than_another(strategy: Strategy) -> None:
    assert strategy.fit(reference("label")) is None


def test_rows_without_what_it_looks_at_have_a_size_all_the_same(strategy: Strategy) -> None:
    batch = scored(rows(50, 4))
    wants = strategy.wants(Batch(batch.keys, batch.times, batch.ids, batch.offsets), strategy.fit(reference()))
    assert (sizes(wants, 0.2) > 0).all()


def test_a_share_for_certain_is_a_share(strategy: Strategy) -> None:
    assert 0.0 <= strategy.certain <= 1.0
