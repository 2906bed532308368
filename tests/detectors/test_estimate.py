from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.draw import Draw
from detectors.encode import decode, encode
from detectors.estimate import (
    Estimate,
    Labelled,
    Track,
    Tuning,
    estimate,
    inclusion,
    picked,
    share,
)

TUNINGS = {
    "as said": Tuning(),
    "learned": Tuning(moments=(50.0, 30.0, 20.0, -4.0, -3.0), squares=60.0, spread=1.4),
}


class Population:
    """Rows whose answers are right by chance, of which sizes favour the doubtful ones."""

    def __init__(self, rng: np.random.Generator, rows: int = 1500, off: float = 0.0) -> None:
        self.rng = rng
        self.expected = rng.beta(6, 1.5, rows)
        self.right = (rng.random(rows) < np.clip(self.expected - off, 0, 1)).astype(float)
        doubt = (1 - self.expected) ** 2
        self.sizes = 0.8 * doubt / doubt.mean() + 0.2

    def drawn(self, n: int) -> tuple[np.ndarray, Draw]:
        ids = self.rng.integers(0, 2**63, len(self.right), dtype=np.uint64)
        draw = Draw(n)
        draw.update(ids, self.sizes, list)
        return np.array(draw.rows[:n]), draw

    def labelled(self, n: int) -> Labelled:
        some, draw = self.drawn(n)
        return self.of(some, draw.inclusion())

    def of(self, some: np.ndarray, pi: np.ndarray, unknown: int = 0) -> Labelled:
        total = float(self.expected.sum())
        ones = np.ones(len(some))
        return Labelled(len(self.right), total, self.right[some], self.expected[some], pi, ones, unknown)


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
def test_the_mean_over_all_draws_is_the_truth_and_so_is_the_variance(tuning: Tuning) -> None:
    """Every draw of six rows, each kept or not on its own: exact, nothing is simulated."""
    z, f = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), np.array([0.9, 0.7, 0.2, 0.8, 0.95, 0.6])
    pi, copies = np.array([0.1, 0.5, 0.9, 1.0, 0.3, 0.7]), np.array([1.0, 2.0, 1.0, 1.0, 3.0, 1.0])
    rows, truth = int(copies.sum()), float(copies @ z / copies.sum())
    centre, slope = tuning.correction
    residual = z - centre - slope * f
    means, spreads, chances = [], [], []
    for kept in product([False, True], repeat=6):
        some = np.array(kept)
        batch = Labelled(rows, float(copies @ f), z[some], f[some], pi[some], copies[some])
        left = batch.outcome - centre - slope * batch.expectation
        # taken before it is drawn into 0..1
        means.append(centre + (slope * batch.expected + float(batch.weight @ left)) / rows)
        spreads.append(float(batch.stakes @ residual[some] ** 2))
        chances.append(float(np.where(some, pi, 1 - pi).prod()))
        if 0 < means[-1] < 1:
            assert estimate(batch, tuning).value == pytest.approx(means[-1])
    assert np.dot(chances, means) == pytest.approx(truth)
    scatter = np.dot(chances, (np.array(means) - truth) ** 2)
    assert np.dot(chances, spreads) / rows**2 == pytest.approx(scatter)


@pytest.mark.parametrize("off", [0.0, 0.1], ids=["calibrated", "10 points off"])
def test_order_samples_are_estimated_without_bias_and_covered(off: float) -> None:
    """After eight batches; the first of a model that is far off is covered in 80 %: nothing tells its spread."""
    rng = np.random.default_rng(5)
    tuning = Tuning()
    for _ in range(8):
        tuning = tuning.after(Population(rng, off=off).labelled(60))
    errors, covered = [], 0
    for _ in range(600):
        rows = Population(rng, off=off)
        found = estimate(rows.labelled(60), tuning)
        errors.append(found.value - rows.right.mean())
        covered += found.low <= rows.right.mean() <= found.high
    assert abs(np.mean(errors)) < 3.3 * np.std(errors) / np.sqrt(600)
    # of 600, 90 % are covered; the band is five standard deviations of a binomial count
    assert 0.84 < covered / 600 < 0.96
    assert abs(np.mean(errors)) < 0.01


