"""What a scraper gets, read back with Prometheus' own parser."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from detectors.core import Kind, Role
from monitor.metrics import Meters, reference
from monitor.series import OTHER
from monitor.snapshot import AlertView, ColumnView, ModelView, ScoreView, Snapshot

NUMBER = ColumnView("gain", Kind.NUMBER, Role.INPUT, 0.25, 0.125, 3.0, 1.5, {"0.5": 2.0, "0.95": 4.0})
CATEGORY = ColumnView(
    "camera", Kind.CATEGORY, Role.INPUT, 0.0, 0.0, shares={"north": 0.5, "south": 0.25, "east": 0.125, OTHER: 0.125}
)
MODEL = ModelView(
    "shelf", events=900, late=3, windows=9, window_start=80.0, window_end=90.0, window_rows=100, reference="abc",
    columns=(NUMBER, CATEGORY),
    scores=(ScoreView("psi", "gain", 0.3, 0.2, found=True), ScoreView("volume", "", 1.0, 4.0, found=False)),
    alerts=(AlertView("shelf/psi/gain", "psi", "gain", "warning", 80.0, 90.0, "gain moved"),), label_tasks=12,
)  # fmt: skip


def scrape(meters: Meters) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(meters.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def showing(*models: ModelView, columns: int = 200, label_values: int = 20) -> Meters:
    return Meters(lambda: Snapshot(models), columns=columns, label_values=label_values)


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"driftd_{name}", frozenset(labels.items())


def test_a_judged_model_is_shown_with_its_columns_scores_and_alerts() -> None:
    got = scrape(showing(MODEL))
    gain = {"model": "shelf", "column": "gain", "role": "input"}
    expected: Mapping[tuple[str, frozenset[tuple[str, str]]], float] = {
        key("judged_events_total", model="shelf"): 900,
        key("late_events_total", model="shelf"): 3,
        key("windows_judged_total", model="shelf"): 9,
        key("label_tasks_total", model="shelf"): 12,
        key("window_rows", model="shelf"): 100,
        key("window_end_timestamp_seconds", model="shelf"): 90.0,
        key("reference_info", model="shelf", version="abc"): 1,
        key("column_missing_ratio", **gain): 0.25,
        key("column_wrong_ratio", **gain): 0.125,
        key("column_mean", **gain): 3.0,
        key("column_deviation", **gain): 1.5,
        key("column_quantile", **gain, q="0.95"): 4.0,
        key("column_category_ratio", model="shelf", column="camera", role="input", word="north"): 0.5,
        key("drift_score", model="shelf", check="psi", column="gain", scope=""): 0.3,
        key("drift_score_limit", model="shelf", check="psi", column="gain", scope=""): 0.2,
        key("drift_found", model="shelf", check="psi", column="gain", scope=""): 1,
        key("drift_score", model="shelf", check="volume", column="", scope=""): 1.0,
        key("alerts_open", model="shelf", severity="warning"): 1,
        key("alerts_open", model="shelf", severity="critical"): 0,
    }
    assert {k: got.get(k) for k in expected} == expected


def test_what_was_not_measured_has_no_series() -> None:
    got = scrape(showing(ModelView("new", columns=(CATEGORY,), learning=(40, 5000))))
    names = {name for name, labels in got if ("model", "new") in labels}
    assert {"driftd_learning_events", "driftd_learning_wanted_events"} <= names
    assert names.isdisjoint({"driftd_window_end_timestamp_seconds", "driftd_column_mean", "driftd_reference_info"})


def test_series_of_a_retired_model_vanish() -> None:
    models = [MODEL]
    meters = Meters(lambda: Snapshot(tuple(models)))
    assert any(("model", "shelf") in labels for _, labels in scrape(meters))
    models.clear()
    assert not any(("model", "shelf") in labels for _, labels in scrape(meters))


def test_columns_beyond_the_cap_are_told_by_their_worst() -> None:
    columns = tuple(ColumnView(f"x{i}", Kind.NUMBER, Role.INPUT, i / 1000, 0.0, float(i)) for i in range(1000))
    scores = tuple(ScoreView("psi", f"x{i}", float(i), 0.2, found=i == 999) for i in range(1000))
    got = scrape(showing(ModelView("wide", columns=columns, scores=scores), columns=10))
    assert sum(name == "driftd_column_mean" for name, _ in got) == 10
    assert got[key("column_missing_ratio", model="wide", column=OTHER, role=OTHER)] == 0.999
    assert got[key("drift_score", model="wide", check="psi", column=OTHER, scope="")] == 999.0
    assert got[key("drift_found", model="wide", check="psi", column=OTHER, scope="")] == 1.0
    assert got[key("not_shown", model="wide", what="column")] == 990


def test_words_beyond_the_cap_add_up_to_the_rest() -> None:
    got = scrape(showing(MODEL, label_values=2))
    shares = {
        dict(labels)["word"]: share for (name, labels), share in got.items() if name == "driftd_column_category_ratio"
    }
    assert shares == {"north": 0.5, "south": 0.25, OTHER: 0.25}
    assert got[key("not_shown", model="shelf", what="word")] == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=5, unique=True))
def test_any_column_name_survives_the_exposition(names: list[str]) -> None:
    columns = tuple(ColumnView(name, Kind.NUMBER, Role.INPUT, 0.0, 0.0, 1.0) for name in names)
    got = scrape(showing(ModelView("m", columns=columns)))
    assert sum(name == "driftd_column_mean" for name, _ in got) == len(names)


def test_long_names_that_begin_alike_stay_apart() -> None:
    columns = tuple(ColumnView("x" * 500 + end, Kind.NUMBER, Role.INPUT, 0.0, 0.0, 1.0) for end in "ab")
    shown = [dict(labels)["column"] for name, labels in scrape(showing(ModelView("m", columns=columns)))
             if name == "driftd_column_mean"]  # fmt: skip
    assert len(set(shown)) == 2
    assert max(map(len, shown)) <= 120


def test_a_thread_s_last_round_is_told_as_a_time() -> None:
    got = scrape(Meters(silences=lambda: {"judge": 100.0}))
    assert got[key("thread_alive_timestamp_seconds", thread="judge")] == pytest.approx(time.time() - 100.0, abs=60)


def test_every_metric_is_in_base_units_and_documented() -> None:
    described = Meters().described()
    assert len({metric.name for metric in described}) == len(described)
    for metric in described:
        assert metric.name.startswith("driftd_")
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert not metric.name.endswith(("_ms", "_percent", "_kb", "_mb"))
        assert metric.help.endswith("."), metric.name


def test_the_described_metrics_are_exactly_those_that_are_served() -> None:
    meters = showing(MODEL, ModelView("new", learning=(1, 2)))
    served = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in meters.registry.collect()
        if family.name.startswith("driftd_")
    }
    assert served == {metric.name for metric in meters.described()}


def test_the_metrics_page_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.services
def test_promtool_finds_nothing_to_criticise() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    meters = showing(MODEL)
    meters.events.labels("kafka").inc()
    meters.judged_delay.labels("shelf").observe(0.4)
    meters.checkpoints.labels("ingest").observe(0.01)
    exposition = b"".join(line + b"\n" for line in generate_latest(meters.registry).splitlines() if b"driftd_" in line)
    done = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
