"""What of a text can be counted: its length, words that the reference never used, words in company they never kept, and
how well it compresses, which needs no words at all."""

from __future__ import annotations

import re
import zlib
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from detectors.core import Batch, Column, Floats, Ints, Kind, number
from detectors.encode import restored

WORDS = 50_000  # in both halves' tables together, the most frequent: 800 KB with their counts
PAIRS = 100_000  # of neighbouring words, in both halves together: 1.6 MB
READ = 4_096  # characters looked at for words, so that one long text costs under 1 ms
PACKED = 1_024  # bytes looked at for compression; 70 us of them
PRIMER = 2_048  # bytes of the reference's texts that the compressor knows beforehand: all that its window holds
ADDRESSES = ("uri", "image")  # text columns that say where something lies
UNREAD = (*ADDRESSES, "boxes")  # those that hold no words
PRIOR = 0.1  # pairs added to those seen and to those expected: one unseen pair of rare words is no wonder

Hashes = NDArray[np.uint64]

_word = re.compile(r"\w+")


class _Half(msgspec.Struct):
    """What one half of the reference's texts is made of; hashes ascending."""

    words: Hashes
    counts: Ints
    pairs: Hashes
    pair_counts: Ints
    total: int  # words counted, those that the table has no room for included
    primer: bytes


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Of every text column `x` four numbers a row, missing where there is nothing to count.

    `x.length`: characters. `x.unseen_words`: the share, 0 to 1, of its words that the reference did not use.
    `x.context`: how usual its words are beside each other, the mean log of how much oftener two neighbours that the
    reference knows stood side by side there than chance would put them (pointwise mutual information, Church and Hanks
    1990); it falls when known words come in new company, as when a word's meaning changes or texts are garbled.
    `x.compression`: bytes after packing over bytes before, with some of the reference's text known to the packer: up
    for text of another kind, language or case, down for repetition; it needs no words.

    Each row is judged by half of the reference, and a row of the reference by the half that it is not in: so the
    reference's own numbers are what fresh text of the same kind gives. Words are runs of letters and digits in the
    first 4,096 characters, case ignored; for languages written without spaces there is `x.compression`. Without a
    reference there is only the length. Blind to meaning that changes while neighbours stay: embeddings see that. 0.1 ms
    a text.
    """

    columns: Annotated[
        tuple[str, ...], msgspec.Meta(description="Text columns to count; empty = every one there is.")
    ] = ()

    def fit(self, rows: Batch) -> Any:
        half = _half(rows)
        order = np.argsort(rows.keys, kind="stable")
        tables = {}
        for name in self._present(rows):
            texts = rows[name].values
            tables[name] = [_fitted(texts[order[half[order] != side]]) for side in (0, 1)]
        return tables or None

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        found: dict[str, Column] = {}
        half = _half(rows)
        for name in self._present(rows):
            texts = rows[name].values
            found[f"{name}.length"] = number(np.array([np.nan if t is None else len(t) for t in texts], np.float64))
            if fitted is None or name not in fitted:
                continue
            columns = np.full((3, len(texts)), np.nan)
            for side, held in enumerate(fitted[name]):
                mine = half == side
                columns[:, mine] = _scored(texts[mine], restored(held, _Half))
            for kind, values in zip(("unseen_words", "context", "compression"), columns, strict=True):
                found[f"{name}.{kind}"] = number(values)
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


def _fitted(texts: NDArray[np.object_]) -> _Half:
    hashes, owner = _hashes(texts)
    words, counts = _frequent(hashes, WORDS // 2)
    pairs, pair_counts = _frequent(_neighbours(hashes, owner)[0], PAIRS // 2)
    primer = b""
    for text in texts:
        if len(primer) >= PRIMER:
            break
        primer += _packable(text or "")
    return _Half(words, counts, pairs, pair_counts, len(hashes), primer[:PRIMER])


def _scored(texts: NDArray[np.object_], half: _Half) -> Floats:
    """Share of unseen words, mean context and compression (3, n)."""
    hashes, owner = _hashes(texts)
    counts = _looked_up(hashes, half.words, half.counts)
    pairs, first = _neighbours(hashes, owner)
    known = (counts[first] > 0) & (counts[first + 1] > 0)
    pairs, first = pairs[known], first[known]
    expected = counts[first] * counts[first + 1] / max(half.total, 1)
    together = _looked_up(pairs, half.pairs, half.pair_counts)
    context = np.log((together + PRIOR) / (expected + PRIOR))
    return np.stack([
        _mean(counts == 0, owner, len(texts)),
        _mean(context, owner[first], len(texts)),
        _packed(texts, half.primer),
    ])  # fmt: skip


def _mean(values: NDArray[Any], owner: NDArray[np.intp], rows: int) -> Floats:
    """Mean of the values of each row (rows,), NaN where it has none."""
    n = np.bincount(owner, minlength=rows)
    return np.where(n > 0, np.bincount(owner, values, rows) / np.maximum(n, 1), np.nan)


def _hashes(texts: NDArray[np.object_]) -> tuple[Hashes, NDArray[np.intp]]:
    """Hash of every word of the texts, and the row it is in (words,)."""
    words = [[] if t is None else _word.findall(t[:READ].casefold()) for t in texts]
    distinct = {w for row in words for w in row}
    index = {w: xxh3_64_intdigest(w.encode("utf-8", "surrogatepass")) for w in distinct}
    hashes = np.array([index[w] for row in words for w in row], np.uint64)
    return hashes, np.repeat(np.arange(len(texts)), [len(row) for row in words])


def _neighbours(hashes: Hashes, owner: NDArray[np.intp]) -> tuple[Hashes, NDArray[np.intp]]:
    """Hash of every two words side by side in a text, and where the first of them is."""
    first = np.flatnonzero(owner[1:] == owner[:-1])
    # an odd factor, so that "dog bites" is not "bites dog" (2^64 over the golden ratio; Knuth 6.4)
    return hashes[first] * np.uint64(0x9E3779B97F4A7C15) + hashes[first + 1], first


def _frequent(hashes: Hashes, most: int) -> tuple[Hashes, Ints]:
    """The most frequent hashes, ascending, with their counts; of equally frequent ones the lower."""
    distinct, counts = np.unique(hashes, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    return distinct[kept], counts[kept].astype(np.int64)


def _looked_up(hashes: Hashes, table: Hashes, counts: Ints) -> Ints:
    """Count of each hash, 0 where the table lacks it."""
    if not len(table):
        return np.zeros(len(hashes), np.int64)
    place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
    return np.where(table[place] == hashes, counts[place], 0)


def _packable(text: str) -> bytes:
    return text[:PACKED].encode("utf-8", "surrogatepass")[:PACKED]


def _packed(texts: NDArray[np.object_], primer: bytes) -> Floats:
    """Bytes after over bytes before (n,), NaN where there are none."""
    # raw deflate with a window of 2 KB: a larger one costs more to set up than a short text to pack
    packer = zlib.compressobj(1, zlib.DEFLATED, -11, 4, zlib.Z_DEFAULT_STRATEGY, primer)
    out = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text:
            packed, data = packer.copy(), _packable(text)
            out[row] = (len(packed.compress(data)) + len(packed.flush())) / len(data)
    return out
