"""Traces of reconciles, recorded with OpenTelemetry.

The operator imports this module only if an endpoint is configured. No other module of the operator uses OpenTelemetry.

A successful reconcile that writes nothing records no span, because thousands of reconciles write nothing. A reconcile
that writes or fails starts a new trace, with one child span per write request. A client that applies a StreamConsumer
may store its own trace context in the annotation `tracing.k8s.io/traceparent`. The trace of the reconcile then links to
the client's trace. Events that `kubectl describe` shows are also recorded as span events with the same text.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamconsumer import __version__
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile_trace import ENDPOINT_VARIABLES, ReconcileTrace
from streamconsumer.text import printable

SHUTDOWN_TIMEOUT_SECONDS = 3.0
"""The maximum duration of a shutdown. Without this limit, the SDK would wait 30 s for an unavailable collector."""
MAX_CONTEXT_LENGTH = 512
ANNOTATIONS = {"traceparent": "tracing.k8s.io/traceparent", "tracestate": "tracing.k8s.io/tracestate"}
"""The annotations in which a client stores its trace context when it applies a StreamConsumer. KEP-5915 defines these
annotations."""

_propagator = TraceContextTextMapPropagator()


class ReconcileTracing:
    """Records the spans of reconciles with the OpenTelemetry SDK. The operator records few spans, so the cost of the
    SDK is small.

    `endpoint` is used if no environment variable sets an endpoint."""

    def __init__(self, endpoint: str = "") -> None:
        in_environment = any(os.environ.get(name) for name in ENDPOINT_VARIABLES)
        exporter = (
            OTLPSpanExporter() if in_environment else OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        )
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "streamconsumer-operator"),
                "service.version": __version__,
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("streamconsumer.operator", __version__)

    @contextmanager
    def reconcile(self, key: Key, manifest: Manifest | None, queued_seconds: float) -> Iterator[ReconcileTrace]:
        """Trace one reconcile. If an exception is raised, the exception is recorded as the status of the span and
        raised again."""
        span = _ReconcileSpan(self._tracer, key, manifest, queued_seconds)
        try:
            yield span
        except Exception as error:
            span.record_failure(error)
            raise
        finally:
            span.end()

    def shutdown(self) -> None:
        """Export the remaining spans within SHUTDOWN_TIMEOUT_SECONDS."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_TIMEOUT_SECONDS)


class _ReconcileSpan(ReconcileTrace):
    """The trace of one reconcile. The span is created at the first write, Event or failure, with the start time of the
    reconcile."""

    def __init__(self, tracer: trace.Tracer, key: Key, manifest: Manifest | None, queued_seconds: float) -> None:
        self._tracer, self._key, self._manifest = tracer, key, manifest
        self._queued_seconds, self._start_ns = queued_seconds, time.time_ns()
        self._span: Span | None = None

    @contextmanager
    def request_span(self, method: str, path: str) -> Iterator[None]:
        parent = trace.set_span_in_context(self._started_span(), Context())
        attributes = {"http.request.method": method.upper(), "url.path": path}
        with self._tracer.start_as_current_span(
            f"{method.upper()} {_resource_of(path)}", parent, SpanKind.CLIENT, attributes, record_exception=False
        ):
            yield

    def event(self, reason: str, message: str) -> None:
        self._started_span().add_event(reason, {"message": message})

    def record_failure(self, error: Exception) -> None:
        span = self._started_span()
        span.set_status(Status(StatusCode.ERROR, printable(str(error), 1000)))
        span.set_attribute("error.type", type(error).__qualname__)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()

    def _started_span(self) -> Span:
        if self._span is None:
            namespace, name = self._key
            metadata = (self._manifest or {}).get("metadata", {})
            attributes = {
                "k8s.namespace.name": namespace,
                "streamconsumer.name": name,
                "streamconsumer.generation": metadata.get("generation", 0),
                "streamconsumer.reconcile.queue_time": self._queued_seconds,
            }
            applier = _applier_context(metadata.get("annotations", {}))
            links = [Link(applier)] if applier.is_valid else []
            self._span = self._tracer.start_span(
                "reconcile StreamConsumer", Context(), SpanKind.INTERNAL, attributes, links, self._start_ns
            )
        return self._span


def _applier_context(annotations: Mapping[str, Any]) -> trace.SpanContext:
    """Return the trace context that the client stored when it applied the StreamConsumer. Returns an invalid context if
    the annotations are missing or malformed."""
    carrier = {
        key: value[:MAX_CONTEXT_LENGTH]
        for key, name in ANNOTATIONS.items()
        if isinstance(value := annotations.get(name), str)
    }
    return trace.get_current_span(_propagator.extract(carrier, Context())).get_span_context()


def _resource_of(path: str) -> str:
    """Return the resource that a path names. For `/apis/apps/v1/namespaces/shop/deployments/orders-consumer`, the
    resource is `deployments`. A subresource is appended, as in `streamconsumers/status`."""
    parts = path.split("/namespaces/", 1)[-1].split("/")
    return "/".join(part for index, part in enumerate(parts[1:]) if index != 1)
