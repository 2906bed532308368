"""People and their tokens: who is let in, who is not, and how often somebody may guess."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from alerting.secret import Secret
from monitor.api.problem import Problem
from monitor.config import parse
from monitor.people import People, Person, Right, read_token, resident
from monitor.settings import Refused

ADA, BEN = Person("ada", Secret("a" * 32)), Person("ben", Secret("b" * 32), (Right.LABEL,))
HOME = "192.0.2.1"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(people: People, token: str, address: str = HOME, may: Right = Right.VERDICT) -> int:
    with pytest.raises(Problem) as caught:
        people.admit(token, (may,), address)
    assert token not in str(caught.value) or not token
    return caught.value.status


def test_a_person_may_do_what_they_have_a_right_to() -> None:
    people = People([ADA, BEN])
    assert people.admit("a" * 32, (Right.VERDICT,), HOME) == "ada"
    assert people.admit("b" * 32, (Right.LABEL,), HOME) == "ben"
    assert people.admit("b" * 32, (Right.RETRAIN, Right.LABEL), HOME) == "ben"
    assert refusal(people, "b" * 32) == 403
    assert refusal(people, "b" * 31) == 401
    assert refusal(people, "") == 401


def test_nobody_has_the_empty_token() -> None:
    people = People([Person("eve", Secret(""))])
    assert refusal(people, "") == 401


def test_tokens_are_shown_nowhere() -> None:
    assert "aaaa" not in repr(ADA)
    assert "aaaa" not in str(vars(People([ADA])))


def test_whoever_guesses_is_stopped_for_a_minute_and_others_are_not() -> None:
    clock = Clock()
    people = People([ADA], clock)
    statuses = [refusal(people, f"guess {n}") for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert refusal(people, "a" * 32) == 429
    assert people.admit("a" * 32, (Right.LABEL,), "192.0.2.2") == "ada"
    clock.now = 60.0
    assert people.admit("a" * 32, (Right.LABEL,), HOME) == "ada"


def test_one_outdated_token_over_and_over_locks_nobody_out() -> None:
    people = People([ADA], Clock())
    assert {refusal(people, "outdated, but kept by a job") for _ in range(100)} == {401}
    assert people.admit("a" * 32, (Right.LABEL,), HOME) == "ada"


def test_an_ipv6_network_guesses_as_one_and_the_table_of_guessers_is_bounded() -> None:
    people = People([ADA], Clock())
    assert [refusal(people, f"guess {n}", f"2001:db8::{n:x}") for n in range(11)] == [401] * 10 + [429]
    for n in range(3000):
        refusal(people, "guess", f"10.0.{n // 250}.{n % 250}")
    assert len(people._tried) == 1000  # noqa: SLF001 a bound that shows nowhere else


def test_the_token_of_this_machine_is_made_once_and_is_the_daemon_s_alone(tmp_path: Path) -> None:
    assert read_token(tmp_path) is None
    first = resident(tmp_path)
    assert len(first.token) >= 32
    assert (resident(tmp_path).token, read_token(tmp_path)) == (first.token, first.token)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["token"]
    (tmp_path / "token").write_text("")  # as a crash on another file system may leave it
    assert len(resident(tmp_path).token) >= 32


def test_wrong_people_are_refused_with_their_place_and_without_their_tokens() -> None:
    for text, told in (
        (
            "[{name: ada, token: hunter2}]",
            "$.web.people[0] (line 1): the token has 7 characters; at least 16 are needed",
        ),
        ("[{name: ada, token: x, may: [everything]}]", "$.web.people[0].may[0]"),
        ("[{name: ada, token: ''}, {name: ada, token: ''}]", "$.web.people[1].name: 'ada' is there twice"),
        (
            f"[{{name: ada, token: {'s' * 20}}}, {{name: ben, token: {'s' * 20}}}]",
            "$.web.people[1].token: another person has the same",
        ),
    ):
        with pytest.raises(Refused) as caught:
            parse(f"web: {{people: {text}}}", {})
        assert told in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "sss" not in str(caught.value)
