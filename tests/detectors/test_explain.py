"""One event beside the reference: what Shapley values promise, and that what is odd in an event is found."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.boosting import boost
from detectors.core import Batch, Column, Role, category, from_columns, number, text
from detectors.explain import FIDELITY, Explainer, coalitions, shapley
from detectors.reference import Reference, build_from

INPUTS = 6
finite = st.floats(-1e6, 1e6)


@st.composite
def games(draw: st.DrawFn) -> np.ndarray:
    players = draw(st.integers(1, 5))
    return np.array(draw(st.lists(finite, min_size=2**players, max_size=2**players)))


@given(games())
def test_parts_are_the_mean_over_all_orders_and_sum_up_to_the_whole(worth: np.ndarray) -> None:
    players = round(np.log2(worth.size))
    means = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        there = 0
        for player in order:
            means[player] += (worth[there | 1 << player] - worth[there]) / len(orders)
            there |= 1 << player
    parts = shapley(worth)
    scale = 1e-9 * (1.0 + np.abs(worth).max())
    assert parts == pytest.approx(means, abs=scale)
    assert parts.sum() == pytest.approx(worth[-1] - worth[0], abs=scale)


@given(games(), st.integers(0, 4))
def test_who_brings_nothing_gets_nothing_and_who_brings_the_same_gets_the_same(worth: np.ndarray, i: int) -> None:
    players = round(np.log2(worth.size))
    i %= players
    present = coalitions(players)
    idle = worth[np.arange(worth.size) & ~(1 << i)]
    scale = 1e-9 * (1.0 + np.abs(worth).max())
    assert shapley(idle)[i] == pytest.approx(0.0, abs=scale)
    alike = worth[present.sum(axis=1)]  # only how many take part counts
    assert np.ptp(shapley(alike)) <= scale


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_trees_tell_a_step_of_one_column_among_noise_and_missing_values(seed: int, logistic: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(300, 3)).round(1)
    rows[rng.random((300, 3)) < 0.1] = np.nan
    hot = np.isnan(rows[:, 0]) | (rows[:, 0] > 0.0)  # that it is missing tells as well
    target = np.where(hot, 1.0, 0.0) if logistic else np.where(hot, 5.0, 3.0)
    trees = boost(rows, target, logistic=logistic)
    said = trees.predict(rows[:, trees.columns])
    assert abs(said - target).mean() < 0.07  # a fair guess is off by 0.5 and more
    if logistic:
        assert 0.0 <= said.min() <= said.max() <= 1.0


def rows(n: int, seed: int = 0, **changed: Column) -> Batch:
    """A 'can' where x0 or x1 is large, or the camera is the north one."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, INPUTS))
    north = rng.random(n) < 0.5
    label = np.where(values[:, 0] + values[:, 1] + north > 0.5, "can", "jar")
    columns = {f"x{i}": number(values[:, i]) for i in range(INPUTS)}
    columns["camera"] = category(["north" if is_north else "south" for is_north in north])
    columns["note"] = text(["seen"] * n)
    columns["label"] = category(label.tolist())
    return from_columns({**columns, **changed}, ids=[f"{seed}-{i}" for i in range(n)])


def learned(batch: Batch) -> Reference:
    return build_from("shelf", batch, {}, roles={"label": Role.OUTPUT}, source="test", created=0.0)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(learned(rows(3000)))


def test_the_input_that_is_broken_comes_first_and_the_parts_sum_up(explainer: Explainer) -> None:
    event = rows(1, 5, x1=number([40.0]), camera=category(["south"]), label=category(["can"]))
    found = explainer.explain(event)
    assert found.surrogate.of == "chance of 'can'"
    assert found.surrogate.fidelity is not None
    assert found.surrogate.fidelity > 0.85
    first = found.features[0]
    assert (first.column, first.value, first.rank) == ("x1", 40.0, 1.0)
    assert first.typical is not None
    assert first.attribution is not None
    assert first.attribution > 0.0
    assert found.surrogate.says is not None
    assert found.surrogate.around is not None
    parts = [f.attribution for f in found.features if f.attribution is not None]
    assert sum(parts) == pytest.approx(found.surrogate.says - found.surrogate.around)
    assert {like.differs[0] for like in found.nearest} == {"x1"}


