"""Where the operator tells what it does, whether or not somebody listens. `tracing.py` is who does."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class ReconcileTrace:
    """One reconcile that nobody listens to."""

    def request_span(self, method: str, path: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Around a request that changes something."""
        return nullcontext()

    def event(self, reason: str, message: str) -> None:
        """What is told as an Event."""


NOOP = ReconcileTrace()

current: ContextVar[ReconcileTrace] = ContextVar("reconcile", default=NOOP)
"""The one that runs in this task."""
