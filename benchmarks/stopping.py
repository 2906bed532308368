"""When a labeling campaign stops: labels saved and accuracy left on the table by the shipped rules.

The bench's campaigns label a pool of at most 600 in batches of 25, with a version after each batch; a rule sees their
agreement and estimates. Short is the accuracy at the stop under that at the end.

    python -m benchmarks.stopping --streams DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectors.stopping import Campaign, StopRules, stop

BENCH = Path(__file__).parents[2] / "shared" / "bench" / "active"
BATCH = 25
GOALS = {"digits": 0.93, "segment": 0.93, "shuttle": 0.995, "elec2": 0.75, "weather": 0.74, "outdoor": 0.75}


def rules(goal: float) -> dict[str, StopRules]:
    never = StopRules(agreement=1.0, rounds=10)
    return {
        "shipped: agreement": StopRules(),
        "kappa .97 over three versions": StopRules(agreement=0.97, rounds=3),
        "goal by the lower bound": StopRules(goals={"accuracy": goal}, agreement=never.agreement, rounds=never.rounds),
        "agreement or goal": StopRules(goals={"accuracy": goal}),
    }


def stopped_at(rows: Sequence[Mapping[str, Any]], rule: StopRules) -> int:
    """Row of the campaign at which it stops."""
    campaign = Campaign(since=0.0)
    for i, row in enumerate(rows):
        if i:
            campaign.add_round(row["kappa"])
        if stop(campaign, rule, now=float(i)) is not None:
            return i
        if "est" in row:
            campaign.add_batch(BATCH, {"accuracy": (row["est"], 0.0)})
    return len(rows) - 1


def campaigns(streams: str, seeds: int) -> Iterator[tuple[Sequence[Mapping[str, Any]], float]]:
    sys.path.insert(0, str(BENCH))
    import stop as bench  # type: ignore[import-not-found]
    from streams import STREAMS  # type: ignore[import-not-found]

    for name, goal in GOALS.items():
        for seed in range(seeds):
            stream = STREAMS[name](np.random.default_rng(seed), streams)
            if stream is not None:
                yield bench.campaign(stream, seed, goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="", help="folder of elec.csv and others; what is missing is left out")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if not BENCH.is_dir():
        print(f"{BENCH} is not there: no campaign to stop")
        return 0
    saved: dict[str, list[float]] = {}
    short: dict[str, list[float]] = {}
    for rows, goal in campaigns(options.streams, options.seeds):
        end = float(np.mean([row["acc"] for row in rows[-3:]]))
        for name, rule in rules(goal).items():
            row = rows[stopped_at(rows, rule)]
            saved.setdefault(name, []).append(1 - row["n"] / rows[-1]["n"])
            short.setdefault(name, []).append(100 * (end - row["acc"]))
    print(f"{'rule':32s}   saved   short   worst    (median, median, largest; points)")
    for name, shares in saved.items():
        print(f"{name:32s}{np.median(shares):8.0%}{np.median(short[name]):8.1f}{max(short[name]):8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
