"""Traces and metrics over OTLP, when OpenTelemetry's standard environment variables ask for them; nothing is imported
otherwise.

A request that a model answers becomes a span, a child of the caller's where it sent `traceparent`, and one observation
of `http.server.request.duration`. What all workers counted together is told by one of them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from budwood import __version__
from budwood.serving.http import Request
from budwood.serving.metrics import DURATIONS
from budwood.serving.service import Service

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

__all__ = ["Telemetry", "asked"]

logger = logging.getLogger("budwood.serving")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_{}_ENDPOINT")
CLOSE_SECONDS = 3.0
"""What was not sent yet has this long when the worker ends; the collector may be gone."""
SERVER_ERROR = 500


def asked(environment: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether traces and metrics are to be sent, by the variables of the OpenTelemetry specification.

    An endpoint has to be named; OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER may say no.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False, False
    wanted = [signal_asked(environment, signal) for signal in ("TRACES", "METRICS")]
    return wanted[0], wanted[1]


def signal_asked(environment: Mapping[str, str], signal: str) -> bool:
    exporters = environment.get(f"OTEL_{signal}_EXPORTER", "otlp").split(",")
    there = any(environment.get(name.format(signal), "").strip() for name in ENDPOINTS)
    return there and "otlp" in [name.strip() for name in exporters]


class Telemetry:
    """The spans and metrics of one worker.

    Args:
        number: the worker's row in the figures.
        closers: what ends the exporters.
    """

    def __init__(
        self, service: Service, number: int, tracer: Any, meter: Any, closers: list[Callable[[], Any]]
    ) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.service, self.number, self.tracer, self.closers = service, number, tracer, closers
        self.context = TraceContextTextMapPropagator()
        self.duration = meter.create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of requests that models answer.",
            explicit_bucket_boundaries_advisory=DURATIONS,  # the usual ones are for milliseconds
        )
        meter.create_observable_counter("budwood.predictions", [self.predictions], "{prediction}", "Answers, by label.")
        meter.create_observable_gauge("budwood.queue.depth", [self.depth], "{input}", "Inputs that wait for a runner.")
        meter.create_observable_gauge("budwood.drift.psi", [self.psi], "1", "PSI of recent answers.")
        meter.create_observable_gauge("budwood.live.score", [self.score], "1", "What labels that came later say.")

    @classmethod
    def open(cls, service: Service, number: int, environment: Mapping[str, str]) -> Self | None:
        """What the environment asks for; None for nothing, and with a line in the log where the extra is missing."""
        traces, metrics = asked(environment)
        if not traces and not metrics:
            return None
        protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if protocol != "http/protobuf":
            logger.error("OpenTelemetry is off: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf")
            return None
        try:
            tracer, meter, closers = providers(environment, number, traces, metrics)
        except ModuleNotFoundError:
            logger.error("OpenTelemetry is asked for, and not installed: pip install 'budwood[otel]'")
            return None
        return cls(service, number, tracer, meter, closers)

    def note(self, request: Request, method: str, route: str, status: int, seconds: float) -> None:
        """One request that was answered just now."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        model = request.model
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "budwood.model": model.name,
            "budwood.version": model.version,
        }
        self.duration.record(seconds, attributes)
        end = time.time_ns()
        carrier = {
            name: request.headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in request.headers
        }
        span = self.tracer.start_span(
            f"{method} {route}",
            context=self.context.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={**attributes, "budwood.request_id": request.id.decode("latin-1")},
            start_time=end - int(seconds * 1e9),
        )
        if status >= SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        ending = [threading.Thread(target=close, daemon=True) for close in self.closers]
        for thread in ending:
            thread.start()
        until = time.monotonic() + CLOSE_SECONDS
        for thread in ending:
            thread.join(max(0.0, until - time.monotonic()))

    # Called in the thread that sends metrics

    def speaks(self) -> bool:
        """Whether this worker tells what all of them counted: the first that answers."""
        board = self.service.board
        ready = board.layout.scalars["workers_ready"]
        return next((row for row in range(board.layout.rows) if board.row(row)[ready]), None) == self.number

    def predictions(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for seen in self.service.board.models() if self.speaks() else ():
            for label, count in self.service.board.predictions(seen).items():
                yield Observation(count, {**named(*seen.model.key), "label": label})

    def depth(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        return [Observation(self.service.board.scalar("queue_depth"))] if self.speaks() else []

    def psi(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for model in self.service.models if self.speaks() else ():
            for test in self.service.monitor.judge(model).tests:
                if test.method == "psi":
                    yield Observation(test.value, {**named(model.name, model.version), "what": test.what})

    def score(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        self.service.feedback.refresh()
        for seen in self.service.board.models() if self.speaks() else ():
            told = self.service.feedback.of(*seen.model.key)
            if told["n"]:
                yield Observation(told["value"], {**named(*seen.model.key), "metric": told["metric"]})


def named(model: str, version: str) -> dict[str, str]:
    return {"budwood.model": model, "budwood.version": version}


def providers(
    environment: Mapping[str, str], number: int, traces: bool, metrics: bool
) -> tuple[Any, Any, list[Callable[[], Any]]]:
    """A tracer and a meter with exporters that read the rest of the environment themselves; no global state is set.

    Raises ModuleNotFoundError without the extra `otel`.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.version": __version__, "service.instance.id": f"worker-{number}"}
    if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = "budwood"
    resource = Resource.create(attributes)
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    if traces:
        tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if metrics else []
    metering = MeterProvider(readers, resource, shutdown_on_exit=False)
    tracer, meter = tracing.get_tracer("budwood", __version__), metering.get_meter("budwood", __version__)
    return tracer, meter, [tracing.shutdown, metering.shutdown]
