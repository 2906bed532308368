"""When to ask for retraining: regret of the shipped policy, beside others, on the active bench's matrices.

A matrix says how well the version trained after window i does on window j, and what 5 % of labels estimate of it. The
bench's own replay walks the windows with a rule and adds accuracy points lost and price of retrainings; regret is what
that is over the best rule's. Ours is `alerting.policy.weigh` with what the daemon gives it: a span is a window, and
when the stream ends is not told, though the bench's own rule knows it. Reference: on seven streams the bench's best
rule came to 5.4, never retraining to 7.1.

    python -m benchmarks.policy --streams DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alerting.policy import Drop, Gates, Price, Standing, weigh

BENCH = Path(__file__).parents[2] / "shared" / "bench" / "active"
PRICES = (1, 5, 20)  # of a retraining, in points of accuracy for one window
SHIPPED = "shipped"
GATES = Gates(labels=1)  # as the replay's rules have it, no window has too few labels

Rule = Callable[..., bool]


def shipped(rows: float) -> Rule:
    """The daemon's rule as the bench calls it, on windows of so many rows: with estimates (versions, windows) up to
    window `now`, the version in service, and a price in points of accuracy for one window."""

    def asks(
        now: int, version: int, estimates: NDArray[Any], errors: NDArray[Any], _: Any, seen: dict[str, Any],
        price: float, _windows: int,
    ) -> bool:  # fmt: skip
        if seen["ref"] is None:
            return False
        drop = Drop(seen["ref"], float(estimates[version, now]), float(errors[version, now]))
        age = now + 1 - seen["last"]
        standing = Standing(drop, spans=age, events=rows, age=age, labels=1)
        return weigh(standing, Price(retrain=price, error=100.0 / rows), GATES).cause is not None

    return asks


def regrets(streams: str, seeds: int) -> dict[str, dict[int, float]]:
    """By rule and price: mean over streams of the mean over seeds."""
    sys.path.insert(0, str(BENCH))
    from policy import RULES, matrix, replay  # type: ignore[import-not-found]
    from streams import STREAMS  # type: ignore[import-not-found]

    names = [*RULES, SHIPPED]
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for name, load in STREAMS.items():
        for seed in range(seeds):
            stream = load(np.random.default_rng(seed), streams)
            if stream is None:
                continue
            made = matrix(stream, 0.05, seed)
            rows = float(np.mean([len(truths) for _, truths in stream.windows]))
            rules: dict[str, Rule] = {**RULES, SHIPPED: shipped(rows)}
            for price in PRICES:
                costs = {rule: replay(*made, act, price)[0] for rule, act in rules.items()}
                for rule, cost in costs.items():
                    found.setdefault((rule, price), {}).setdefault(name, []).append(cost - min(costs.values()))
    return {
        rule: {price: float(np.mean([np.mean(some) for some in found[rule, price].values()])) for price in PRICES}
        for rule in names
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="", help="folder of elec.csv and others; what is missing is left out")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if not BENCH.is_dir():
        print(f"{BENCH} is not there: nothing to replay on")
        return 0
    table = regrets(options.streams, options.seeds)
    print(f"{'mean regret at price':32s}" + "".join(f"{price:8d}" for price in PRICES) + "    mean")
    for rule, by_price in table.items():
        print(f"{rule:32s}" + "".join(f"{r:8.2f}" for r in by_price.values()) + f"{np.mean([*by_price.values()]):8.2f}")
    return int(np.mean([*table[SHIPPED].values()]) > 5.5)


if __name__ == "__main__":
    raise SystemExit(main())
