from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from detectors.checks.level import Level, Quantile
from detectors.core import from_columns, number
from detectors.profile import Profile, lay_out
from tests.detectors.checks.rows import reference, window

RNG = np.random.default_rng(1)
ENTROPY = RNG.beta(2, 8, 5_000)


def pair(before: Any, now: Any) -> tuple[Profile, Profile]:
    was = reference({"x": before})
    return window(was, {"x": now}), was


def test_a_spike_is_found_upwards_only() -> None:
    current, was = pair(ENTROPY, RNG.beta(4, 6, 200))
    found = Level().check(current, was, ["x"]).findings
    assert found[0].text.startswith("x rose: its mean went from 0.2011 to 0.4167. Change 1.77 standard deviations")
    assert found[0].effect == pytest.approx((current.mean[0] - was.mean[0]) / ENTROPY.std(), rel=1e-3)
    assert not Level(side="down").check(current, was, ["x"]).findings
    assert Level(side="both").check(current, was, ["x"]).findings


def test_a_fall_is_found_downwards() -> None:
    current, was = pair(ENTROPY + 0.5, ENTROPY[:300])
    assert Level(side="down").check(current, was, ["x"]).findings[0].text.startswith("x fell")
    assert not Level(side="up").check(current, was, ["x"]).findings


def test_the_p_value_is_that_of_the_z_test() -> None:
    before, now = RNG.normal(0, 1, 5_000), RNG.normal(0.3, 1.2, 300)
    p = Level(side="both").check(*pair(before, now), ["x"]).p_value
    assert p is not None
    z = (now.mean() - before.mean()) / np.sqrt(now.var(ddof=1) / 300 + before.var(ddof=1) / 5_000)
    assert p[0] == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-6)


@pytest.mark.parametrize(("unit", "size"), [("relative", 0.5), ("absolute", 5.0)])
def test_the_change_is_measured_in_the_asked_unit(unit: Any, size: float) -> None:
    scores = Level(unit=unit, limit=0.1).check(*pair(RNG.normal(10, 1, 5_000), RNG.normal(15, 1, 500)), ["x"])
    assert scores.findings[0].effect == pytest.approx(size, rel=0.02)


def test_a_flag_that_was_never_set_has_a_level_too() -> None:
    found = Level().check(*pair(np.zeros(2_000), (np.arange(100) % 3 == 0).astype(float)), ["x"]).findings
    assert found[0].facts["after"] == pytest.approx(0.34)


def test_a_large_change_of_few_rows_is_no_finding() -> None:
    before = np.where(RNG.random(5_000) < 0.01, 100.0, 0.0)
    assert not Level(min_rows=1).check(*pair(before, np.array([0.0] * 9 + [100.0])), ["x"]).findings


def test_a_latency_whose_tail_grew_is_found_by_its_quantile() -> None:
    before, now = RNG.lognormal(-3, 0.5, 5_000), RNG.lognormal(-3, 0.5, 600)
    now[:60] *= 8  # one in ten waits
    found = Quantile().check(*pair(before, now), ["x"]).findings
    assert found[0].effect == pytest.approx(np.quantile(now, 0.95) / np.quantile(before, 0.95), rel=0.05)
    assert "its 95 % quantile went from" in found[0].text


def test_a_quantile_of_few_rows_that_are_high_by_chance_is_no_finding() -> None:
    before = RNG.lognormal(-3, 1.5, 5_000)
    calm = [Quantile(min_rows=20).check(*pair(before, RNG.lognormal(-3, 1.5, 40)), ["x"]) for _ in range(40)]
    assert max(float(scores.score[0]) for scores in calm) > 1.5
    assert not any(scores.findings for scores in calm)


def test_a_quantile_at_or_below_zero_is_not_measured() -> None:
    assert np.isnan(Quantile().check(*pair(np.zeros(500), np.ones(500)), ["x"]).score[0])


def test_a_constant_is_constant_whatever_its_sums_round_to() -> None:
    rows = [from_columns({"x": number(np.full(n, 0.7))}) for n in (203, 7, 40)]
    layout = lay_out(rows[0])
    reference, current = Profile(layout), Profile(layout)
    reference.update(rows[0])
    for part in rows[1:] * 3:
        current.update(part)
    found = Level(side="both").check(current, reference, ["x"])
    assert found.findings == []
    assert reference.variance.tolist() == [0.0]
