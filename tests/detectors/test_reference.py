from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from detectors import reference
from detectors.core import Batch, Kind, Role, category, concat, from_columns, number, text, vector
from detectors.encode import Undecodable, encode
from detectors.reference import Reference, build, build_from, describe
from detectors.registry import default_scorers

ROLES: Mapping[str, Role] = {"latency": Role.SOFTWARE, "scores": Role.OUTPUT}
SAID: dict[str, Any] = {"roles": ROLES, "source": "a test", "created": 1.0}


def rows(n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    columns = {
        "x": number(np.where(rng.random(n) < 0.05, np.nan, rng.normal(size=n))),
        "y": number(rng.exponential(size=n)),
        "latency": number(rng.exponential(size=n)),
        "word": category(rng.choice(["a", "b", "c"], n).tolist()),
        "note": text([" ".join(rng.choice(["red", "green", "blue"], 3)) for _ in range(n)]),
        "scores": vector(rng.dirichlet(np.ones(3), n)),
    }
    return from_columns(columns, rng.uniform(0, 1e6, n), [f"{seed}-{i}" for i in range(n)])


SCORERS = default_scorers(describe(rows(2), ROLES))


def alike(found: Reference, expected: Reference) -> None:
    assert found.layout.id == expected.layout.id
    assert encode(found.fitted) == encode(expected.fitted)
    assert found.schema == expected.schema
    one, other = found.profile, expected.profile
    assert (one.rows, one.cells.tolist(), one.words.tolist()) == (
        other.rows,
        other.cells.tolist(),
        other.words.tolist(),
    )
    assert one.missing.tolist() == other.missing.tolist()
    assert one.sample.keys.tolist() == other.sample.keys.tolist()
    assert one.mean == pytest.approx(other.mean, rel=1e-9, nan_ok=True)
    assert one.squares == pytest.approx(other.squares, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("cuts", [[], [1], [700, 700, 2999], list(range(0, 3000, 37))])
def test_two_passes_over_chunks_give_the_reference_of_the_rows_in_memory(
    cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "KEPT", 1000)  # less than there are, so that the choice of rows is tried too
    whole = rows(3000)

    def chunks() -> Iterator[Batch]:
        for a, b in pairwise([0, *cuts, 3000]):
            yield whole.take(slice(a, b))

    found = build("m", chunks, SCORERS, **SAID)
    alike(found, build_from("m", whole, SCORERS, **SAID))
    assert found.profile.rows == 3000


@pytest.mark.parametrize("cut", [1, 37, 400, 3000])
def test_the_newest_rows_are_kept_in_the_order_they_came(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "ROWS", 500)
    whole = rows(3000)

    def chunks() -> Iterator[Batch]:
        for start in range(0, 3000, cut):
            yield whole.take(slice(start, start + cut))

    kept = build("m", chunks, SCORERS, **SAID).rows
    assert kept.keys.tolist() == whole.keys[-500:].tolist()
    assert kept.times.tolist() == whole.times[-500:].tolist()
    found = build("m", chunks, SCORERS, **SAID)
    x = found.layout.numbers.index("x")
    assert np.array_equal(kept.numbers[:, x], whole["x"].values[-500:], equal_nan=True)
    assert [found.layout.words[0][code] for code in kept.codes[:, 0]] == [
        whole["word"].words[i] for i in whole["word"].values[-500:]
    ]


def test_derived_columns_are_counted_and_the_schema_holds_the_raw_ones() -> None:
    found = build_from("m", rows(500), SCORERS, **SAID)
    assert {"novelty", "entropy", "margin", "note.length", "note.unseen_words"} <= set(found.layout.numbers)
    assert {spec.name for spec in found.schema} == set(rows(1).columns)
    assert found.role("latency") is Role.SOFTWARE
    assert found.role("x") is Role.INPUT
    assert found.role("entropy") is Role.DERIVED


def test_a_column_that_comes_late_is_in_the_reference() -> None:
    first, second = from_columns({"x": number([1.0, 2.0])}), from_columns({"z": category(["a"])}, ids=["z"])
    found = build("m", lambda: [first, second], {}, **SAID)
    assert found.layout.columns == ("x", "z")
    assert found.profile.missing.tolist() == [1, 2]


def test_survives_its_file() -> None:
    made = build_from("m", rows(500), SCORERS, **SAID)
    back = Reference.decode(made.encode())
    alike(back, made)
    assert back.version == made.version
    assert back.encode() == made.encode()
    batch = rows(50, 1)
    for name, column in made.scored(batch, SCORERS).columns.items():
        assert repr(back.scored(batch, SCORERS)[name].values.tolist()) == repr(column.values.tolist())


def test_the_version_tells_references_apart_by_what_they_say() -> None:
    made = build_from("m", rows(500), SCORERS, **SAID)
    renamed = build_from("m", rows(500), SCORERS, **{**SAID, "source": "the same rows elsewhere"})
    assert renamed.version == made.version
    assert build_from("m", rows(500, 1), SCORERS, **SAID).version != made.version


def test_no_row_is_no_reference() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        build("m", lambda: iter([rows(0)]), SCORERS, **SAID)


def test_one_row_is_one() -> None:
    assert build_from("m", rows(1), SCORERS, **SAID).profile.rows == 1


def test_bytes_of_something_else_are_refused() -> None:
    made = build_from("m", rows(50), {}, **SAID).encode()
    for data in (b"", b"PAR1", made[:-1], encode({"format": 1})):
        with pytest.raises(Undecodable):
            Reference.decode(data)


def test_a_later_scorer_sees_the_columns_of_the_earlier() -> None:
    scored = reference.scored(rows(5), SCORERS, {})
    assert {"entropy", "note.length"} <= set(scored.columns)
    assert scored["x"] is scored.columns["x"]
    assert concat([scored, scored])["entropy"].kind is Kind.NUMBER
