"""Which events to label: the shipped default behind the labeling bench's interface, and its figures beside baselines.

    python -m benchmarks.selection --streams DIR          # what of the bench's seven streams is there, 5 seeds
    python run.py --selector benchmarks.selection:select  # in the bench, with this repository on the path

The bench lies beside this repository, in ../shared/bench/active; its streams, models and estimators are its own.
`select` is what the daemon does with a buffer: strategy, sizes, draw and prefix are the same functions. The reference
that the daemon would have is the first window.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.core import Batch, Floats, category, from_columns, vector
from detectors.draw import Draw
from detectors.scorers.uncertainty import Uncertainty
from detectors.selection import LEAST, Margin, Pools, balance, factors, resized, sizes
from monitor.sampling import HELD, SamplingOptions

BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench" / "active"
SHIPPED = "shipped"
BASELINES = ("random", "margin", "pps_sharp")
SEEDS = 5
RULES = SamplingOptions()
MARGIN = Margin()


class Pick(NamedTuple):
    """Chosen events, and the probability of every event of the window to be chosen."""

    idx: NDArray[np.int64]
    pi: Floats


def select(ctx: Any) -> Pick:
    """The events that the daemon would ask for of a window, `ctx.budget` of them.

    Of the bench's context: `ctx.P` (n, classes) chances, `ctx.rng`, `ctx.state` a dict kept from window to window.
    """
    draw, size = drawn(ctx.P, ctx.budget, int(ctx.rng.integers(2**62)), ctx.state)
    return Pick(np.array(draw.rows[: len(draw)], np.int64), np.minimum(1.0, size * draw.threshold))


def drawn(chances: Floats, budget: int, seed: int, state: dict[str, Any]) -> tuple[Draw, Floats]:
    """The draw of a window and the sizes (n,) of all its events. `state` keeps what the first window taught."""
    rows = _scored(chances)
    return _draw(rows, state.setdefault("learned", _learned(rows)), budget, seed)


def _draw(rows: Batch, learned: Mapping[str, Any], budget: int, seed: int) -> tuple[Draw, Floats]:
    doubt = learned["doubt"]
    wants = MARGIN.wants(rows, doubt) if doubt else np.full(len(rows), np.nan)
    factor = balance(rows["label"], learned["factors"])
    pools = Pools(Draw(HELD * budget, seed))
    pools.count(wants)
    pools.draw.update(rows.keys, sizes(wants, RULES.floor) * factor, list)
    kept = wants[np.array(pools.draw.rows)]
    draw = resized(pools.draw, kept, RULES.floor, RULES.floor, pools.mean).first(budget)
    return draw, sizes(wants / max(pools.mean, LEAST), RULES.floor) * factor


def _scored(chances: Floats) -> Batch:
    """Events as ingest has them: scores, the measures of doubt, the answer."""
    rows = from_columns({"scores": vector(chances), "label": category(map(str, chances.argmax(axis=1)))})
    return Batch(rows.keys, rows.times, rows.ids, rows.offsets, rows.columns | Uncertainty().score(rows, None))


def _learned(rows: Batch) -> dict[str, Any]:
    """What the daemon takes from its reference."""
    label = rows["label"]
    counts = np.bincount(label.values, minlength=len(label.words)) + 0.5
    shares = dict(zip(label.words, (counts / counts.sum()).tolist(), strict=True))
    return {"doubt": float(np.mean(MARGIN.wants(rows, 1.0))), "factors": factors(shares) if RULES.balance else {}}


# -- figures


def benched(streams: str, seeds: int) -> dict[str, dict[str, float]]:
    """The bench's own runs of the default and of the baselines: by name, means over streams and budgets of the medians
    over seeds, in points where there is a share; errors of estimates are means of absolute errors."""
    runs: list[dict[str, Any]] = []
    shared = ["--streams", streams, "--seeds", str(seeds)]
    for chosen in (
        ["--selector", "benchmarks.selection:select", "--name", SHIPPED],
        ["--strategies", ",".join(BASELINES)],
    ):
        with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as out:
            command = [sys.executable, "-B", str(BENCH / "run.py"), *chosen, *shared, "--out", out.name]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
            runs += map(json.loads, out)
    return _summed(runs)


def _summed(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    cells: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["strategy"], run["stream"], run["budget"]), []).append(run)
    plain = {(*place[1:], run["seed"]): run for place, some in cells.items() if place[0] == "random" for run in some}
    rows: dict[str, list[dict[str, float]]] = {}
    for (name, stream, budget), some in cells.items():
        gains = [100 * (run["acc"] - plain[stream, budget, run["seed"]]["acc"]) for run in some]
        kind = "aipw" if "aipw_mae" in some[0] else "naive"
        row = {
            "gain": float(np.median(gains)),
            "bias": 100 * abs(_mean(some, f"{kind}_bias")),
            "error": 100 * _median(some, f"{kind}_mae"),
            "cover": 100 * _mean(some, f"{kind}_cov"),
            "tracked": 100 * _median(some, "track_mae"),
            "tracked cover": 100 * _mean(some, "track_cov"),
            "rare x": float(np.median([r["rare_share"] / r["rare_base"] if r["rare_base"] else np.nan for r in some])),
            "asked": float(np.mean([r["asked"] / plain[stream, budget, r["seed"]]["asked"] for r in some])),
        }
        rows.setdefault(name, []).append(row)
        print(f"{stream} {budget:.0%} {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    found = {}
    for name, lines in rows.items():
        found[name] = {key: float(np.nanmean([line[key] for line in lines])) for key in lines[0]}
        found[name]["worst"] = min(line["gain"] for line in lines)
    return found


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([run.get(key, np.nan) for run in runs]))


def _median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.median([run.get(key, np.nan) for run in runs]))


def lost(streams: str, share: float = 0.4, draws: int = 100) -> dict[str, tuple[float, float]]:
    """Bias of the estimate by stream, and its standard error over the draws, in points, where this share of the asked
    labels is all that comes back, served by rank: a prefix of the draw, with the probabilities of that prefix. One
    model, 100 draws of 5 % a window."""
    from sklearn.ensemble import RandomForestClassifier

    sys.path.insert(0, str(BENCH))
    from streams import STREAMS  # type: ignore[import-not-found]

    found = {}
    for name, load in STREAMS.items():
        stream = load(np.random.default_rng(0), streams)
        if stream is None:
            continue
        model = RandomForestClassifier(25, min_samples_leaf=2, random_state=0).fit(stream.X0, stream.y0)
        errors, state = [], dict[str, Any]()
        for inputs, truth in stream.windows:
            chances = np.zeros((len(inputs), len(stream.classes)))
            chances[:, np.searchsorted(stream.classes, model.classes_)] = model.predict_proba(inputs)
            right = (stream.classes[chances.argmax(axis=1)] == truth).astype(float)
            sure = chances.max(axis=1)
            for seed in range(draws):
                draw, _ = drawn(chances, max(12, round(0.05 * len(inputs))), seed, state)
                back = draw.first(max(4, round(share * len(draw))))
                chosen = np.array(back.rows[: len(back)])
                weights = 1.0 / back.inclusion()
                residuals = right[chosen] - sure[chosen]
                errors.append(sure.mean() + (weights * residuals).sum() / len(sure) - right.mean())
        found[name] = 100 * float(np.mean(errors)), 100 * float(np.std(errors) / np.sqrt(len(errors)))
    return found


def speed(events: int = 2_000, repeats: int = 50) -> tuple[float, float]:
    """Milliseconds to draw a hundred of 2,000 scored events as a buffer, and decisions a second where each event is
    decided on by itself against a threshold that was fixed before, on one core."""
    rng = np.random.default_rng(0)
    rows = _scored(rng.dirichlet(np.full(10, 0.5), events))
    learned = _learned(rows)
    start = time.process_time()
    for seed in range(repeats):
        _draw(rows, learned, 100, seed)
    buffer = (time.process_time() - start) / repeats
    wants = MARGIN.wants(rows, learned["doubt"])
    start = time.process_time()
    for seed in range(repeats):
        draw = Draw(events, seed)
        draw.update(rows.keys, sizes(wants, RULES.floor), list)
        draw.under(0.05)
    return 1_000 * buffer, events * repeats / (time.process_time() - start)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--streams", default="", help="a folder with the bench's file streams; those absent are skipped"
    )
    options.add_argument("--seeds", type=int, default=SEEDS)
    given = options.parse_args()
    buffer, decisions = speed()
    print(f"2,000 events: {buffer:.2f} ms a buffer, {decisions:,.0f} decisions a second", flush=True)
    if not BENCH.is_dir():
        print(f"no bench at {BENCH}")
        return 0
    for name, (bias, error) in lost(given.streams).items():
        print(f"60 % of the labels lost, {name}: bias {bias:+.1f} points, known to {error:.1f}", flush=True)
    for name, figures in benched(given.streams, given.seeds).items():
        print(f"{name:10}" + "".join(f"{key} {value:.2f}  " for key, value in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
