"""Bounded queue of encoded spans, sent to the collector by a separate thread.

A slow or unavailable collector does not delay messages, and the queue never exceeds its limits. If the queue is full,
new spans are dropped and counted, so that recorded = sent + dropped + queued. A full queue takes about 16 MB if a span
takes 500 bytes. In a busy pod, the SDK's own queue of 2048 spans overflows within a tenth of a second.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from streamconsumer.processor.metrics import Metrics

log = logging.getLogger(__name__)

QUEUE_SPANS, BATCH_SPANS, DELAY_MILLISECONDS = 32_768, 4096, 1000
"""Defaults of OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE and OTEL_BSP_SCHEDULE_DELAY."""

MAX_QUEUE_BYTES = 32 << 20
"""Limit of the queue in bytes. A limit of the number of spans is not sufficient, because a handler may add attributes
of any size. The limit is twice the number of bytes that a full queue usually has."""

MAX_REQUEST_BYTES = 4 << 20
"""Limit of a request in bytes. By default, a collector rejects requests of more than 20 MiB, and a proxy in front of
the collector may have a lower limit. A span that is larger than this limit is sent alone."""

HEALTHY_EXPORT_SECONDS = 0.5
"""Maximum response time of a collector that counts as fast. The processor pauses reading only if the collector is
fast."""


class ExportQueue:
    """Queue of encoded spans and the thread that sends them.

    `send` sends a batch and returns True if the collector accepted it. `abort` wakes `send` if it is waiting before a
    retry. `counter` is the field of `metrics` that counts dropped spans.
    """

    def __init__(
        self,
        send: Callable[[Sequence[bytes]], bool],
        abort: Callable[[], object] = lambda: None,
        *,
        max_size: int = QUEUE_SPANS,
        batch_size: int = BATCH_SPANS,
        delay_seconds: float = DELAY_MILLISECONDS / 1000,
        metrics: Metrics | None = None,
        counter: str = "spans_dropped",
    ) -> None:
        self._metrics, self._counter = metrics or Metrics(), counter
        self._send, self._abort = send, abort
        self._max_size, self._batch_size, self._delay_seconds = max_size, min(batch_size, max_size), delay_seconds
        self._queued: deque[bytes] = deque()
        self._in_flight = 0
        self._bytes_in = self._bytes_out = 0
        """Total bytes that were queued, and total bytes that were sent or dropped. Each counter is written by a single
        thread."""
        self._wake, self._idle = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        """Lock that is held while spans are counted or taken out of the queue, but not during a request. `put` takes
        the lock only if it drops the span."""
        self._is_closing = self._is_aborted = False
        self._rejected = 0
        """Spans dropped because the queue was full."""
        self._failed = 0
        """Spans dropped because the collector did not accept them."""
        self.sent = 0
        self._is_collector_fast = True
        """True if the collector responded to the last request within `HEALTHY_EXPORT_SECONDS`."""
        self._request_start_seconds = 0.0
        """Start of the current request, which may never get a response."""
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        send: Callable[[Sequence[bytes]], bool],
        abort: Callable[[], object],
        metrics: Metrics | None,
        *,
        variables: str = "OTEL_BSP",
        max_size: int = QUEUE_SPANS,
        counter: str = "spans_dropped",
    ) -> Self:
        """Build a queue with limits from environment variables. `variables` is the prefix of the variable names."""

        def limit(variable: str, default: int) -> int:
            return int_from_env(environ, f"{variables}_{variable}", default)

        return cls(
            send,
            abort,
            max_size=limit("MAX_QUEUE_SIZE", max_size),
            batch_size=limit("MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
            delay_seconds=limit("SCHEDULE_DELAY", DELAY_MILLISECONDS) / 1000,
            metrics=metrics,
            counter=counter,
        )

    @property
    def dropped(self) -> int:
        """Number of spans that never reached the collector."""
        return self._rejected + self._failed

    @property
    def is_backlogged(self) -> bool:
        """True if a short pause would let the queue drain.

        A pause lets the queue drain if the queue is more than half full, in spans or in bytes, and the collector
        responds fast. Without a pause, the sending thread waits for the GIL while this process is busy.
        """
        is_half_full = (
            len(self._queued) > self._max_size // 2 or self._bytes_in - self._bytes_out > MAX_QUEUE_BYTES // 2
        )
        if not (is_half_full and self._is_collector_fast):
            return False
        return time.monotonic() - self._request_start_seconds < HEALTHY_EXPORT_SECONDS

    def drop_if_full(self) -> bool:
        """Count a span as dropped if the queue has no room even for the smallest possible span.

        Returns True if the span was dropped, so that the caller does not need to encode the span.
        """
        return not self._has_room(1)

    def put(self, span: bytes) -> None:
        """Queue an encoded span, or count it as dropped. Never blocks."""
        size = len(span)
        if not self._has_room(size):
            return
        self._bytes_in += size
        self._queued.append(span)
        queued_bytes = self._bytes_in - self._bytes_out
        if len(self._queued) == self._batch_size or queued_bytes - size < MAX_REQUEST_BYTES <= queued_bytes:
            self._wake.set()

    def _has_room(self, size: int) -> bool:
        """Return whether the queue has room for a span of `size` bytes. If there is no room, the span is counted as
        dropped."""
        is_full = len(self._queued) + self._in_flight >= self._max_size
        if not (is_full or self._is_closing or self._bytes_in - self._bytes_out + size > MAX_QUEUE_BYTES):
            return True
        with self._lock:
            self._rejected += 1
            self._update_dropped_metric()
        return False

    def flush(self, timeout_seconds: float) -> bool:
        """Send queued spans. Returns False if the timeout expired before the queue was empty."""
        self._idle.clear()
        self._wake.set()
        return self._idle.wait(timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        """Send queued spans and stop the thread. Returns False if the timeout expired before the queue was empty.

        Spans that were not sent in time count as dropped.
        """
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_seconds)
        with self._lock:  # before `abort`, after which the thread would also count the current request
            self._is_aborted = self._thread.is_alive()
            if self._is_aborted:
                self._failed += len(self._queued) + self._in_flight
                self._update_dropped_metric()
        self._abort()
        return not self._is_aborted

    def _run(self) -> None:
        while not self._is_aborted and not (self._is_closing and not self._queued):
            self._wake.wait(self._delay_seconds)
            self._wake.clear()
            flushes = not self._idle.is_set()
            self._send_queued()
            if flushes:
                self._idle.set()

    def _send_queued(self) -> None:
        while spans := self._take_batch():
            self._request_start_seconds = time.monotonic()
            sent = self._try_send(spans)
            self._is_collector_fast = sent and time.monotonic() - self._request_start_seconds < HEALTHY_EXPORT_SECONDS
            with self._lock:
                if self._is_aborted:
                    return
                self._in_flight = 0
                self._bytes_out += sum(map(len, spans))
                if sent:
                    self.sent += len(spans)
                else:
                    self._failed += len(spans)
                    self._update_dropped_metric()

    def _take_batch(self) -> list[bytes]:
        """Take the next batch out of the queue.

        A batch contains at least one span if the queue is not empty. A batch of several spans fits into one request.
        """
        with self._lock:
            if self._is_aborted:
                return []
            batch: list[bytes] = []
            size = 0
            while self._queued and len(batch) < self._batch_size:
                size += len(self._queued[0])
                if batch and size > MAX_REQUEST_BYTES:
                    break
                self._in_flight += 1  # before popleft(), so that `_has_room` always counts this span
                batch.append(self._queued.popleft())
            return batch

    def _update_dropped_metric(self) -> None:
        """Update the metric immediately, so that a scrape during a long outage returns the current count."""
        setattr(self._metrics, self._counter, self.dropped)

    def _try_send(self, spans: Sequence[bytes]) -> bool:
        try:
            return self._send(spans)
        except Exception:
            log.exception("failed to send spans", extra={"spans": len(spans)})
            return False


def int_from_env(environ: Mapping[str, str], variable: str, default: int) -> int:
    """Return an environment variable as an integer of at least 1. Invalid or unset variables give the default."""
    text = environ.get(variable, "")
    return max(1, int(text)) if text.isdecimal() else default
