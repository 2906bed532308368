"""The life of an alert, by examples and by laws that hold for every stream of symptoms."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import pytest

from alerting.alert import OVERFLOW, Look, Notice, Ruling, Severity, Symptom, Transition, Verdict
from alerting.lifecycle import REMEMBERED, AlertOptions, State, step
from alerting.rules import Mute, Rule, When
from alerting.verdicts import rule as judge

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


def test_what_one_change_moves_is_one_alert_with_its_members_ranked() -> None:
    state, options = State(), AlertOptions(clear_after=10, group_within=60)
    moved = [msgspec.structs.replace(symptom(f"c{i:02}"), facts={"rank": float(40 - i)}) for i in range(40)]
    (opened,) = step(state, moved[:30], [PSI], 10, options)
    assert (opened.alert.column, opened.alert.joined) == ("c29", 29)  # the likeliest cause of those there are
    assert [m.column for m in opened.alert.members[:2]] == ["c28", "c27"]
    assert step(state, moved, [PSI], 20, options) == []
    (grown,) = step(state, moved, [PSI], 70, options)  # told once more, when nothing more can join it
    assert (grown.transition, grown.alert.joined, len(grown.alert.members)) == (Transition.UPDATED, 39, 39)
    assert told(step(state, [*moved, symptom("late")], [PSI], 80, options)) == [("opened", "late")]
    assert step(state, moved[1:2], [PSI], 90, options) == []
    resolved = [n.alert.column for t in (100, 110) for n in step(state, moved[1:2], [PSI], t, options)]
    assert resolved == ["late"], "the leader waits for the last that it leads"
    assert told([n for t in (120, 130) for n in step(state, [], [PSI], t, options)]) == [("resolved", "c29")]


def test_broken_data_silence_the_drift_they_cause_until_they_are_whole() -> None:
    state, options = State(), AlertOptions(clear_after=10, cooldown=0)
    missing = Look("shelf", "missing")
    broken = msgspec.structs.replace(symptom(check="missing"), broken=True)
    both = [PSI, missing]
    assert told(step(state, [symptom("other")], both, 10, options)) == [("opened", "other")]
    notices = step(state, [symptom("other"), symptom(), broken], both, 20, options)
    assert told(notices) == [("silenced", "other"), ("opened", "weight")]
    drift = state.find_open("shelf/psi/other")
    assert drift is not None
    assert (drift.inhibited, drift.firing, drift.joined) == ("shelf/missing/weight", False, 1)
    assert [told(step(state, [symptom("other")], both, t, options)) for t in (30, 40)] == [
        [],
        [("resolved", "weight"), ("reopened", "other")],
    ]


def test_a_relapse_goes_on_as_the_same_alert_and_flapping_is_told_less_and_less() -> None:
    state, options = State(), AlertOptions(clear_after=10, cooldown=1000, repeat=1e9)
    flaps = [[symptom()] if i % 4 == 0 else [] for i in range(400)]
    notices = [n for i, found in enumerate(flaps) for n in step(state, found, [PSI], 10.0 * i, options)]
    assert [n.transition.value for n in notices] == ["opened", "resolved", "reopened", "resolved", "reopened"]
    assert {n.alert.started for n in notices} == {0.0}
    assert notices[-1].alert.relapses == 2


def test_a_rule_gives_severity_and_a_deadline_that_escalates_unless_somebody_rules() -> None:
    rules = (
        Rule(When(column="wei*"), severity=Severity.INFO, sla=25, escalate=Severity.CRITICAL),
        Rule(When(scope="slice:acme"), publicity=True),
    )
    options = AlertOptions(rules=rules, group_within=0)
    state = State()
    famous = msgspec.structs.replace(symptom("z", Severity.INFO), scope="slice:acme")
    notices = step(state, [symptom("a", Severity.CRITICAL), symptom(), famous], [PSI, famous.look], 10, options)
    assert [n.alert.column for n in notices] == ["z", "a", "weight"]
    assert (notices[2].alert.severity, notices[2].alert.deadline) == (Severity.INFO, 35)
    assert step(state, [], [], 30, options) == []
    (late,) = step(state, [], [], 40, options)
    assert (late.transition, late.alert.severity, late.alert.deadline) == (
        Transition.ESCALATED,
        Severity.CRITICAL,
        None,
    )

    state = State()
    step(state, [symptom()], [PSI], 10, options)
    verdict = Verdict(id="v", key=symptom().key, ruling=Ruling.ACKNOWLEDGED, by="ann", at=0)
    assert [n.transition for n in judge(state, verdict, options).notices] == [Transition.VERDICT]
    assert step(state, [], [], 40, options) == []


def test_what_is_muted_opens_and_is_told_when_the_mute_ends() -> None:
    until = datetime.fromtimestamp(30, UTC)
    state, options = State(), AlertOptions(mutes=(Mute(When(check="psi"), until=until, why="a known sale"),))
    assert step(state, [symptom()], [PSI], 10, options) == []
    assert [alert.muted for alert in state.open()] == ["a known sale"]
    assert told(step(state, [symptom()], [PSI], 30, options)) == [("opened", "weight")]


def test_what_the_world_sees_has_a_place_when_there_is_none() -> None:
    state = State()
    options = AlertOptions(max_open=3, rules=(Rule(When(column="vip"), publicity=True),))
    step(state, [symptom(f"c{i}") for i in range(9)], [PSI], 10, options)
    step(state, [symptom(f"c{i}") for i in range(9)] + [symptom("vip")], [PSI], 20, options)
    assert sorted(a.column for a in state.open() if a.check != OVERFLOW) == ["c0", "c1", "vip"]
    (beyond,) = [a for a in state.open() if a.check == OVERFLOW]
    assert beyond.score == 7


@pytest.mark.parametrize(("within", "notices"), [(600.0, 2), (0.0, 1001)])
def test_a_storm_gives_a_bounded_number_of_notices_with_exact_counts(within: float, notices: int) -> None:
    state, options = (
        State(),
        AlertOptions(group_within=within, clear_after=0, rules=(Rule(When(column="c1*"), sla=60),)),
    )
    storm = [symptom(f"c{i}") for i in range(100_000)]
    began = time.process_time()
    told_at = [step(state, storm, [PSI], t, options) for t in (10.0, 20.0)]
    assert (time.process_time() - began) / 2 < 10  # seconds of a look; 1 on a calm machine
    assert [len(some) for some in told_at] == [notices, 0]
    (beyond,) = [n.alert for n in told_at[0] if n.alert.check == OVERFLOW]
    assert beyond.score == 99_000
    assert within == 0 or told_at[0][0].alert.joined == 999
    assert sum(len(msgspec.msgpack.encode(n)) for n in told_at[0]) < 2_000_000
    ended = step(state, [], [PSI], 40.0, options)
    assert len(ended) == notices
    assert not list(state.open())
