"""The life of an alert, by examples and by laws that hold for every stream of symptoms."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.alert import Look, Notice, Severity, Symptom, Transition
from alerting.lifecycle import OVERFLOW, REMEMBERED, AlertOptions, State, step

PSI = Look("shelf", "psi")


def symptom(
    column: str = "weight", severity: Severity = Severity.WARNING, score: float = 0.4, check: str = "psi"
) -> Symptom:
    return Symptom("shelf", check, column, 0.0, 10.0, score, 0.2, f"{column} moved", severity)


def told(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(n.transition.value, n.alert.column) for n in notices]


def test_opens_once_and_stays_silent_while_the_symptom_lasts() -> None:
    state, options = State(), AlertOptions()
    assert told(step(state, [symptom()], [PSI], 10, options)) == [("opened", "weight")]
    assert [step(state, [symptom()], [PSI], t, options) for t in (20, 30, 40)] == [[], [], []]
    (alert,) = state.open()
    assert (alert.started, alert.last_seen) == (10, 40)


def test_resolves_after_its_check_found_nothing_for_clear_after() -> None:
    state, options = State(), AlertOptions(clear_after=60)
    step(state, [symptom()], [PSI], 10, options)
    assert [told(step(state, [], [PSI], t, options)) for t in (20, 50, 79)] == [[], [], []]
    (notice,) = step(state, [], [PSI], 80, options)
    assert (notice.transition, notice.alert.resolved, notice.alert.started) == (Transition.RESOLVED, 80, 10)
    assert not list(state.open())


def test_does_not_resolve_while_its_check_does_not_look() -> None:
    state, options = State(), AlertOptions(clear_after=0)
    step(state, [symptom()], [PSI], 10, options)
    assert step(state, [], [Look("shelf", "ks"), Look("other", "psi")], 100_000, options) == []
    assert told(step(state, [], [PSI], 100_010, options)) == [("resolved", "weight")]


def test_a_relapse_starts_the_quiet_time_anew() -> None:
    state, options = State(), AlertOptions(clear_after=30)
    step(state, [symptom()], [PSI], 10, options)
    step(state, [], [PSI], 20, options)
    step(state, [symptom()], [PSI], 40, options)
    assert step(state, [], [PSI], 50, options) == []
    assert told(step(state, [], [PSI], 80, options)) == [("resolved", "weight")]


def test_waits_for_symptoms_in_a_row() -> None:
    state, options = State(), AlertOptions(confirm=3)
    looks = [[symptom()], [symptom()], [], [symptom()], [symptom()], [symptom()]]
    assert [len(step(state, found, [PSI], 10.0 * (i + 1), options)) for i, found in enumerate(looks)] == [0] * 5 + [1]
    (alert,) = state.open()
    assert alert.started == 40  # the first of the three


def test_repeats_at_most_each_repeat() -> None:
    state, options = State(), AlertOptions(repeat=100)
    transitions = [told(step(state, [symptom()], [PSI], 10.0 * i, options)) for i in range(25)]
    assert [i for i, said in enumerate(transitions) if said == [("updated", "weight")]] == [10, 20]


def test_a_risen_severity_is_told_at_once_and_does_not_fall() -> None:
    state, options = State(), AlertOptions()
    step(state, [symptom()], [PSI], 10, options)
    (notice,) = step(state, [symptom(severity=Severity.CRITICAL)], [PSI], 20, options)
    assert (notice.transition, notice.alert.severity, notice.alert.opened_as) == (
        Transition.UPDATED,
        Severity.CRITICAL,
        Severity.WARNING,
    )
    assert step(state, [symptom(severity=Severity.INFO)], [PSI], 30, options) == []
    assert next(state.open()).severity is Severity.CRITICAL


def test_what_is_beyond_the_bound_is_one_alert_with_the_exact_count() -> None:
    state, options = State(), AlertOptions(max_open=3, clear_after=0, group_within=0)
    columns = [symptom(f"c{i:03}") for i in range(50)]
    notices = step(state, columns, [PSI], 10, options)
    assert sorted(told(notices)) == [("opened", ""), ("opened", "c000"), ("opened", "c001"), ("opened", "c002")]
    (beyond,) = [n.alert for n in notices if n.alert.check == OVERFLOW]
    assert beyond.facts["without_alert"] == 47.0

    notices = step(state, columns[:3], [PSI], 20, options)
    assert [(n.transition, n.alert.check) for n in notices] == [(Transition.RESOLVED, OVERFLOW)]


def test_the_count_beyond_the_bound_includes_checks_that_look_seldom() -> None:
    state, options = State(), AlertOptions(max_open=1, clear_after=0, repeat=0)
    both = [symptom("a"), symptom("b"), symptom("c", check="hourly")]
    step(state, both, [PSI, Look("shelf", "hourly")], 10, options)
    notices = step(state, both[:2], [PSI], 20, options)
    assert [(n.alert.check, n.alert.facts["without_alert"]) for n in notices if n.alert.check == OVERFLOW] == [
        (OVERFLOW, 2.0)
    ]


def test_a_place_that_is_freed_goes_to_the_gravest() -> None:
    state, options = State(), AlertOptions(max_open=1, clear_after=0, group_within=0)
    step(state, [symptom("a")], [PSI], 10, options)
    notices = step(state, [symptom("b"), symptom("c", Severity.CRITICAL)], [PSI], 20, options)
    assert told(notices)[:2] == [("resolved", "a"), ("opened", "c")]


def test_of_two_symptoms_of_a_key_the_gravest_counts_in_any_order() -> None:
    both = [symptom(score=float("nan")), symptom(score=0.3), symptom(score=0.9)]
    for order in (both, both[::-1]):
        (notice,) = step(State(), order, [PSI], 10, AlertOptions())
        assert notice.alert.score == 0.9


def test_facts_and_texts_are_bounded() -> None:
    wild = Symptom(
        "shelf", "psi", "x", 0, 1, 1, 0, "t" * 10**6, facts={f"{i}" * 1_000: "v" * 10**5 for i in range(1_000)}
    )
    (notice,) = step(State(), [wild], [PSI], 10, AlertOptions())
    assert len(msgspec.msgpack.encode(notice)) < 20_000


def test_a_resolved_alert_is_forgotten() -> None:
    state, options = State(), AlertOptions(clear_after=0)
    step(state, [symptom()], [PSI], 10, options)
    step(state, [], [PSI], 20, options)
    step(state, [], [PSI], 20 + REMEMBERED, options)
    assert list(state.alerts) == ["shelf/psi/weight"]
    step(state, [], [PSI], 21 + REMEMBERED, options)
    assert not state.alerts
    assert not state.pending


@pytest.mark.parametrize("field", ["confirm", "max_open"])
def test_options_refuse_zero(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: 0}, AlertOptions)


def test_a_part_of_the_rows_has_an_alert_of_its_own_that_only_its_own_look_resolves() -> None:
    state, options = State(), AlertOptions(clear_after=10, group_within=0)
    part = msgspec.structs.replace(symptom(), scope="slice:young")
    assert len({n.alert.key for n in step(state, [symptom(), part], [PSI, part.look], 10, options)}) == 2
    assert [n.alert.scope for t in (20, 30) for n in step(state, [], [PSI], t, options)] == [""]
    assert [a.scope for a in state.open()] == ["slice:young"]
    assert [n.alert.scope for t in (40, 50) for n in step(state, [], [part.look], t, options)] == ["slice:young"]