def test_an_interval_stays_open_when_no_label_was_wrong() -> None:
    batch = Labelled(1000, 990.0, np.ones(20), np.full(20, 0.99), np.full(20, 0.02), np.ones(20))
    found = estimate(batch, Tuning())
    assert found.low < 0.97
    assert found.high == 1.0


def test_what_is_estimated_beyond_1_has_a_whole_interval_below_it() -> None:
    """All rows are expected to be 4 points better than the labelled ones, which were all right: 1.04 +- 0.01."""
    n = 200
    batch = Labelled(1000, 990.0, np.ones(n), np.full(n, 0.95), np.full(n, 0.2), np.ones(n))
    found = estimate(batch, Tuning())
    assert found.value == found.high == 1.0
    assert 0.98 < found.low < 0.99


def _sure(rng: np.random.Generator, accuracy: float) -> Population:
    """Rows of which so many are answered rightly and are expected to be; of the last, more than is expected."""
    rows = Population(rng, 600)
    chance = rng.beta(8 * accuracy, 8 * (1 - accuracy), 600) if accuracy < 1 else np.ones(600)
    rows.expected = np.clip(chance, 0.02, 0.99) if accuracy < 1 else rng.beta(7.8, 0.2, 600)
    rows.right = (rng.random(600) < chance).astype(float)
    doubt = (1 - rows.expected) ** 3
    rows.sizes = 0.8 * doubt / doubt.mean() + 0.2
    return rows


@pytest.mark.parametrize("n", [6, 15, 40])
@pytest.mark.parametrize("accuracy", [0.9, 0.98, 1.0])
def test_however_sure_the_model_and_few_the_labels_an_interval_has_width_and_holds_the_truth(
    accuracy: float, n: int
) -> None:
    """25 streams of 12 spans. Close to 1 more than 95 % are held: no wrong label can come that would narrow it less."""
    rng = np.random.default_rng(12)
    alone, tracked = list[tuple[bool, float]](), list[tuple[bool, float]]()
    for _ in range(25):
        tuning, track = Tuning(), Track()
        for _ in range(12):
            rows = _sure(rng, accuracy)
            truth, batch = rows.right.mean(), rows.labelled(n)
            track = track.after(batch, tuning)
            for kind, found in (
                (alone, estimate(batch, tuning)),
                (tracked, track.estimate(batch.expected / batch.rows, tuning)),
            ):
                kind.append((found.low - 1e-9 <= truth <= found.high + 1e-9, found.high - found.low))
            tuning = tuning.after(batch)
    for kind in (alone, tracked):
        held, width = zip(*kind, strict=True)
        assert np.mean(held) >= 0.87
        assert min(width) * n > 0.12  # the eighth part of a label; without a least variance 0.005


def test_what_adds_up_to_no_share_is_not_believed() -> None:
    """Expectations rise from half to all that is right, and the offset of before is still added to them."""
    track, tuning = Track(), Tuning()
    rng = np.random.default_rng(13)
    for _ in range(8):
        rows = _sure(rng, 0.98)
        rows.expected = np.clip(rows.expected - 0.4, 0.02, 1.0)
        track = track.after(rows.labelled(15), tuning)
    for now in (track, track.idle(), track.renewed(halved=True)):
        found = now.estimate(0.98, tuning)
        assert found.value == found.high == 1.0
        assert found.low < 0.75


def test_rows_taken_for_certain_add_no_variance_and_their_missing_labels_widen_the_interval() -> None:
    rows = Population(np.random.default_rng(1), rows=40)
    every = np.arange(40)
    whole = estimate(rows.of(every, np.ones(40)), Tuning())
    assert whole.low == whole.value == whole.high == pytest.approx(rows.right.mean())
    some = estimate(rows.of(every[:38], np.ones(38), unknown=2), Tuning())
    assert some.low <= rows.right.mean() <= some.high
    assert some.high - some.low <= 4 / 40 + 1e-9


