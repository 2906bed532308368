from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.checks.performance import Calibration, Performance
from detectors.core import Batch, Floats, Role, Scores, category, from_columns, number, vector
from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import Reference, build_from
from detectors.scorers.outcome import Outcome

SCORERS = {"outcome": Outcome()}


def answers(seed: int, n: int, sure: float = 1.5, out: float = 0.0) -> Batch:
    """Rows of a calibrated model; `sure` spreads its scores, a share `out` answers what was never labelled."""
    rng = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-rng.normal(0, sure, n)))
    label = np.where(rng.random(n) < out, "maybe", np.where(chance > 0.5, "yes", "no"))
    columns = {
        "label": category(label.tolist()),
        "scores": vector(np.stack([1 - chance, chance], axis=1)),
        "truth": category(np.where(rng.random(n) < chance, "yes", "no").tolist()),
    }
    return from_columns(columns, ids=[f"{seed} {i}" for i in range(n)])


def reference() -> Reference:
    return build_from("m", answers(1, 5_000), SCORERS, roles={"truth": Role.TRUTH}, source="test", created=0.0)


def look(window: Batch, learned: Reference) -> Scores:
    check = Performance()
    profile = Profile(learned.layout)
    profile.update(learned.scored(window, SCORERS))
    memory = decode(encode(check.start(learned, learned.layout.columns)), Any)
    return check.step(memory, profile, learned.profile, learned.layout.columns)[1]


def test_the_truth_is_learned_from_and_never_counted() -> None:
    learned = reference()
    assert "truth" not in learned.layout.columns
    assert learned.role("truth") is Role.TRUTH
    again = Reference.decode(learned.encode())
    window = answers(2, 300)
    now, after = (r.scored(window, SCORERS)["expected_correct"].values for r in (learned, again))
    assert now.tolist() == after.tolist()


def test_a_fall_is_found_before_any_label_and_told_with_what_labels_would_say() -> None:
    learned = reference()
    window = answers(3, 1_000, sure=0.7)
    scores = look(window, learned)
    (finding,) = scores.findings
    label, truth = ([c.words[i] for i in c.values] for c in (window["label"], window["truth"]))
    right = np.mean([a == b for a, b in zip(label, truth, strict=True)])
    accuracy = scores.estimates[0]
    assert accuracy.low <= right <= accuracy.high
    assert finding.score == pytest.approx(accuracy.reference - accuracy.value, abs=1e-6)
    assert "labels would say" in finding.text


def test_calm_rows_have_estimates_and_no_finding() -> None:
    scores = look(answers(4, 1_000), reference())
    assert not scores.findings
    assert {estimate.doubt for estimate in scores.estimates} == {""}


def test_rows_unlike_all_labelled_ones_make_the_estimate_doubtful() -> None:
    scores = look(answers(5, 1_000, out=0.2), reference())
    assert all("unlike all labelled ones" in estimate.doubt for estimate in scores.estimates)


def test_scores_in_another_order_than_the_words_are_understood() -> None:
    learned = reference()
    rows = answers(6, 500)
    turned = from_columns({**rows.columns, "scores": vector(rows["scores"].values[:, ::-1])})
    other = answers(1, 5_000)
    flipped = from_columns({**other.columns, "scores": vector(other["scores"].values[:, ::-1])})
    fitted = {"outcome": Outcome().fit(flipped)}
    mine = Outcome().score(turned, fitted["outcome"])["expected_correct"].values
    assert mine.tolist() == learned.scored(rows, SCORERS)["expected_correct"].values.tolist()


def test_without_labelled_rows_nothing_is_said() -> None:
    rows = answers(1, 200)
    unlabelled = from_columns({name: column for name, column in rows.columns.items() if name != "truth"})
    assert Outcome().fit(unlabelled) is None
    assert Outcome().score(unlabelled, None) == {}


# -- bets


def joined(surprise: Floats) -> Reference:
    return build_from("m", from_columns({"surprise": number(surprise)}), {}, roles={}, source="labels", created=0.0)


def first_alarm(check: Calibration, learned: Reference, surprise: Floats, size: int = 100) -> int:
    """Labels until the first finding; all of them when there is none."""
    memory: Any = check.start(learned, ("surprise",))
    for first in range(0, len(surprise), size):
        part = surprise[first : first + size]
        profile = Profile(learned.layout, 256)
        ids = [f"{first + i}" for i in range(len(part))]
        profile.update(from_columns({"surprise": number(part)}, times=np.arange(first, first + len(part)), ids=ids))
        memory, scores = check.step(decode(encode(memory), Any), profile, learned.profile, ("surprise",))
        if scores.findings:
            return first + len(part)
    return len(surprise)


def surprises(rng: np.random.Generator, n: int, gap: float) -> Floats:
    expected = rng.uniform(0.6, 0.99, n)
    return (rng.random(n) < expected + gap) - expected


def test_false_findings_are_as_rare_as_promised_at_the_edge_of_the_tolerance() -> None:
    check = Calibration(promise=500)
    learned = joined(surprises(np.random.default_rng(0), 500, 0.0))
    runs = [
        first_alarm(check, learned, surprises(np.random.default_rng(seed), 4_000, 0.02), size=50)
        for seed in range(1, 31)
    ]
    assert np.mean(runs) > 1_000  # 1,600 measured; without the tolerance 660


@pytest.mark.parametrize(("gap", "labels"), [(-0.1, 1_000), (-0.2, 300), (-0.3, 200)])
def test_a_calibration_that_breaks_is_found_soon(gap: float, labels: int) -> None:
    learned = joined(surprises(np.random.default_rng(0), 500, 0.0))
    delays = [
        first_alarm(Calibration(), learned, surprises(np.random.default_rng(seed), 4_000, gap)) for seed in range(5)
    ]
    assert np.median(delays) <= labels


def test_cut_into_other_windows_the_evidence_is_the_same() -> None:
    learned = joined(surprises(np.random.default_rng(0), 500, 0.0))
    said = surprises(np.random.default_rng(1), 600, -0.05)
    scores = []
    for size in (600, 200, 37):
        memory: Any = {}
        for first in range(0, 600, size):
            profile = Profile(learned.layout, 1_000)
            part = said[first : first + size]
            ids = [f"{first + i}" for i in range(len(part))]
            profile.update(from_columns({"surprise": number(part)}, times=np.arange(first, first + len(part)), ids=ids))
            memory, _ = Calibration().step(memory, profile, learned.profile, ("surprise",))
        scores.append(memory["surprise"]["bets"].mean())
    assert scores[1:] == pytest.approx([scores[0]] * 2)
