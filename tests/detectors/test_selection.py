from __future__ import annotations

import numpy as np
import pytest

from detectors.core import Batch, Column, Role, category, from_columns, number, text, vector
from detectors.draw import Draw
from detectors.profile import Profile
from detectors.reference import Reference, build_from
from detectors.selection import (
    Clusters,
    Margin,
    PMix,
    Ratio,
    Strategy,
    TopK,
    contents_of,
    factors,
    nearness,
    places_of,
    region,
    resized,
    sizes,
)


def learned(**columns: Column) -> Reference:
    return build_from("m", from_columns(columns), {}, roles={"label": Role.OUTPUT}, source="test", created=0.0)


def measures(scores: list[list[float]]) -> Batch:
    from detectors.scorers.uncertainty import Uncertainty

    batch = from_columns({"scores": vector(scores)})
    return Batch(batch.keys, batch.times, batch.ids, batch.offsets, Uncertainty().score(batch, None))


@pytest.mark.parametrize("strategy", [Margin(), Ratio(), PMix(by="margin"), TopK(by="margin"), TopK(by="ratio")])
def test_doubt_is_between_the_two_largest_chances_and_not_the_two_smallest(strategy: Strategy) -> None:
    """Of two classes the mistake turns the order round; of three it asks for the surest."""
    sure, torn = [0.9, 0.06, 0.04], [0.48, 0.47, 0.05]
    wants = strategy.wants(measures([sure, torn]), 1.0)
    assert wants[1] > 10 * wants[0]


def test_a_tie_is_wanted_most_and_within_bounds_and_an_unknown_margin_is_not_known() -> None:
    wants = Margin(power=8).wants(from_columns({"margin": number([0.0, -0.1, 1.0, 1.1, np.nan])}), 1.0)
    assert wants[:4].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert np.isnan(wants[4])


def test_clusters_want_a_rare_part_of_the_space_more() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, 950), rng.normal(5, 0.1, 50)])
    strategy = Clusters(cells=2)
    fitted = strategy.fit(learned(x=number(rng.permutation(x))))
    wants = strategy.wants(from_columns({"x": number([0.0, 5.0])}), fitted)
    assert wants[1] == pytest.approx(19 * wants[0], rel=0.3)


def test_content_tells_rows_apart_by_inputs_answer_and_version() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "x": number(rng.normal(size=500)), "note": text(["milk"] * 500), "label": category(["a"] * 500),
    }  # fmt: skip
    contents = contents_of(learned(**columns))
    two = {"x": number([0.0, -0.0, 0.0, 0.0, np.nan]), "label": category(["a", "a", "b", "a", "a"])}
    ids = contents.ids(from_columns({**two, "note": text(["milk", "milk", "milk", None, "milk"])}))
    assert ids[0] == ids[1]
    assert len(set(ids.tolist())) == 4


def test_where_many_rows_are_alike_each_event_is_its_own() -> None:
    """One label would be made to stand for events whose truths differ."""
    columns = {"x": number(np.arange(500) % 7.0), "label": category(["a"] * 500)}
    batch = from_columns(columns)
    assert contents_of(learned(**columns)).ids(batch).tolist() == batch.keys.tolist()


def test_factors_go_half_of_the_way_and_not_too_far() -> None:
    assert factors({"a": 0.96, "b": 0.04})["b"] == pytest.approx((0.5 / 0.04) ** 0.5)
    assert factors({"a": 0.9999, "b": 0.0001})["b"] == 4.0
    assert factors({"a": 0.5, "b": 0.5}, {"a": 0.001, "new": 0.5}) == {"a": 0.25, "new": 1.0}
    assert factors({}) == {}


def test_the_region_of_a_change_is_where_rows_come_oftener_than_they_did() -> None:
    rng = np.random.default_rng(0)
    reference = learned(x=number(rng.normal(size=2_000)), kind=category(rng.choice(["a", "b"], 2_000).tolist()))
    profile = Profile(reference.layout)
    kinds = ["a"] * 50 + ["z"] * 30 + [None] * 20
    profile.update(from_columns({"x": number(np.repeat([0.0, 9.0], 50)), "kind": category(kinds)}))
    odds = region(profile, reference.profile, "x")
    assert (odds[profile.sample.numbers[:, 0] == 9.0] > 100).all()
    codes = profile.sample.codes[:, 0]
    odds = region(profile, reference.profile, "kind")
    assert (odds[codes < 0] > 100).all()
    assert odds[codes == 0] == pytest.approx(1.0, abs=0.1)
    assert region(profile, reference.profile, "unknown").tolist() == [1.0] * 100


def test_near_is_what_one_in_a_hundred_neighbours_is() -> None:
    reference = learned(x=number(np.arange(500.0)), y=number(np.arange(500.0) ** 2))
    places = places_of(reference)
    assert places is not None
    near = nearness(reference, places)
    here, beside, far = places.rows(from_columns({"x": number([10.0, 10.001, 12.0]), "y": number([100.0] * 2 + [144])}))
    assert np.linalg.norm(here - beside) < near < np.linalg.norm(here - far)


@pytest.mark.parametrize(("floor", "scale"), [(0.2, 1.0), (0.5, 1.0), (0.2, 0.4), (0.35, 3.0), (1.0, 0.05)])
def test_another_floor_and_mean_give_the_draw_that_their_sizes_would_have_given(floor: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    wants = np.where(rng.random(500) < 0.1, np.nan, rng.exponential(scale, 500))
    ids = np.arange(500, dtype=np.uint64)
    factor = rng.choice([0.5, 1.0, 2.0], 500)
    mean = max(float(np.nanmean(wants)), 0.1)
    for seed in range(50):
        offered, direct = Draw(60, seed), Draw(60, seed)
        offered.update(ids, sizes(wants, 0.2) * factor, list)
        direct.update(ids, sizes(wants / mean, floor) * factor, list)
        found = resized(offered, wants[np.array(offered.rows)], 0.2, floor, float(np.nanmean(wants)))
        n = len(found)
        assert found.rows[:n] == direct.rows[:n]
        assert found.keys[:n] == pytest.approx(direct.keys[:n])
        assert found.threshold <= direct.first(n).threshold * (1 + 1e-9)
        assert n >= 5