def test_a_loss_of_any_unit_is_estimated_and_one_label_bounds_nothing() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        loss = 40.0 * rng.gamma(2.0, 1.0, 800)
        pi = np.clip(rng.uniform(0.05, 0.1, 800), 0, 1)
        some = np.flatnonzero(rng.random(800) < pi)
        n = len(some)
        batch = Labelled(800, 800 * 70.0, loss[some], np.full(n, 70.0), pi[some], np.ones(n))
        found = estimate(batch, Tuning(shares=False, seen=0.0))
        covered += found.low <= loss.mean() <= found.high
    assert 0.83 < covered / 300 < 0.96
    alone = Labelled(800, 0.0, np.ones(1), np.zeros(1), np.full(1, 0.1), np.ones(1))
    assert estimate(alone, Tuning(shares=False, seen=0.0)).high == np.inf


def test_tuning_learns_the_expectations_error_from_earlier_batches_and_lowers_the_variance() -> None:
    rng = np.random.default_rng(2)
    tuning = Tuning()
    for _ in range(20):
        tuning = tuning.after(Population(rng, off=0.15).labelled(60))
    centre, slope = tuning.correction
    assert centre + slope * 0.8 == pytest.approx(0.65, abs=0.05)


def test_what_was_learned_survives_a_checkpoint_and_no_label_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    batch = Population(rng).labelled(30)
    tuning, track = Tuning().after(batch), Track().after(batch, Tuning())
    assert decode(encode(tuning), Tuning) == tuning
    assert decode(encode(track), Track) == track
    nothing = np.zeros(0)
    empty = Labelled(100, 80.0, nothing, nothing, nothing, nothing)
    assert tuning.after(empty) == tuning
    assert track.after(empty, tuning).offset == track.offset
    assert track.after(empty, tuning).variance > track.variance
    assert estimate(empty, Tuning()).value == pytest.approx(0.8)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40))