def test_a_reference_event_is_as_near_as_any_other_and_never_its_own_neighbour() -> None:
    batch = rows(400)
    explainer = Explainer(learned(batch))
    found = [explainer.explain(batch.take(slice(i, i + 1))) for i in range(60)]
    assert all(like.distance > 0.0 for one in found for like in one.nearest)
    percentiles = [one.percentile for one in found if one.percentile is not None]
    assert len(percentiles) == 60
    assert 0.35 < float(np.mean(percentiles)) < 0.65, "those of the reference are uniform"
    far = rows(1, 9, **{f"x{i}": number([9.0]) for i in range(INPUTS)})
    assert explainer.explain(far).percentile == 1.0


def test_missing_values_and_words_never_seen_are_told_as_they_are(explainer: Explainer) -> None:
    event = rows(1, 6, x0=number([np.nan]), camera=category(["west"]))
    features = {feature.column: feature for feature in explainer.explain(event).features}
    assert (features["x0"].value, features["x0"].rank, features["x0"].share) == (None, None, 0.0)
    assert (features["camera"].value, features["camera"].share) == ("west", 0.0)
    assert features["camera"].typical in ("north", "south")
    assert "note" not in features


def test_answers_that_are_numbers_are_explained_as_numbers() -> None:
    batch = rows(2000)
    batch.columns["value"] = number(3.0 * batch["x2"].values + 10.0)
    del batch.columns["label"]
    reference = build_from("m", batch, {}, roles={"value": Role.OUTPUT}, source="test", created=0.0)
    event = rows(1, 7, x2=number([2.0]), value=number([16.0]))
    found = Explainer(reference).explain(event)
    assert found.surrogate.of == "value"
    assert found.surrogate.says == pytest.approx(16.0, abs=1.5)
    assert found.features[0].column == "x2"


@pytest.mark.parametrize(
    ("label", "why"),
    [(None, "no answer"), ("tin", "no event with this answer"), ("odd", "too few"), ("coin", "too seldom")],
)
def test_a_surrogate_that_cannot_stand_in_says_nothing(label: str | None, why: str) -> None:
    batch = rows(1500)
    toss = np.random.default_rng(1).random(1500) < 0.5  # an answer that no input tells
    words = np.where(toss, "coin", "edge").tolist()
    words[3] = "odd"
    batch.columns["label"] = category(words)
    found = Explainer(learned(batch)).explain(rows(1, 8, label=category([label])))
    assert why in found.surrogate.refused
    assert found.surrogate.fidelity is None or found.surrogate.fidelity < FIDELITY
    assert all(feature.attribution is None for feature in found.features)
    assert len(found.nearest) == 5, "the rest is told all the same"


def test_of_very_wide_events_a_bounded_part_is_compared_and_the_rest_is_counted() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(100, 300))
    batch = from_columns({f"x{i}": number(values[:, i]) for i in range(300)})
    explainer = Explainer(learned(batch))
    assert len(explainer.inputs) == 256
    found = explainer.explain(batch.take(slice(0, 1)))
    assert found.left_out == 44
    assert len(found.features) == 300, "each by itself is told"


def test_without_inputs_that_are_kept_only_what_there_is_is_told() -> None:
    batch = from_columns({"note": text(["a", "b"]), "label": category(["can", "jar"])})
    found = Explainer(learned(batch)).explain(batch.take(slice(0, 1)))
    assert (found.percentile, found.nearest) == (None, ())
    assert "no inputs" in found.surrogate.refused
    assert [feature.column for feature in found.features] == ["label"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True), st.sampled_from([0.0, 1e308])), min_size=1, max_size=40),
    st.data(),
)
def test_any_reference_and_any_event_is_explained(values: list[float | None], data: st.DataObject) -> None:
    n = len(values)
    held = number([np.nan if v is None else v for v in values])
    label = category([data.draw(st.sampled_from([None, "a", "b"])) for _ in range(n)])
    batch = from_columns({"x": held, "c": category(["u"] * n), "label": label})
    found = Explainer(learned(batch)).explain(batch.take(slice(n - 1, n)))
    assert found.percentile is None or 0.0 <= found.percentile <= 1.0
