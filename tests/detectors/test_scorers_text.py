from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.checks.shift import Ks
from detectors.core import Batch, category, from_columns, text
from detectors.profile import Profile
from detectors.reference import build_from
from detectors.scorers.text import READ, Text


def notes(*lines: str | None, ids: str = "") -> Batch:
    return from_columns({"note": text(lines)}, ids=[f"{ids}{i}" for i in range(len(lines))])


def sentences(n: int, vocabulary: int, seed: int) -> Batch:
    """Words by Zipf's law: many are rare, as in any language."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(vocabulary, (n, 12), p=(weights := 1.0 / np.arange(1, vocabulary + 1)) / weights.sum())
    return notes(*(" ".join(f"w{word}" for word in row) for row in drawn), ids=f"{seed}-")


def test_length_is_in_characters_and_missing_where_the_text_is() -> None:
    found = Text().score(notes("abc", "", None, "naïve 🙂"), None)
    assert list(found) == ["note.length"]
    assert found["note.length"].values.tolist() == pytest.approx([3.0, 0.0, np.nan, 7.0], nan_ok=True)


def test_share_of_words_that_the_reference_lacks() -> None:
    fitted = Text().fit(notes(*["The cat sat"] * 40))
    share = Text().score(notes("the CAT sat.", "the dog sat down", "zebra", "?!", None), fitted)["note.unseen_words"]
    assert share.values.tolist() == pytest.approx([0.0, 0.5, 1.0, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize("n", [100, 2_000])
def test_the_references_own_share_is_what_fresh_text_gives(n: int) -> None:
    # Judged by tables that hold its own words, the reference's share would be 0 and all fresh text would look new.
    reference = sentences(n, 5_000, seed=1)
    fitted = Text().fit(reference)
    own, fresh = (
        Text().score(batch, fitted)["note.unseen_words"].values
        for batch in (reference, sentences(4_000, 5_000, seed=2))
    )
    error = np.hypot(own.std() / np.sqrt(len(own)), fresh.std() / np.sqrt(len(fresh)))
    assert own.mean() > 0.02
    assert abs(own.mean() - fresh.mean()) < 4 * error


def test_another_vocabulary_is_seen() -> None:
    fitted = Text().fit(sentences(2_000, 500, seed=1))
    other = Text().score(notes(*["lorem ipsum dolor w1"] * 20), fitted)["note.unseen_words"]
    assert other.values.tolist() == [0.75] * 20


def test_a_very_long_text_is_read_to_a_bound() -> None:
    fitted = Text().fit(notes(*["a b c d"] * 40))
    line = "a " * (READ // 2) + "strange " * 100_000
    found = Text().score(notes(line), fitted)
    assert found["note.length"].values.tolist() == [float(len(line))]
    assert found["note.unseen_words"].values.tolist() == [0.0]


def test_a_lone_surrogate_is_a_character_like_another() -> None:
    fitted = Text().fit(notes(*["a\ud800b c"] * 40))
    assert Text().score(notes("c \udfff"), fitted)["note.unseen_words"].values[0] in (0.0, 0.5)


def test_only_the_columns_asked_for() -> None:
    batch = from_columns({"a": text(["x"]), "b": text(["yy"]), "c": category(["z"])})
    assert list(Text().score(batch, None)) == ["a.length", "b.length"]
    assert list(Text(columns=("b",)).score(batch, None)) == ["b.length"]


def speech(n: int, seed: int) -> list[list[str]]:
    """Texts of six words, each drawn from those that may follow the last: words have their company."""
    rng = np.random.default_rng(seed)
    return [[f"w{int(word)}" for word in (rng.integers(40) + np.arange(6) * 3 + rng.integers(0, 3, 6)) % 60]
            for _ in range(n)]  # fmt: skip


def lines(texts: list[list[str]], ids: str) -> Batch:
    return notes(*map(" ".join, texts), ids=ids)


def apart(now: Batch, calm: Batch, fitted: Any, column: str) -> float:
    """How far the mean of the rows moved, in standard errors."""
    after, before = (Text().score(batch, fitted)[column].values for batch in (now, calm))
    return float((after.mean() - before.mean()) / np.hypot(after.std(), before.std()) * np.sqrt(len(after)))


def test_the_same_words_in_other_company_are_seen_and_new_text_of_the_old_kind_is_not() -> None:
    fitted = Text().fit(lines(speech(1_000, 1), "r"))
    calm = speech(500, 2)
    shuffled = np.random.default_rng(3).permutation([word for row in calm for word in row]).reshape(len(calm), -1)
    senses = [[{"w7": "w31", "w31": "w7", "w8": "w40", "w40": "w8"}.get(word, word) for word in row] for row in calm]
    before = lines(calm, "c")
    assert abs(apart(lines(speech(500, 4), "d"), before, fitted, "note.context")) < 4
    assert apart(lines(shuffled.tolist(), "c"), before, fitted, "note.context") < -20
    assert apart(lines(senses, "c"), before, fitted, "note.context") < -6
    assert not Text().score(lines(senses, "c"), fitted)["note.unseen_words"].values.any()


def test_compression_sees_another_writing_without_words_and_repetition() -> None:
    fitted = Text().fit(lines(speech(1_000, 1), "r"))
    calm = lines(speech(500, 2), "c")
    other = notes(*("店舗の棚" * 4 for _ in range(500)), ids="c")
    rot = lines([[word.replace("w", "Q") for word in row] for row in speech(500, 2)], "c")
    assert apart(rot, calm, fitted, "note.compression") > 5
    assert apart(notes(*("again " * 40 for _ in range(500)), ids="c"), calm, fitted, "note.compression") < -5
    assert Text().score(other, fitted)["note.compression"].missing().sum() == 0
    assert np.isnan(Text().score(notes("", None), fitted)["note.compression"].values).all()


SMS = Path(__file__).resolve().parents[3] / "shared" / "data" / "sms_spam" / "sms.csv.gz"


@pytest.mark.skipif(not SMS.is_file(), reason="sms_spam is not at ../shared/data/sms_spam")
def test_real_messages_with_their_words_shuffled_among_them_are_found_and_calm_ones_are_not() -> None:
    with gzip.open(SMS, "rt") as file:
        messages = [row["text"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(1)
    messages = [messages[i] for i in rng.permutation(len(messages))]
    past, now = messages[:1_400], messages[1_400:2_700]
    words = [message.split() for message in now]
    loose = iter(rng.permutation([word for row in words for word in row]).tolist())
    shuffled = [" ".join(next(loose) for _ in row) for row in words]
    scorers = {"text": Text()}
    reference = build_from("sms", notes(*past), scorers, roles={}, source="sms", created=0.0)
    found = {}
    for name, lines_ in (("calm", now), ("shuffled", shuffled)):
        current = Profile(reference.layout)
        current.update(reference.scored(notes(*lines_, ids="n"), scorers))
        found[name] = [f.column for f in Ks().check(current, reference.profile, reference.layout.columns).findings]
    assert not found["calm"]
    assert "note.context" in found["shuffled"]
