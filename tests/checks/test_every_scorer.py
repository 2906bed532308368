"""What holds for every scorer in the table: a new one is tested the moment it is listed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from detectors.core import Batch, Column, Kind, Scorer, category, concat, empty, from_columns, number, text, vector
from detectors.encode import decode, encode
from detectors.registry import SCORERS

WORDS = ("shelf", "empty", "the", "price", "of", "milk", "Brot", "zwölf", "12", "ßcharf")


def rows(n: int, seed: int = 0, **changed: Column) -> Batch:
    """A batch with every column that any scorer reads, some values missing."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(4), n)
    members = rng.dirichlet(np.ones(4), (n, 3)).reshape(n, 12)
    embedding = rng.normal(size=(n, 24)) @ rng.normal(size=(24, 24))
    texts = [" ".join(rng.choice(WORDS, rng.integers(8))) if rng.random() > 0.1 else None for _ in range(n)]
    for values in (scores, members, embedding):
        values[rng.random(n) < 0.1] = np.nan
    columns = {
        "x": number(np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))),
        "y": number(rng.exponential(size=n)),
        "constant": number(np.ones(n)),
        "word": category(rng.choice(["a", "b"], n).tolist()),
        "rule": category([None if r < 0.7 else "cap" if r < 0.9 else "cap>round" for r in rng.random(n)]),
        "scores": vector(scores),
        "members": vector(members),
        "embedding": vector(embedding),
        "note": text(texts),
        "label": category(rng.choice(["a", "b"], n, p=[0.9, 0.1]).tolist()),
        "truth": category(rng.choice(["a", "b"], n).tolist()),
    }
    return from_columns({**columns, **changed}, ids=[f"{seed}-{i}" for i in range(n)])


def all_missing(batch: Batch) -> Batch:
    columns = {
        name: empty(c.kind, len(batch), c.values.shape[1] if c.kind is Kind.VECTOR else 0)
        for name, c in batch.columns.items()
    }
    return Batch(batch.keys, batch.times, batch.ids, batch.offsets, columns)


def values_of(columns: Mapping[str, Column]) -> dict[str, list[Any]]:
    """Bit for bit comparable: NaN as text."""
    return {name: [repr(v) for v in column.values.tolist()] for name, column in columns.items()}


@pytest.fixture(params=SCORERS)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return SCORERS[request.param]()


def test_reads_a_full_batch_into_columns_as_long_as_it(scorer: Scorer) -> None:
    batch = rows(120)
    found = scorer.score(batch, scorer.fit(batch))
    assert found
    assert all(len(column) == 120 for column in found.values())
    assert all(column.missing().mean() < 0.35 for column in found.values())


def test_the_same_rows_give_the_same_fit_and_the_same_scores(scorer: Scorer) -> None:
    first, again = (scorer.fit(rows(120)) for _ in range(2))
    assert encode(first) == encode(again)
    assert values_of(scorer.score(rows(50, 1), first)) == values_of(scorer.score(rows(50, 1), again))


def test_leaves_its_input_as_it_was(scorer: Scorer) -> None:
    batch = rows(60)
    batch.columns["x"].values[0] = np.inf
    batch.columns["embedding"].values[0, 0] = np.inf
    before = copy.deepcopy(batch)
    fitted = scorer.fit(batch)
    kept = encode(fitted)
    scorer.score(batch, fitted)
    assert values_of(batch.columns) == values_of(before.columns)
    assert (batch.keys == before.keys).all()
    assert encode(fitted) == kept


def test_what_it_fitted_survives_the_file(scorer: Scorer) -> None:
    fitted = scorer.fit(rows(120))
    back = decode(encode({"it": fitted}), dict[str, Any])["it"]
    assert values_of(scorer.score(rows(50, 1), back)) == values_of(scorer.score(rows(50, 1), fitted))


