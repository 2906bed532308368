"""Agreement against sums written out, labelers' skill against labelers whose skill is known."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.labeling.agreement import alpha, class_alpha, measured, posterior, raw, skills, vote, word
from alerting.labeling.task import Value

Units = list[list[Value]]
classes = st.sampled_from(["a", "b", "c"])
several = st.lists(st.lists(classes, max_size=5), max_size=12)


def written_out(units: Units, distance: object) -> float | None:
    """Krippendorff's alpha by his own coincidences: every ordered pair of values of a unit, then of all values."""
    assert callable(distance)
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]
    n = len(pooled)
    if n < 2:
        return None
    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)) / n
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (n * (n - 1))
    return 1 - observed / expected if expected else None


@given(several)
def test_alpha_of_classes_is_krippendorffs(units: Units) -> None:
    expected = written_out(units, lambda a, b: float(a != b))
    found = alpha(units)
    assert found == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=4), max_size=8))
def test_alpha_of_measurements_is_krippendorffs(units: Units) -> None:
    expected = written_out(units, lambda a, b: (a - b) ** 2)
    found = alpha(units)
    if expected is None or found is None:
        assert (expected is None) or math.isclose(expected, 1.0, abs_tol=1e-6) or expected < 1
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_alpha_of_a_published_example() -> None:
    """Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), C: nominal data, four observers: 0.743."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units: Units = [[v for v in unit if v is not None] for unit in zip(*rows, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)


@given(several)
def test_raw_is_the_share_of_equal_pairs(units: Units) -> None:
    pairs = [a == b for unit in units for a, b in permutations(unit, 2)]
    assert raw(units) == (None if not pairs else pytest.approx(sum(pairs) / len(pairs)))


def test_a_class_that_is_confused_stands_out() -> None:
    counted = {("can", "can"): 20, ("jar", "tin"): 6, ("tin", "jar"): 6, ("tin", "tin"): 4}
    units: Units = [list(pair) for pair, times in counted.items() for _ in range(times)]
    by_class = class_alpha(units)
    assert by_class["can"] == pytest.approx(1.0)
    assert by_class["jar"] is not None
    assert by_class["jar"] < 0
    assert list(by_class) == ["can", "tin", "jar"]


def test_the_vote() -> None:
    assert vote(["b", "a", "a"]) == ("a", True)
    assert vote(["b", "a"]) == ("b", False)
    assert vote([1, 3.5, 2]) == (2, True)
    assert vote([True, 1]) == (True, False)
    assert not measured([1, 2])
    assert not measured(["a", 1.5])
    assert word("true") == word(True)


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "cid"]), classes), min_size=1, max_size=4), st.integers(2, 6))
def test_posterior_is_bayes_over_every_possible_truth(votes: list[tuple[str, Value]], k: int) -> None:
    accuracy = {"ann": 0.99, "bob": 0.7}
    names = ["a", "b", "c", "d", "e", "f"][: max(k, 3)]
    likelihood = [
        math.prod(
            accuracy.get(by, 0.95) if value == truth else (1 - accuracy.get(by, 0.95)) / (len(names) - 1)
            for by, value in votes
        )
        for truth in names
    ]
    voted = [p for p, truth in zip(likelihood, names, strict=True) if truth in {value for _, value in votes}]
    assert posterior(votes, accuracy, len(names)) == pytest.approx(max(voted) / sum(likelihood))


def test_skills_find_who_errs_how_often() -> None:
    rng = random.Random(3)
    true = {"ann": 0.98, "bob": 0.9, "cid": 0.75, "dan": 0.6}
    units: list[list[tuple[str, Value]]] = []
    for _ in range(600):
        truth = rng.choice("abcd")
        others = [c for c in "abcd" if c != truth]
        people = rng.sample(sorted(true), 3)
        units.append([(by, truth if rng.random() < true[by] else rng.choice(others)) for by in people])
    found = skills(units)
    for by, accuracy in true.items():
        n = found[by].checked
        assert found[by].accuracy == pytest.approx(accuracy, abs=4 * math.sqrt(accuracy * (1 - accuracy) / n) + 0.01)


def test_known_items_tell_a_single_labelers_skill() -> None:
    found = skills([], [("ann", i % 4 > 0) for i in range(400)])
    assert found["ann"].checked == 400
    assert found["ann"].accuracy == pytest.approx((300 + 19) / 420)


def test_skills_of_few_labels_stay_near_what_is_usual() -> None:
    assert skills([[("ann", "a"), ("bob", "b")]])["ann"].accuracy > 0.9
    assert skills([]) == {}
    assert skills([[("ann", 1.5), ("bob", 2.5)]]) == {}


@given(st.lists(st.tuples(classes, classes), min_size=1, max_size=20))
def test_skills_do_not_depend_on_order(pairs: list[tuple[str, str]]) -> None:
    units = [[("ann", a), ("bob", b)] for a, b in pairs]
    one, other = skills(units), skills([unit[::-1] for unit in units[::-1]])
    assert all(one[by].accuracy == pytest.approx(other[by].accuracy, abs=1e-6) for by in one)
