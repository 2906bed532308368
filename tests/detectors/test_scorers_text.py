from __future__ import annotations

import numpy as np
import pytest

from detectors.core import Batch, category, from_columns, text
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
