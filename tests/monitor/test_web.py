"""The server on a real socket, spoken to as senders, scrapers and browsers do."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerting.labeling.queue import Progress
from detectors.core import Kind, Role
from monitor.metrics import Meters
from monitor.people import People
from monitor.settings import Secret
from monitor.snapshot import (
    AlertView,
    ColumnView,
    EstimateView,
    HourView,
    ModelView,
    Snapshot,
    SuppressionView,
    VerdictView,
)
from monitor.web import Unbound, Web, WebOptions
from tests.monitor.serving import Client, Standing, serving

EVIL = "<script>alert(1)</script>"
SNAPSHOT = Snapshot((
    ModelView(
        EVIL, events=7, windows=1, columns=(ColumnView("x", Kind.NUMBER, Role.INPUT, 0.5, 0.0),), findings=(EVIL,),
        alerts=(AlertView("k", "psi", EVIL, "warning", 1e300, 2.0, EVIL),), reference="abc",
        estimates=(
            EstimateView("performance", "accuracy", "", 0.912, 0.887, 0.937, 0.934),
            EstimateView("performance", "recall", EVIL, 0.8, 0.7, 0.9, float("nan"), doubt="labels say so"),
        ),
        hours=tuple(HourView(3600.0 * hour, 100 + hour, 90, 0.125) for hour in range(30)),
    ),
))  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(daemon=Standing(SNAPSHOT)) as found:
        yield found


def test_an_event_is_in_the_log_when_it_is_accepted(client: Client) -> None:
    client.daemon.log.trim(client.daemon.log.end)
    assert client.post(b'{"id":"a"}') == 202
    assert client.post(b'{"id":"b"}', path="/", ce_id="b") == 202
    assert client.post(b'{"id":"c"}\n{"id":"d"}\n', content_type="application/x-ndjson") == 202
    assert client.daemon.bodies() == [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}', b'{"id":"d"}']


def test_a_full_log_asks_the_sender_to_come_again(client: Client) -> None:
    client.daemon.log.trim(client.daemon.log.end)
    line = b'{"id":"' + b"x" * 3000 + b'"}'
    statuses = [client.post(line) for _ in range(40)]
    assert statuses[0] == 202
    assert statuses[-1] == 503
    status, headers, _ = client.ask("POST", "/v1/events", line, content_type="application/json")
    assert (status, headers["retry-after"]) == (503, "5")
    assert len(client.daemon.bodies()) == statuses.count(202)
    client.daemon.log.trim(client.daemon.log.end)
    assert client.post(line) == 202


def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_is_told(client: Client) -> None:
    assert client.post(b"[" + b" " * 5000 + b"]") == 413
    assert client.post(gzip.compress(b"[" + b" " * 5000 + b"]"), content_encoding="gzip") == 413
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n" + b"10\r\n" + b" " * 16)
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "application/x-ndjson", "application/cloudevents-batch+json", "a/b", ""]),
    st.sampled_from(["", "gzip", "br"]),
)
def test_no_request_makes_an_error_of_ours(client: Client, body: bytes, media: str, coding: str) -> None:
    client.daemon.log.trim(client.daemon.log.end)
    status = client.ask("POST", "/", body, content_type=media, content_encoding=coding)[0]
    assert status in (202, 400, 413, 415)


def test_a_token_is_asked_for_where_it_is_configured() -> None:
    options = WebOptions(port=0, token=Secret("s3cret"))
    assert "s3cret" not in repr(options)
    with serving(options) as client:
        assert client.post(b"{}") == 401
        assert client.post(b"{}", authorization="Bearer s3cre") == 401
        assert client.post(b"{}", authorization="Bearer s3cret") == 202
        assert client.ask("GET", "/healthz")[0] == 200


def test_without_an_http_source_nothing_is_taken() -> None:
    with serving(intake=False) as client:
        assert client.post(b"{}") in (404, 405)
        assert client.post(b"{}", path="/") in (404, 405)


def test_health_names_the_thread_that_stalls(client: Client) -> None:
    assert client.ask("GET", "/healthz")[0] == 200
    client.daemon.silent = {"ingest": 0.1, "judge": 61.0}
    status, _, body = client.ask("GET", "/healthz")
    client.daemon.silent = {"ingest": 0.1}
    assert (status, json.loads(body)["stalled"]) == (503, ["judge"])


def test_readiness_says_what_is_waited_for(client: Client) -> None:
    assert client.ask("GET", "/readyz")[0] == 200
    client.daemon.waiting = ["kafka: connecting"]
    status, _, body = client.ask("GET", "/readyz")
    client.daemon.waiting = []
    assert (status, json.loads(body)) == (503, {"ready": False, "waiting": ["kafka: connecting"]})


def test_metrics_are_served_in_the_form_the_scraper_asks_for(client: Client) -> None:
    _, headers, body = client.ask("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert b"driftd_judged_events_total" in body
    wanted = "application/openmetrics-text; version=1.0.0"
    _, headers, body = client.ask("GET", "/metrics", accept=wanted)
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_status_is_the_snapshot_as_json(client: Client) -> None:
    _, _, body = client.ask("GET", "/status")
    told = json.loads(body, parse_constant=pytest.fail)
    (model,) = told["models"]
    assert (model["model"], model["events"], model["window_end"]) == (EVIL, 7, None)
    assert told["daemon"]["not_ready"] == []
    assert (told["destinations"]["hook"]["circuit"], told["destinations"]["hook"]["failures"]) == ("open", 2)


def test_the_page_shows_everything_escaped_and_loads_nothing(client: Client) -> None:
    status, headers, body = client.ask("GET", "/")
    assert status == 200
    assert b"<script" not in body
    assert body.count(b"&lt;script&gt;") >= 4
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in body
    assert b"https://" not in body


def test_the_page_shows_what_is_estimated_and_what_late_labels_said(client: Client) -> None:
    body = client.ask("GET", "/")[2].decode()
    assert "accuracy<td class=n>91.2%<td class=n>88.7% to 93.7%<td class=n>93.4%<td>" in body
    assert "<td class=n>-<td><span class=hot>not valid:</span> labels say so" in body
    assert "1970-01-02 05:00:00<td class=n>90 of 129<td class=n>12.5%" in body
    assert body.index("90 of 129") < body.index("90 of 128")
    assert "90 of 105" not in body  # older than a day of hours


def test_the_page_says_how_alerts_stand_what_was_said_and_how_labeling_goes_on() -> None:
    led = AlertView("b&b", "range", "x", "critical", 2.0, 2.0, "led", leader="k")
    muted = AlertView("quiet", "psi", "y", "critical", 1.0, 2.0, "muted one", muted="holidays")
    said = VerdictView("v1", "k", "false alarm", "ada", 5.0, EVIL, outcome="not told again", revoked="v2")
    told = AlertView("k", "psi", "z", "warning", 3.0, 3.0, "told one", members=2, verdict=said, deadline=60.0)
    model = ModelView(
        "m", alerts=(muted, led, told), verdicts=(said,), suppressions=(SuppressionView("v1", ("k", "l"), 90.0, 3),)
    )
    daemon = Standing(Snapshot((model,)))
    daemon.labeling = [
        Progress(
            dataset=EVIL, counts={"In queue": 1200}, reviews={}, labelers=(), agreement=0.9, alpha=0.8, class_alpha={},
            asked={}, per_hour=30.0, hours_left=40.0, low=20,
        )
    ]  # fmt: skip
    with serving(daemon=daemon) as client:
        body = client.ask("GET", "/")[2].decode()
    assert body.index("told one") < body.index("muted one"), "whoever is told comes first"
    assert "b&amp;b" not in body, "members are on their leader's page"
    assert "2 more told with it; false alarm, says ada; due 1970-01-01 00:01:00" in body
    assert "muted: holidays; nobody has said what it is" in body
    assert "not told again; taken back" in body
    assert "Not told until 1970-01-01 00:01:30: <a href='/alert?key=k'>k</a>" in body
    assert "1,200 In queue<td class=n>30<td class=n>40.0 h<td class=n>0.80" in body
    assert "<script" not in body


def test_a_taken_port_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = Standing()
        with pytest.raises(Unbound, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            Web(WebOptions(port=port), daemon, Meters(), People(()), (), intake=False).start()


def test_the_default_is_loopback() -> None:
    assert WebOptions().host == "127.0.0.1"
