"""Two live versions compared, with a look after every label: false alarms, and labels until the better one is known.

The bench's versions are forests trained on the early part only and on the early part with later rows. Labels are asked
of their disagreements in random order. For A/A runs a coin says who wins each, so that no difference is true.

    python -m benchmarks.comparison --streams DIR
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detectors.compare import log_evidence
from detectors.core import Ints

BENCH = Path(__file__).parents[2] / "shared" / "bench" / "active"
STREAMS = ("digits", "segment", "shuttle", "elec2", "weather")
ALPHA = 0.05
LABELS = 600


class Pair(NamedTuple):
    stream: str
    wins: Ints  # (disagreements,) 1 the later version alone is right, -1 the early one alone, 0 neither
    gap: float  # of accuracy, in points
    share: float  # of answers that disagree


def labels_needed(wins: Ints) -> tuple[int, bool] | None:
    """Labels until the test decides and whether for the later version; None when it does not."""
    won = told = 0
    for n, win in enumerate(wins.tolist(), start=1):
        told += win != 0
        won += win > 0
        if win and log_evidence(won, told) >= math.log(1 / ALPHA):
            return n, 2 * won > told
    return None


def pairs(streams: str, seeds: int) -> Iterator[Pair]:
    sys.path.insert(0, str(BENCH))
    from sklearn.ensemble import RandomForestClassifier
    from streams import STREAMS as LOAD  # type: ignore[import-not-found]

    for name in STREAMS:
        for seed in range(seeds):
            stream = LOAD[name](np.random.default_rng(seed), streams)
            if stream is None:
                continue
            half = len(stream.windows) // 2
            (early, known), (rows, truths) = (
                tuple(np.concatenate(part) for part in zip(*some, strict=True))
                for some in (stream.windows[:half], stream.windows[half:])
            )
            some = np.random.default_rng(seed).choice(len(early), min(600, len(early)), replace=False)

            def answers(x: Any, y: Any, seed: int = seed, rows: Any = rows) -> Any:
                return RandomForestClassifier(25, min_samples_leaf=2, random_state=seed).fit(x, y).predict(rows)

            first = answers(stream.X0, stream.y0)
            second = answers(np.vstack([stream.X0, early[some]]), np.concatenate([stream.y0, known[some]]))
            right = (second == truths).astype(np.int64) - (first == truths)
            apart = first != second
            yield Pair(name, right[apart], 100 * float(right.mean()), float(apart.mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="", help="folder of elec.csv and others; what is missing is left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--orders", type=int, default=200, help="of the labels, for each seed")
    options = parser.parse_args()
    if not BENCH.is_dir():
        print(f"{BENCH} is not there: nothing to compare")
        return 0
    print("stream       gap  apart | A/A runs  alarms | decided  labels  wrong   (median labels; 5 % promised)")
    worst = 0.0
    by_stream: dict[str, list[Pair]] = {}
    for pair in pairs(options.streams, options.seeds):
        by_stream.setdefault(pair.stream, []).append(pair)
    for name, some in by_stream.items():
        rng = np.random.default_rng(0)
        alarms, found = [], []
        for pair in some:
            for _ in range(options.orders):
                order = rng.permutation(len(pair.wins))[:LABELS]
                coins = rng.choice([-1, 1], len(order))
                alarms.append(labels_needed(pair.wins[order] * coins) is not None)
                found.append((labels_needed(pair.wins[order]), pair.gap > 0))
        decided = [(said, better) for said, better in found if said is not None]
        labels = np.median([said[0] for said, _ in decided]) if decided else math.nan
        wrong = np.mean([said[1] is not better for said, better in decided]) if decided else math.nan
        worst = max(worst, float(np.mean(alarms)))
        gap, apart = np.mean([pair.gap for pair in some]), np.mean([pair.share for pair in some])
        print(
            f"{name:9s}{gap:7.1f}{apart:7.1%} |{len(alarms):9d}{np.mean(alarms):8.1%} |{len(decided) / len(found):8.0%}"
            f"{labels:8.0f}{wrong:7.1%}"
        )
    return int(worst > ALPHA)


if __name__ == "__main__":
    raise SystemExit(main())