def test_two_draws_together_say_what_they_say_apart(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = Population(rng, 300).labelled(n), Population(rng, 500).labelled(m)
    merged, parts = estimate(a.merged(b), Tuning()), [estimate(a, Tuning()), estimate(b, Tuning())]
    assert encode(a.merged(b).merged(a)) == encode(a.merged(b.merged(a)))
    if all(0 < e.value < 1 for e in parts):
        assert merged.value == pytest.approx((300 * parts[0].value + 500 * parts[1].value) / 800)


def _followed(rng: np.random.Generator, offsets: list[float]) -> list[tuple[Estimate, float]]:
    tuning, track = Tuning(), Track()
    found = []
    for off in offsets:
        rows = Population(rng, off=off)
        batch = rows.labelled(40)
        track = track.after(batch, tuning)
        found.append((track.estimate(batch.expected / batch.rows, tuning), float(rows.right.mean())))
        tuning = tuning.after(batch)
    return found


def test_the_track_is_nearer_than_a_batch_alone_in_calm_and_covers() -> None:
    rng = np.random.default_rng(6)
    tracked = [pair for _ in range(30) for pair in _followed(rng, [0.05] * 12)[2:]]
    errors = [abs(found.value - truth) for found, truth in tracked]
    covered = np.mean([found.low <= truth <= found.high for found, truth in tracked])
    rows = [Population(rng, off=0.05) for _ in range(300)]
    alone = [abs(estimate(r.labelled(40), Tuning()).value - r.right.mean()) for r in rows]
    assert np.mean(errors) < 0.75 * np.mean(alone)
    assert 0.87 < covered <= 0.99


def test_the_track_follows_a_break_within_three_batches() -> None:
    rng = np.random.default_rng(7)
    runs = [_followed(rng, [0.0] * 10 + [0.3] * 4) for _ in range(30)]
    late = [found.value - truth for run in runs for found, truth in run[12:]]
    assert abs(np.mean(late)) < 0.04
    covered = np.mean([found.low <= truth <= found.high for run in runs for found, truth in run[12:]])
    assert covered > 0.8


def test_another_version_opens_the_interval() -> None:
    track = Track(variance=0.0001)
    closed, wide = track.estimate(0.8, Tuning()), track.renewed().estimate(0.8, Tuning())
    assert wide.high - wide.low > 3 * (closed.high - closed.low)


@pytest.mark.parametrize("gone", [False, True])
def test_what_expectations_were_off_by_is_half_believed_of_another_version(gone: bool) -> None:
    """The first span of version 2, no label of which is there, and the next with six: both truths are held."""
    rng = np.random.default_rng(14)
    held, errors = [], []
    for _ in range(60):
        tuning, track = Tuning(), Track()
        for _ in range(8):
            batch = Population(rng, off=0.3).labelled(15)
            track, tuning = track.after(batch, tuning), tuning.after(batch)
        track = track.renewed(halved=True).idle()
        first = Population(rng, off=0.0 if gone else 0.3)
        found = track.estimate(float(first.expected.mean()), tuning)
        held.append(found.low <= first.right.mean() <= found.high)
        errors.append(abs(found.value - first.right.mean()))
        second = Population(rng, off=0.0 if gone else 0.3)
        batch = second.labelled(6)
        found = track.after(batch, tuning).estimate(batch.expected / batch.rows, tuning)
        held.append(found.low <= second.right.mean() <= found.high)
    assert np.mean(held) > 0.85
    assert np.mean(errors) < 0.2


def test_shares_of_classes_are_covered_even_where_no_label_was_wrong() -> None:
    rng = np.random.default_rng(8)
    covered = asked = 0
    for _ in range(400):
        rows = Population(rng, off=0.05)
        answered = rng.random(len(rows.right)) < 0.3
        some, draw = rows.drawn(80)
        found = share(rows.of(some, draw.inclusion()), answered[some], rows.right[some] > 0)
        truth = rows.right[answered].mean()
        asked += 1
        covered += found.low <= truth <= found.high
    assert 0.84 < covered / asked < 0.97


def test_a_share_of_no_labels_is_not_known() -> None:
    nothing = np.zeros(80, bool)
    none = share(Population(np.random.default_rng(8)).labelled(80), nothing, nothing)
    assert np.isnan(none.value)
    assert (none.low, none.high) == (0.0, 1.0)


def _lossy(rng: np.random.Generator, order: str) -> tuple[float, bool]:
    """Error of the estimate when 60 % of the labels asked for are lost, and whether that is said."""
    rows = Population(rng, off=0.1)
    some, draw = rows.drawn(100)
    sizes = rows.sizes[some]
    back = np.zeros(100, bool)
    first = {"rank": np.arange(100), "random": rng.permutation(100), "score": np.argsort(-sizes)}[order][:40]
    back[first] = True
    pi = inclusion(sizes, draw.keys[:100], draw.threshold, back)
    return estimate(rows.of(some[back], pi), Tuning()).value - float(rows.right.mean()), picked([(sizes, back)])


@pytest.mark.parametrize("order", ["rank", "random"])
def test_lost_labels_do_not_bias_the_estimate_when_served_by_rank_or_lost_at_random(order: str) -> None:
    rng = np.random.default_rng(9)
    errors, said = zip(*(_lossy(rng, order) for _ in range(300)), strict=True)
    assert abs(np.mean(errors)) < 0.015
    assert np.mean(said) < 0.04


def test_labels_that_came_for_the_doubtful_first_are_refused() -> None:
    rng = np.random.default_rng(10)
    errors, said = zip(*(_lossy(rng, "score") for _ in range(50)), strict=True)
    assert np.mean(errors) > 0.04
    assert np.mean(said) > 0.95


def test_labels_that_all_came_back_have_the_draws_own_chances() -> None:
    rows = Population(np.random.default_rng(11))
    some, draw = rows.drawn(50)
    pi = inclusion(rows.sizes[some], draw.keys[:50], draw.threshold, np.ones(50, bool))
    assert pi.tolist() == draw.inclusion().tolist()
