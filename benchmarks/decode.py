"""Bytes to columns, CPU per event beside a bare orjson.loads of the same bytes, in turns within one run.

    python benchmarks/decode.py [events]

Events of about 1 KB: 50 numbers with four decimals, 10 categories, a label, two scores, ISO time. Figures are the
smallest of the rounds, since only the noise of other processes is added to it; read the ratios, not the microseconds.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import orjson

from monitor.decode import Auto
from monitor.decode.columns import infer
from monitor.event import Record, Schema

ROUNDS = 9
BATCH = 2000  # records handed over at once, as one poll gives them


def own_events(n: int, numbers: int = 50, categories: int = 10) -> list[dict[str, Any]]:
    """Events of our own format; the same every time."""
    rng, pick = np.random.default_rng(7), random.Random(7)
    scale = 10.0 ** rng.integers(0, 4, numbers)
    rows = np.round(rng.normal(1.0, 0.3, (n, numbers)) * scale, 4).tolist()
    words = [[f"c{i}_value_{k}" for k in range(4 + 2 * i)] for i in range(categories)]
    made = []
    for at, row in enumerate(rows):
        p = round(pick.random(), 4)
        stamp = datetime.fromtimestamp(1_790_000_000 + at * 0.01, UTC).isoformat(timespec="milliseconds")
        inputs: dict[str, Any] = {f"n{i:02d}": value for i, value in enumerate(row)}
        inputs |= {f"c{i}": pick.choice(some) for i, some in enumerate(words)}
        made.append(
            {
                "id": f"{at:012x}-{pick.getrandbits(48):012x}",
                "time": stamp.replace("+00:00", "Z"),
                "model": "credit-default",
                "version": "2026.11.3",
                "inputs": inputs,
                "outputs": {"label": "yes" if p > 0.5 else "no", "scores": [p, round(1 - p, 4)]},
            }
        )
    return made


def v2_body(event: dict[str, Any]) -> dict[str, Any]:
    """The same numbers as one V2 tensor, request and response in one."""
    row = [v for v in event["inputs"].values() if isinstance(v, float)]
    scores = event["outputs"]["scores"]
    return {
        "id": event["id"],
        "model_name": "credit-default",
        "inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}],
        "outputs": [{"name": "scores", "shape": [1, 2], "datatype": "FP32", "data": scores}],
    }


def records(bodies: Sequence[Any]) -> list[Record]:
    return [
        Record(body if isinstance(body, bytes) else orjson.dumps(body), None, (), at, 1_790_000_000_000)
        for at, body in enumerate(bodies)
    ]


def reader(given: Sequence[Record]) -> Callable[[], object]:
    decoder = Auto().open()
    found = decoder.decode(given[:500], {}).events["credit-default"]
    schemas: dict[str, Schema] = {"credit-default": infer(found)}

    def read() -> object:
        rows = 0
        for start in range(0, len(given), BATCH):
            decoded = decoder.decode(given[start : start + BATCH], schemas)
            rows += sum(map(len, decoded.batches.values()))
        if rows != len(given):
            raise RuntimeError(f"{rows} rows of {len(given)} records")
        return rows

    return read


def main(n: int) -> None:
    events = own_events(n)
    own = records(events)
    with_header = [
        r._replace(headers=[("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]) for r in own
    ]
    odd = records(
        [{**e, "inputs": {**e["inputs"], "n07": "12.5"}} if i % 100 == 0 else e for i, e in enumerate(events)]
    )
    nulls = records([{**e, "inputs": {**e["inputs"], "n07": None}} if i % 10 == 0 else e for i, e in enumerate(events)])
    typed = msgspec.json.Decoder(msgspec.defstruct("Bare", [("id", str), ("inputs", dict[str, float | str])])).decode
    values = [record.value or b"" for record in own]

    def loads() -> object:
        return [None for value in values if orjson.loads(value) is None]

    cases: dict[str, Callable[[], object]] = {
        "orjson.loads alone": loads,
        "own": reader(own),
        "own, a header to look at": reader(with_header),
        "own, 1 % odd": reader(odd),
        "own, a null in 10 %": reader(nulls),
        "msgspec, a dict of inputs, no columns": lambda: list(map(typed, values)),
    }
    few = records([v2_body(e) for e in events[: n // 4]])
    cases["v2, one tensor"] = reader(few)
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, run in cases.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - start) / (len(few) if name.startswith("v2") else n))
    floor = best["orjson.loads alone"]
    for name, cost in best.items():
        print(f"{name:40} {cost * 1e6:6.2f} us/event  {cost / floor:5.2f} x orjson.loads")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
