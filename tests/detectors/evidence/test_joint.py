from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.core import Floats
from detectors.encode import decode, encode
from detectors.evidence import joint, normal
from detectors.evidence.joint import Joint
from detectors.profile import MISSING, OTHER


def _codes(n: int) -> NDArray[np.int32]:
    return np.zeros((n, 0), np.int32)


def _tied(rng: np.random.Generator, n: int) -> Floats:
    """Six columns: the first three share a cause, the fourth follows the first on both sides, the last two are free."""
    common, free = rng.normal(size=(n, 1)), rng.normal(size=(n, 6))
    values = free.copy()
    values[:, :3] = common + 0.4 * free[:, :3]
    values[:, 3] = np.abs(common[:, 0]) + 0.3 * free[:, 3]
    return np.exp(values)


def _torn(rng: np.random.Generator, values: Floats, column: int) -> Floats:
    out = values.copy()
    out[:, column] = rng.permutation(values[:, column])
    return out


def _rise(fitted: Joint, before: Floats, after: Floats) -> Floats:
    """By how many of its standard errors each extra column moved."""
    was, now = (fitted.columns(rows, _codes(len(rows))) for rows in (before, after))
    scores = normal.fit(was)
    return np.asarray(scores.of(now).mean(axis=0) * np.sqrt(len(now)))


def test_a_column_torn_from_the_others_surprises_and_the_whole_row_with_it() -> None:
    rng = np.random.default_rng(0)
    before, after = _tied(rng, 1_000), _tied(rng, 200)
    fitted = joint.fit(before[:250], _codes(250))

    for column in (0, 1, 3):
        rise = _rise(fitted, before, _torn(rng, after, column))
        assert rise[column] > 4
        assert rise[-1] > 4
    assert np.abs(_rise(fitted, before, after)).max() < 4


def test_a_new_tie_of_partners_shows_in_their_product() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(1_000, 5)), rng.normal(size=(300, 5))
    fitted = joint.fit(before, _codes(1_000))
    other = int(fitted.partners[2])
    after[:, other] = 0.7 * after[:, 2] + 0.7 * after[:, other]

    assert _rise(fitted, before, after)[5 + 2] > 4


def test_a_word_torn_from_its_numbers_surprises() -> None:
    rng = np.random.default_rng(2)
    code = rng.integers(0, 5, (2_000, 1)).astype(np.int32)
    values = np.array([0.0, 3.0, 1.0, 4.0, 2.0])[code] + 0.4 * rng.normal(size=(2_000, 1))
    fitted = joint.fit(values[:1_000], code[:1_000])
    calm = fitted.columns(values[1_000:], code[1_000:])
    torn = fitted.columns(values[1_000:], rng.permutation(code[1_000:]))

    assert (np.median(torn[:, :2], axis=0) > np.quantile(calm[:, :2], 0.9, axis=0)).all()


def test_rows_that_were_not_fitted_on_look_like_new_ones_and_those_that_were_do_not() -> None:
    """Why a quarter of the reference is fitted on and the rest is counted: ranks among the rest are exact."""
    rng = np.random.default_rng(3)
    chances = []
    for _ in range(60):
        rows = _tied(rng, 600)
        total = joint.fit(rows[:50], _codes(50)).columns(rows, _codes(600))[:, -1]
        new = total[300:]
        chances.append([(new[:, None] > old).mean() for old in (total[:50], total[50:300])])
    (fitted, counted), error = np.mean(chances, axis=0), np.std(chances, axis=0) / np.sqrt(60)

    assert abs(counted - 0.5) < 3.5 * error[1]
    assert fitted - 0.5 > 3.5 * error[0]


def test_missing_values_and_unknown_words_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    values, code = _tied(rng, 500), rng.integers(0, 4, (500, 1)).astype(np.int32)
    fitted = joint.fit(values, code)
    row, word = values[:1].copy(), np.array([[OTHER]], np.int32)
    row[0, 1] = np.nan

    unknown = fitted.columns(row, word)[0]
    absent = fitted.columns(row, np.array([[MISSING]], np.int32))[0]

    assert np.isnan(unknown[[1]]).all()
    assert not np.isnan(unknown[[0, 2, 6, -1]]).any()
    assert np.isnan(absent[6])


def test_dead_columns_are_worth_nothing_and_harm_nobody() -> None:
    rng = np.random.default_rng(5)
    values = np.column_stack([_tied(rng, 300)[:, :2], np.full(300, 3.0), np.full(300, np.nan)])
    fitted = joint.fit(values, np.zeros((300, 1), np.int32))
    extra = fitted.columns(values, np.zeros((300, 1), np.int32))

    assert (fitted.worth[:5] > 0).tolist() == [True, True, False, False, False]
    assert np.isfinite(extra[:, [0, 1, -1]]).all()


def test_no_columns_and_one_column_are_no_error() -> None:
    assert joint.fit(np.zeros((100, 0)), _codes(100)).columns(np.zeros((3, 0)), _codes(3)).shape == (3, 1)
    lone = np.random.default_rng(6).normal(size=(100, 1))
    assert joint.fit(lone, _codes(100)).columns(lone, _codes(100)).shape == (100, 3)


@given(st.integers(0, 50), st.integers(0, 50))
def test_rows_are_judged_alone_so_any_split_gives_the_same_bits(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = _tied(rng, 50)
    values[rng.random(values.shape) < 0.1] = np.nan
    whole = FITTED.columns(values, _codes(50))

    parts = [FITTED.columns(part, _codes(len(part))) for part in (values[:cut], values[cut:])]

    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_what_was_fitted_survives_a_checkpoint() -> None:
    values = _tied(np.random.default_rng(7), 50)
    again = decode(encode(FITTED), Joint)

    np.testing.assert_array_equal(again.columns(values, _codes(50)), FITTED.columns(values, _codes(50)))


def test_normal_scores_bend_to_no_outlier_and_keep_ties_together() -> None:
    values = np.append(np.random.default_rng(8).lognormal(size=999), 1e12)[:, None]
    scores = normal.fit(values)

    assert np.abs(scores.of(values)).max() < 3.6
    heavy = np.concatenate([np.zeros(700), np.arange(1.0, 301.0)])[:, None]
    of_zero = normal.fit(heavy).of(np.array([[0.0], [1.0]]))
    assert of_zero[0, 0] < of_zero[1, 0] - 0.5


FITTED = joint.fit(_tied(np.random.default_rng(9), 400), _codes(400))
