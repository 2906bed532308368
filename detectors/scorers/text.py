"""What of a text can be counted: its length, and how many of its words the reference never used."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from detectors.core import Batch, Column, Kind, number

WORDS = 50_000  # in both tables together, the most frequent: 400 KB
READ = 4_096  # characters looked at for words, so that one long text costs under 1 ms

_word = re.compile(r"\w+")


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Of every text column `x`: `x.length` in characters, and `x.unseen_words`, the share of its words, 0 to 1, that
    the reference did not use; missing where a text has no word in its first 4,096 characters.

    Each row is judged by the words of half of the reference, and a row of the reference by the half that it is not in:
    so the reference's own share is what fresh text of the same kind gives, and not 0. Words are runs of letters and
    digits, case ignored; languages written without spaces need other means. Without a reference there is only the
    length.
    """

    columns: Annotated[
        tuple[str, ...], msgspec.Meta(description="Text columns to count; empty = every one there is.")
    ] = ()

    def fit(self, rows: Batch) -> Any:
        half = _half(rows)
        tables = {}
        for name in self._present(rows):
            hashes, owner = _hashes(rows[name].values)
            tables[name] = [_frequent(hashes[half[owner] != side]) for side in (0, 1)]
        return tables or None

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        found: dict[str, Column] = {}
        half = _half(rows)
        for name in self._present(rows):
            texts = rows[name].values
            found[f"{name}.length"] = number(np.array([np.nan if t is None else len(t) for t in texts], np.float64))
            if fitted is None or name not in fitted:
                continue
            hashes, owner = _hashes(texts)
            side = half[owner]
            unseen = np.empty(len(hashes))
            for s, table in enumerate(fitted[name]):
                mine = side == s
                unseen[mine] = ~_among(hashes[mine], table)
            words = np.bincount(owner, minlength=len(texts))
            share = np.bincount(owner, unseen, len(texts)) / np.maximum(words, 1)
            found[f"{name}.unseen_words"] = number(np.where(words > 0, share, np.nan))
        return found

    def _present(self, rows: Batch) -> list[str]:
        return [
            name
            for name, column in rows.columns.items()
            if column.kind is Kind.TEXT and (not self.columns or name in self.columns)
        ]


def _half(rows: Batch) -> NDArray[np.uint64]:
    """0 or 1 per row (n,), by the lowest bit of its key: a sample of lowest keys holds as many of either."""
    return rows.keys & np.uint64(1)


def _hashes(texts: NDArray[np.object_]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Hash of every word of the texts, and the row it is in (words,)."""
    words = [[] if t is None else _word.findall(t[:READ].casefold()) for t in texts]
    distinct = {w for row in words for w in row}
    index = {w: xxh3_64_intdigest(w.encode("utf-8", "surrogatepass")) for w in distinct}
    hashes = np.array([index[w] for row in words for w in row], np.uint64)
    return hashes, np.repeat(np.arange(len(texts)), [len(row) for row in words])


def _frequent(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The most frequent hashes, ascending, at most half of WORDS; of equally frequent ones the lower."""
    distinct, counts = np.unique(hashes, return_counts=True)
    return np.sort(distinct[np.argsort(-counts, kind="stable")[: WORDS // 2]])


def _among(hashes: NDArray[np.uint64], table: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(table):
        return np.zeros(len(hashes), np.bool_)
    place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
    return np.asarray(table[place] == hashes)
