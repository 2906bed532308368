"""How likely each answer is right, from what came of answers like it in a labelled reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Ints, Kind, number
from detectors.performance import Table, tabulate
from detectors.scorers.uncertainty import chances, has_logits


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="outcome"):
    """`expected_correct`: the chance that column `label` is the truth; its mean is the estimated accuracy.

    Calibrated on the reference rows that carry column `truth`, in up to 64 cells of the answer and its chance by
    `scores` or, without them, `confidence`; so all rows of a cell have the same value, and `detectors.performance`
    reads every other measure off their counts. Missing where the reference says nothing: an answer that it had in under
    50 rows, or a score beyond all of theirs. Blind to a truth that came to depend on the score in another way (concept
    drift). Histogram binning (Zadrozny, Elkan 2001); no scorer's column is written without labelled rows.
    """

    def fit(self, rows: Batch) -> Any:
        answers, truths, scores = rows.get("label"), rows.get("truth"), rows.get("scores")
        if answers is None or truths is None or {answers.kind, truths.kind} != {Kind.CATEGORY}:
            return None
        classes = tuple(sorted(_seen(answers) | _seen(truths)))
        logits = scores is not None and scores.kind is Kind.VECTOR and has_logits(scores.values)
        given = _codes(answers, classes)
        order = _order(rows, given, len(classes), logits)
        table = tabulate(given, _answer_scores(rows, given, order, logits), _codes(truths, classes), classes)
        if table is None:
            return None
        return {"words": list(classes), "order": order, "logits": logits, "table": msgspec.structs.asdict(table)}

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        answers = rows.get("label")
        if fitted is None or answers is None or answers.kind is not Kind.CATEGORY:
            return {}
        table = table_of(fitted)
        given = _codes(answers, fitted["words"])
        at = table.cells(given, _answer_scores(rows, given, fitted["order"], fitted["logits"]))
        return {"expected_correct": number(np.append(table.expected, np.nan)[at])}


def table_of(fitted: Any) -> Table:
    """The table in what `Outcome.fit` gave, before or after it went through bytes."""
    held = fitted["table"]
    return Table(**{**held, "classes": tuple(held["classes"])})


def _seen(column: Column) -> set[str]:
    return {column.words[i] for i in np.unique(column.values[column.values >= 0]).tolist()}


def _codes(column: Column, classes: Sequence[str]) -> Ints:
    """Number of each row's class (n,), -1 = missing or none of them."""
    index = {word: i for i, word in enumerate(classes)}
    return np.asarray(np.array([index.get(word, -1) for word in column.words] + [-1], np.int64)[column.values])


def _order(rows: Batch, answers: Ints, classes: int, logits: bool) -> list[int]:
    """Class of each place in `scores`, told by which answer mostly goes with the highest; [] when that is not plain."""
    scores = rows.get("scores")
    if scores is None or scores.kind is not Kind.VECTOR:
        return []
    shares = chances(scores.values, logits)
    known = (answers >= 0) & np.isfinite(shares[:, 0])
    if shares.shape[1] != classes:
        return []
    together = np.zeros((classes, classes), np.int64)
    np.add.at(together, (shares[known].argmax(axis=1), answers[known]), 1)
    order: list[int] = together.argmax(axis=1).tolist()
    return order if sorted(order) == list(range(classes)) else []


def _answer_scores(rows: Batch, answers: Ints, order: Sequence[int], logits: bool) -> Floats:
    """The score that each row's answer got (n,): its own chance, or that of the surest class, or the confidence."""
    scores, confidence = rows.get("scores"), rows.get("confidence")
    if scores is not None and scores.kind is Kind.VECTOR:
        shares = chances(scores.values, logits)
        if order and shares.shape[1] == len(order):
            places = np.argsort(order)[answers]  # an unknown answer takes the last one and has no cell
            return np.asarray(shares[np.arange(len(rows)), places])
        return np.asarray(shares.max(axis=1))
    if confidence is not None and confidence.kind is Kind.NUMBER:
        return np.asarray(confidence.values)
    return np.zeros(len(rows))
