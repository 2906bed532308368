from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detectors.core import Floats
from detectors.many import Correction, adjusted

P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=30).map(np.array)
CORRECTIONS: tuple[Correction, ...] = ("none", "bonferroni", "holm", "bh", "by")


@pytest.mark.parametrize("correction", ["bh", "by"])
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array))
def test_the_false_discovery_corrections_are_scipys(correction: Literal["bh", "by"], p: Floats) -> None:
    assert adjusted(p, correction) == pytest.approx(stats.false_discovery_control(p, method=correction), rel=1e-12)


@pytest.mark.parametrize("correction", CORRECTIONS)
@given(p=P_VALUES)
def test_what_was_not_measured_stays_out(correction: Correction, p: Floats) -> None:
    known = ~np.isnan(p)
    assert np.array_equal(adjusted(p, correction)[known], adjusted(p[known], correction))
    assert np.isnan(adjusted(p, correction)[~known]).all()


@pytest.mark.parametrize("correction", CORRECTIONS)
@given(p=P_VALUES)
def test_adjusting_keeps_the_order_and_never_makes_surer(correction: Correction, p: Floats) -> None:
    p = p[~np.isnan(p)]
    out = adjusted(p, correction)
    assert (out >= p).all()
    assert (np.diff(out[np.argsort(p, kind="stable")]) >= 0).all()


@given(p=P_VALUES)
def test_holm_lies_between_bh_and_bonferroni(p: Floats) -> None:
    p = p[~np.isnan(p)]
    holm = adjusted(p, "holm")
    assert (holm <= adjusted(p, "bonferroni")).all()
    assert (holm >= adjusted(p, "bh") * (1 - 1e-12)).all()
