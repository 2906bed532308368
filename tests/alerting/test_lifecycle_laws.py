"""Laws of the life of alerts: whatever is found, ruled, muted and restored, in whatever order, they hold."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alerting.alert import OVERFLOW, Look, Notice, Ruling, Severity, Symptom, Transition, Verdict
from alerting.lifecycle import AlertOptions, State, step
from alerting.rules import Mute, Rule, When
from alerting.verdicts import VERDICTS
from alerting.verdicts import rule as judge

CHECKS = ("missing", "psi")  # the first says that data are broken
KEYS = [(check, column) for check in CHECKS for column in ("", "a", "b", "c")]
ENDS = {Transition.RESOLVED, Transition.FIXED, Transition.SILENCED}
BEGINS = {Transition.OPENED, Transition.REOPENED}

options_of = st.builds(
    AlertOptions,
    confirm=st.integers(1, 3),
    clear_after=st.sampled_from([0.0, 10.0, 35.0]),
    cooldown=st.sampled_from([0.0, 40.0, 200.0]),
    group_within=st.sampled_from([0.0, 30.0, 1e9]),
    repeat=st.sampled_from([0.0, 25.0, 1e9]),
    max_open=st.integers(1, 6),
    rules=st.sampled_from([
        (),
        (Rule(When(column="a"), sla=30.0, publicity=True), Rule(severity=Severity.INFO, sla=60.0)),
    ]),
    mutes=st.sampled_from([(), (Mute(When(column="b"), until=datetime.fromtimestamp(80, UTC)),)]),
    false_alarm=st.sampled_from([20.0, 1e6]),
    fix_within=st.sampled_from([20.0, 1e6]),
)  # fmt: skip


class Life(RuleBasedStateMachine):
    """Three lives of one stream: as it is, with symptoms backwards, and saved and restored at every turn."""

    @initialize(options=options_of)
    def begin(self, options: AlertOptions) -> None:
        self.options, self.now, self.given = options, 0.0, 0
        self.states = [State(), State(), State()]
        self.held: dict[str, float] = {}  # what a receiver holds for open, by key: when it began
        self.serials: dict[tuple[str, float], int] = {}
        self.ids: set[str] = set()
        self.verdicts: list[str] = []

    def restored(self) -> None:
        self.states[2] = msgspec.msgpack.decode(msgspec.msgpack.encode(self.states[2]), type=State)

    def hear(self, told: list[list[Notice]]) -> None:
        assert told[0] == told[1] == told[2]
        for notice in told[0]:
            alert = notice.alert
            assert notice.id not in self.ids
            self.ids.add(notice.id)
            life = (alert.key, alert.started)
            assert alert.serial == self.serials.get(life, 0) + 1
            self.serials[life] = alert.serial
            if notice.transition in BEGINS:
                assert alert.key not in self.held
                assert (notice.transition is Transition.OPENED) == (alert.serial == 1)
            elif notice.transition is not Transition.VERDICT:
                assert self.held[alert.key] == alert.started
            assert alert.firing == (notice.transition not in ENDS) or notice.transition is Transition.VERDICT
            if alert.firing:
                self.held[alert.key] = alert.started  # a verdict that is taken back opens it again
            else:
                self.held.pop(alert.key, None)

    @rule(
        found=st.sets(st.sampled_from(KEYS)),
        severity=st.sampled_from(list(Severity)),
        looked=st.sets(st.sampled_from(CHECKS)),
        passed=st.sampled_from([10.0, 10.0, 10.0, 100.0]),
    )
    def look(self, found: set[tuple[str, str]], severity: Severity, looked: set[str], passed: float) -> None:
        self.now += passed
        symptoms = [
            Symptom("m", check, column, self.now - 10, self.now, 2.0, 1.0, f"{column} moved", severity,
                    broken=check == "missing")
            for check, column in sorted(found)
            if check in looked
        ]  # fmt: skip
        looks = [Look("m", check) for check in sorted(looked)]
        orders = [symptoms, symptoms[::-1], symptoms]
        self.hear([
            step(state, some, looks, self.now, self.options) for state, some in zip(self.states, orders, strict=True)
        ])  # fmt: skip
        self.restored()

    @rule(
        key=st.sampled_from([f"m/{check}/{column}" for check, column in KEYS]),
        ruling=st.sampled_from(list(Ruling)),
        second=st.sampled_from(["", "confirms", "revokes"]),
        which=st.integers(0, 5),
    )
    def rule_on(self, key: str, ruling: Ruling, second: str, which: int) -> None:
        self.given += 1
        named = self.verdicts[-which % len(self.verdicts)] if self.verdicts else "nothing"
        verdict = Verdict(
            id=f"v{self.given}", key=key, ruling=ruling, by="ann", at=self.now,
            confirms=named if second == "confirms" else "", revokes=named if second == "revokes" else "",
        )  # fmt: skip
        self.verdicts.append(verdict.id)
        done = [judge(state, verdict, self.options) for state in self.states]
        assert done[0] == done[1] == done[2]
        assert done[0].outcome
        self.hear([consequences.notices for consequences in done])
        self.restored()

    @invariant()
    def all_is_in_order(self) -> None:
        state = self.states[0]
        assert state == self.states[1] == self.states[2]
        assert sum(alert.check != OVERFLOW for alert in state.open()) <= self.options.max_open
        assert len(state.pending) <= self.options.max_open
        assert len(state.ruled) <= VERDICTS
        held = {alert.key for alert in state.alerts.values() if alert.held}
        assert held == self.held.keys()
        for alert in state.open():
            assert alert.key not in self.held or alert.firing
            if alert.leader:
                leader = state.find_open(alert.leader)
                assert leader is None or (not leader.leader and leader.joined)
            for member in alert.members:
                assert state.alerts[member.key].leader == alert.key
            if alert.deadline is not None:
                assert alert.firing
        for episode in state.episodes:
            assert episode.end is None or episode.start <= episode.end


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
