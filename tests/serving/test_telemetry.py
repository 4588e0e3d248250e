"""OpenTelemetry: off and not imported unless the environment asks; then spans and metrics reach a collector."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import served

from budwood.serving import telemetry
from budwood.serving.telemetry import asked

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """An OTLP collector over HTTP: it keeps the bodies that were posted, by path."""

    def __init__(self) -> None:
        received = self.received = list[tuple[str, bytes]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *values: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


def test_spans_and_metrics_reach_a_collector(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tickets")
    with served.start_null(tmp_path / "bundle") as handle:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        httpx.post(f"{handle.url}/predict", json={"text": "Where is it?"}, headers=headers).raise_for_status()
        assert httpx.post(f"{handle.url}/predict", json={"text": 1}).status_code == 422
        httpx.get(f"{handle.url}/livez")
        # What workers counted is told when the worker ends, too.
    spans = [
        (attributes(group.resource.attributes), span)
        for path, body in collector.received
        if path == "/v1/traces"
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]
    assert len(spans) == 2
    resource, first = spans[0]
    assert resource["service.name"] == "tickets"
    assert (first.trace_id.hex(), first.parent_span_id.hex(), first.name) == (TRACE, PARENT, "POST /predict")
    found = attributes(first.attributes)
    assert found["http.route"] == "/predict"
    assert found["http.response.status_code"] == 200
    assert (found["budwood.model"], found["budwood.request_id"]) == ("tiny", "mine")
    assert 0 < first.end_time_unix_nano - first.start_time_unix_nano < 60e9
    assert spans[1][1].trace_id.hex() != TRACE
    assert "Where is it?" not in str(spans)
    metrics = {
        metric.name: metric
        for path, body in collector.received
        if path == "/v1/metrics"
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
    }
    durations = metrics["http.server.request.duration"]
    assert durations.unit == "s"
    assert sum(point.count for point in durations.histogram.data_points) == 2
    # Seconds: bounds for milliseconds would put every answer into the first bucket.
    assert durations.histogram.data_points[0].explicit_bounds[0] == 0.001


def test_a_collector_that_is_gone_disturbs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with served.start_null(tmp_path / "bundle") as handle:
        httpx.post(f"{handle.url}/predict", json={"text": "Where is it?"}).raise_for_status()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (False, False)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, (True, True)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, (False, False)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, (True, False)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "TRUE"}, (False, False)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_METRICS_EXPORTER": "none"}, (True, False)),
        ({"OTEL_SERVICE_NAME": "tickets"}, (False, False)),
    ],
)
def test_the_environment_decides(environment: dict[str, str], expected: tuple[bool, bool]) -> None:
    assert asked(environment) == expected


def test_other_protocols_and_missing_packages_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}
    service: Any = None
    assert telemetry.Telemetry.open(service, 0, wanted | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) is None
    assert "must be http/protobuf" in caplog.text

    def missing(*_: object) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(telemetry, "providers", missing)
    assert telemetry.Telemetry.open(service, 0, wanted) is None
    assert "pip install 'budwood[otel]'" in caplog.text


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    program = (
        "import sys, budwood.serving.worker\n"
        "from budwood.serving.telemetry import Telemetry\n"
        "assert Telemetry.open(None, 0, {}) is None\n"
        "sys.exit(any(name.split('.')[0] == 'opentelemetry' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
