"""Where the operator tells what it does, whether or not somebody listens. `tracing.py` is who does."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Reconcile:
    """One reconcile that nobody listens to."""

    def writing(self, method: str, path: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Around a request that changes something."""
        return nullcontext()

    def event(self, reason: str, message: str) -> None:
        """What is told as an Event."""


SILENT = Reconcile()

current: ContextVar[Reconcile] = ContextVar("reconcile", default=SILENT)
"""The one that runs in this task."""
