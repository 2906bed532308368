"""Agreement against sums written out, labelers' skill against labelers whose skill is known."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.labeling.agreement import Confusion, alpha, class_alpha, measured, posterior, raw, skills, vote, word
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


shares = st.lists(st.integers(1, 9), min_size=3, max_size=3).map(lambda parts: [part / sum(parts) for part in parts])
rows = st.dictionaries(classes, shares.map(lambda row: dict(zip("abc", row, strict=True))))


@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob", "cid"]), classes), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["ann", "bob"]), rows),
)
def test_posterior_by_confusions_is_bayes_over_every_possible_truth(
    votes: list[tuple[str, Value]], confusion: dict[str, Confusion]
) -> None:
    accuracy = {"ann": 0.99, "bob": 0.7}

    def chance(by: str, said: Value, truth: str) -> float:
        right = accuracy.get(by, 0.95)
        coin = right if said == truth else (1 - right) / 2
        return confusion.get(by, {}).get(truth, {}).get(str(said), coin)

    likelihood = {truth: math.prod(chance(by, said, truth) for by, said in votes) for truth in "abc"}
    voted = max(likelihood[str(value)] for _, value in votes)
    assert posterior(votes, accuracy, 3, confusion) == pytest.approx(voted / sum(likelihood.values()))


LIKELY: dict[str, dict[str, dict[str, float]]] = {
    "ann": {"can": {"can": 0.95, "jar": 0.03, "tin": 0.02}, "jar": {"can": 0.02, "jar": 0.95, "tin": 0.03},
            "tin": {"can": 0.03, "jar": 0.02, "tin": 0.95}},
    "bob": {"can": {"can": 0.98, "jar": 0.01, "tin": 0.01}, "jar": {"can": 0.01, "jar": 0.97, "tin": 0.02},
            "tin": {"can": 0.0, "jar": 0.45, "tin": 0.55}},  # half of the tins are jars to him
    "cid": {"can": {"can": 0.9, "jar": 0.05, "tin": 0.05}, "jar": {"can": 0.2, "jar": 0.75, "tin": 0.05},
            "tin": {"can": 0.02, "jar": 0.03, "tin": 0.95}},
}  # fmt: skip


def labeled(seed: int, tasks: int, people: int = 3) -> list[tuple[str, list[tuple[str, Value]]]]:
    """What is true of each task and what was said, by labelers who confuse classes."""
    rng = random.Random(seed)
    truths = rng.choices(["can", "jar", "tin"], [3, 2, 2], k=tasks)
    return [
        (truth, [(by, rng.choices(list(row := LIKELY[by][truth]), list(row.values()))[0])
                 for by in rng.sample(sorted(LIKELY), people)])
        for truth in truths
    ]  # fmt: skip


def test_skills_find_which_classes_a_labeler_confuses() -> None:
    tasks = labeled(5, 1200)
    found = skills([said for _, said in tasks])
    met = Counter(truth for truth, _ in tasks)
    for by, table in LIKELY.items():
        for truth, row in table.items():
            for said, chance in row.items():
                spread = math.sqrt(max(chance * (1 - chance), 0.01) / met[truth])
                assert found[by].confusion[truth][said] == pytest.approx(chance, abs=5 * spread + 0.02)


def test_confusions_tell_better_how_sure_a_vote_is_than_one_coin() -> None:
    """Mean log of the chance given to what proved right, on tasks that the skills were not learned from: -.309, of one
    coin -.326."""
    found = skills([said for _, said in labeled(5, 1200)])
    accuracy = {by: skill.accuracy for by, skill in found.items()}
    confusion = {by: skill.confusion for by, skill in found.items()}

    def score(given: dict[str, Confusion]) -> float:
        total = 0.0
        for truth, said in labeled(6, 2000, people=1):
            sure = posterior(said, accuracy, 3, given)
            total += math.log(sure if said[0][1] == truth else 1 - sure)
        return total / 2000

    assert score(confusion) > score({}) + 0.01


def test_a_class_met_seldom_is_left_to_the_accuracy() -> None:
    units: list[list[tuple[str, Value]]] = [[("ann", "a"), ("bob", "a"), ("cid", "a")]] * 40
    units += [[("ann", "b"), ("bob", "b"), ("cid", "a")]] * 25
    found = skills(units)
    assert {by: set(skill.confusion) for by, skill in found.items()} == {by: {"a"} for by in found}
    assert skills(units[:20])["ann"].confusion == {}


@given(st.lists(st.tuples(classes, classes, classes), min_size=1, max_size=6), st.integers(10, 40))
def test_confusions_are_chances_and_do_not_depend_on_order(triples: list[tuple[str, str, str]], times: int) -> None:
    units = [[("ann", a), ("bob", b), ("cid", c)] for a, b, c in triples] * times
    one, other = skills(units), skills([unit[::-1] for unit in units[::-1]])
    labels = {label for triple in triples for label in triple}
    for by, skill in one.items():
        assert skill.confusion.keys() == other[by].confusion.keys() <= labels
        for truth, row in skill.confusion.items():
            assert row == pytest.approx(other[by].confusion[truth], abs=1e-6)
            assert all(0 < chance < 1 for chance in row.values())
            assert sum(row.values()) == pytest.approx(1.0) if len(labels) > 1 else len(row) == 1


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
