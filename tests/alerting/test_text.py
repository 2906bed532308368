"""The words of a notice: complete, short, and harmless whatever names they hold."""

from __future__ import annotations

import shlex
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import Alert, Member, Notice, Ruling, Severity, Transition, Verdict
from alerting.text import TITLE, html, message, mrkdwn, plain, subject

VERDICT = Verdict(id="v1", key="k", ruling=Ruling.INTENDED, by="ann", at=500.0, why="new supplier")
ALERT = Alert(
    key="shelf/psi/weight", model="shelf", check="psi", column="weight", severity=Severity.WARNING, started=3_600.0,
    last_seen=9_000.0, text="weight moved: its mean went from 310 to 280 g", score=0.5, limit=0.2, serial=1,
)  # fmt: skip


def told(transition: Transition = Transition.OPENED, **changes: Any) -> str:
    return plain(message(Notice("n", transition, replace(ALERT, **changes)), "https://driftd.example.org"))


def test_everything_that_is_known_is_said_in_fifteen_lines() -> None:
    members = tuple(Member(f"shelf/psi/c{i}", "psi", f"c{i}", "", Severity.INFO, 0.0, "moved") for i in range(40))
    text = told(
        since=1_800.0, scope="slice:young", deadline=18_000.0,
        facts={"p_value": 1e-5, "effect": -1.25, "effect_unit": "sd", "slice": "age < 25"},
        members=members, joined=43, examples=("e-1", "e-2", "e-3"), before=VERDICT, relapses=2,
    )  # fmt: skip
    assert text.splitlines() == [
        "WARNING shelf: weight moved: its mean went from 310 to 280 g",
        "What: weight moved: its mean went from 310 to 280 g",
        "Since: 1970-01-01 00:30:00 UTC, last seen 2 h later",
        "How sure: score 0.5, limit 0.2 (2.5 times); effect -1.25 sd; p-value 1e-05",
        "Also moved: c0, c1, c2, c3, c4 and 38 more",
        "Where: slice young; rows where age < 25",
        "Examples: e-1, e-2, e-3",
        "Last time: intended, by ann at 1970-01-01 00:08:20 UTC: new supplier",
        "Relapses: came back 2 times soon after it resolved",
        "Deadline: 1970-01-01 05:00:00 UTC to say what it was",
        "Next: say what it was, or that you look at it: intended, unintended, false-alarm, acknowledged",
        "  driftd verdict shelf/psi/weight acknowledged --why ...",
        "Page: https://driftd.example.org/",
    ]


@pytest.mark.parametrize(
    ("transition", "changes", "title"),
    [
        (Transition.UPDATED, {}, "WARNING still shelf: "),
        (Transition.REOPENED, {}, "WARNING again shelf: "),
        (Transition.ESCALATED, {"severity": Severity.CRITICAL}, "CRITICAL overdue shelf: "),
        (Transition.VERDICT, {"verdict": VERDICT}, "Verdict intended shelf: "),
        (Transition.VERDICT, {}, "Verdict revoked shelf: "),
        (Transition.SILENCED, {"inhibited": "shelf/missing/weight"}, "Silenced shelf: "),
        (Transition.RESOLVED, {"resolved": 9_600.0}, "Resolved shelf: "),
        (Transition.FIXED, {"resolved": 9_600.0}, "Fixed shelf: "),
    ],
)
def test_each_transition_says_what_happened(transition: Transition, changes: dict[str, Any], title: str) -> None:
    text = told(transition, **changes)
    assert text.startswith(title + "weight moved")
    assert ("driftd verdict" in text) == replace(ALERT, **changes).firing


def test_what_to_do_next_follows_the_verdict() -> None:
    assert "intended --confirm v1" in told(Transition.VERDICT, verdict=VERDICT)
    assert "driftd verdict" not in told(Transition.VERDICT, verdict=replace(VERDICT, confirms="v0"))
    assert "mend it" in told(Transition.VERDICT, verdict=replace(VERDICT, ruling=Ruling.UNINTENDED), deadline=20_000.0)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


ANY = st.text(max_size=300)


@given(model=ANY, column=ANY, text=ANY, example=ANY, word=ANY, ruling=st.sampled_from(Ruling), since=st.floats())
def test_words_from_outside_stay_words(
    model: str, column: str, text: str, example: str, word: str, ruling: Ruling, since: float
) -> None:
    alert = replace(
        ALERT, key=f"{model}/psi/{column}", model=model, column=column, text=text, examples=(example,), since=since,
        facts={"slice": word, "effect_unit": word, "effect": 1.0}, score=since, limit=since,
        before=replace(VERDICT, by=word, why=text), members=(Member("k", word, word, word, Severity.INFO, 0.0, word),),
        verdict=None if ruling is Ruling.FALSE_ALARM else replace(VERDICT, id=word, ruling=ruling),
    )  # fmt: skip
    one = message(Notice("n", Transition.OPENED, alert), "https://driftd.example.org")
    assert len(one.title) <= TITLE
    assert len(subject(alert)) <= TITLE
    lines = plain(one).splitlines()
    assert len(lines) <= 16
    assert len(lines) == 1 + len(one.lines) + sum(bool(line.code) for line in one.lines) + 1
    assert plain(one).replace("\n", "").isprintable()
    for line in one.lines:
        if line.code:
            assert shlex.split(line.code)[:3] == ["driftd", "verdict", alert.key]
    tags = _Tags()
    tags.feed(html(one))
    assert set(tags.tags) <= {"html", "body", "h3", "table", "tr", "th", "td", "br", "code", "p", "a"}
    assert tags.tags.count("a") == 1
    assert mrkdwn(one).count("<") == mrkdwn(one).count(">") == 1
