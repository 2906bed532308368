"""What rules do to a model's answers: whether one changed this answer, and how many fired."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from detectors.core import Batch, Column, Kind, number

CHANGED, FIRED = "changed_by_rule", "rules_fired"


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rules"):
    """Of the column `rule`, the rules that changed an answer, joined with ">": `changed_by_rule`, 1 where there is any,
    and `rules_fired`, how many. An answer without a rule has 0 of both; an event with neither an answer (`label`,
    `value` or `scores`) nor a rule has no value.
    """

    def fit(self, rows: Batch) -> Any:
        return None

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        column = rows.get("rule")
        if column is None or column.kind is not Kind.CATEGORY:
            return {}
        # the last entry serves code -1, an event without a rule
        fired = np.array([*(word.count(">") + 1 if word else 0 for word in column.words), 0], np.float64)
        counts = fired[column.values]
        silent = counts == 0
        for name in ("label", "value", "scores"):
            answer = rows.get(name)
            if answer is not None:
                silent &= answer.missing()
        counts[silent] = np.nan
        return {CHANGED: number(np.where(silent, np.nan, counts > 0), kind=Kind.FLAG), FIRED: number(counts)}