@given(cut=st.integers(0, 40), seed=st.integers(0, 9))
@pytest.mark.parametrize("kind", SCORERS)
def test_a_row_scores_the_same_to_the_last_bit_in_whatever_batch_it_comes(kind: str, cut: int, seed: int) -> None:
    scorer = SCORERS[kind]()
    batch, fitted = rows(40, 1), FITTED[kind]
    whole = scorer.score(batch, fitted)
    parts = [scorer.score(batch.take(part), fitted) for part in (slice(None, cut), slice(cut, None))]
    order = np.random.default_rng(seed).permutation(40)
    shuffled = scorer.score(batch.take(order), fitted)
    for name, column in whole.items():
        joined = np.concatenate([part[name].values for part in parts])
        assert [*map(repr, joined.tolist())] == [*map(repr, column.values.tolist())]
        assert [*map(repr, shuffled[name].values.tolist())] == [*map(repr, column.values[order].tolist())]


@pytest.mark.parametrize("n", [0, 1, 7])
def test_few_rows_and_rows_without_a_value_give_the_same_columns(scorer: Scorer, n: int) -> None:
    fitted = scorer.fit(rows(120))
    expected = scorer.score(rows(120), fitted).keys()
    assert scorer.score(rows(n), fitted).keys() == expected
    nothing = scorer.score(all_missing(rows(n)), fitted)
    assert nothing.keys() == expected
    assert all(column.missing().all() for column in nothing.values())


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_reference_that_says_nothing_is_no_reason_to_fail(scorer: Scorer, n: int) -> None:
    for reference in (rows(n), all_missing(rows(n)), from_columns({})):
        for column in scorer.score(rows(30), scorer.fit(reference)).values():
            assert len(column) == 30
    for column in scorer.score(rows(30), None).values():
        assert len(column) == 30


def test_columns_that_are_not_there_derive_nothing(scorer: Scorer) -> None:
    fitted = scorer.fit(rows(120))
    assert scorer.score(from_columns({"other": number([1.0])}), fitted) == {}


def test_a_vector_of_another_length_than_the_references_is_missing(scorer: Scorer) -> None:
    fitted = scorer.fit(rows(120))
    batch = rows(30)
    expected = scorer.score(batch, fitted).keys()
    for width in (0, 1, 5, 25):
        changed = {name: vector(np.ones((30, width))) for name in ("scores", "members", "embedding")}
        found = scorer.score(rows(30, 0, **changed), fitted)
        assert found.keys() == expected
        for name in found.keys() & {"confidence", "entropy", "disagreement", "members_disagree", "novelty"}:
            assert found[name].missing().all()


def test_a_column_that_became_another_kind_does_not_stop_it(scorer: Scorer) -> None:
    fitted = scorer.fit(rows(120))
    words = category(["a"] * 30)
    found = scorer.score(rows(30, x=words, scores=words, members=words, embedding=words, note=words), fitted)
    assert all(len(column) == 30 for column in found.values())


@given(
    matrix=arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
        elements=st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e-200, 0.3, 1.0, -2.0, 1e200, 1e308]),
    ),
    lines=st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=12),
)
@pytest.mark.parametrize("kind", SCORERS)
def test_no_value_makes_it_fail_or_derive_a_number_without_size(
    kind: str, matrix: np.ndarray[Any, Any], lines: list[str | None]
) -> None:
    scorer = SCORERS[kind]()
    n = len(matrix)
    same = vector(matrix)
    wild = rows(n, x=number(matrix[:, 0]), scores=same, members=vector(np.hstack([matrix] * 2)), embedding=same)
    wild.columns["note"] = text((lines * n)[:n])
    for fitted in (None, FITTED[kind], scorer.fit(wild), scorer.fit(concat([wild] * 30))):
        for column in scorer.score(wild, fitted).values():
            assert len(column) == n
            assert not np.isinf(column.values).any()


FITTED = {kind: SCORERS[kind]().fit(rows(120)) for kind in SCORERS}
