"""The interface for tracing a reconcile. By default, nothing is recorded. `tracing.py` implements the interface with
OpenTelemetry."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class ReconcileTrace:
    """The trace of one reconcile. This base class records nothing."""

    def request_span(self, method: str, path: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context manager that traces a write request."""
        return nullcontext()

    def event(self, reason: str, message: str) -> None:
        """Add an Event to the trace."""


NOOP = ReconcileTrace()

current: ContextVar[ReconcileTrace] = ContextVar("reconcile", default=NOOP)
"""The trace of the reconcile that the current task is running."""
