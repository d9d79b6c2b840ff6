"""Spans on their way to the collector: bounded, counted, sent by a thread of its own.

A collector that is slow or away costs no message and no memory beyond the bound: what finds the outbox full is dropped
and counted, so that what was recorded is always what was sent, what was dropped and what waits. The bound is about
16 MB at 500 bytes a span; the SDK's own of 2048 spans overflows within a tenth of a second of a busy pod.
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
"""Unless OTEL_BSP_MAX_QUEUE_SIZE, …_MAX_EXPORT_BATCH_SIZE and …_SCHEDULE_DELAY say otherwise."""

MAX_QUEUE_BYTES = 32 << 20
"""Twice what so many spans usually have: a handler may add attributes of any size."""

MAX_REQUEST_BYTES = 4 << 20
"""A collector refuses more than 20 MiB, if nobody told it otherwise, and what stands before one perhaps less. One span
that is larger goes alone."""

HEALTHY_EXPORT_SECONDS = 0.5
"""A collector that takes a batch in this time is worth waiting for."""


class ExportQueue:
    """`send` takes spans, encoded, to the collector, and says whether it has them."""

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
        """`abort` ends a pause between two tries to send."""
        self._max_size, self._batch_size, self._delay_seconds = max_size, min(batch_size, max_size), delay_seconds
        self._waiting: deque[bytes] = deque()
        self._in_flight = 0
        self._bytes_in = self._bytes_out = 0
        """Of what was ever put in, and is done with: one counter for each thread."""
        self._wake, self._idle = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        """Held by whoever counts or takes spans out: never while something is sent, nor where nothing is dropped."""
        self._is_closing = self._is_aborted = False
        self._rejected = 0
        """For want of room."""
        self._failed = 0
        """The collector did not take them."""
        self.sent = 0
        self._is_collector_fast = True
        """Whether the last request was answered soon."""
        self._request_start_seconds = 0.0
        """When the request under way was begun: one that has no answer yet may never have one."""
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
        """`variables`: how the names of those begin that set the bounds. `counter`: the figure of what is dropped."""

        def said(variable: str, default: int) -> int:
            return int_from_env(environ, f"{variables}_{variable}", default)

        return cls(
            send,
            abort,
            max_size=said("MAX_QUEUE_SIZE", max_size),
            batch_size=said("MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
            delay_seconds=said("SCHEDULE_DELAY", DELAY_MILLISECONDS) / 1000,
            metrics=metrics,
            counter=counter,
        )

    @property
    def dropped(self) -> int:
        return self._rejected + self._failed

    @property
    def is_backlogged(self) -> bool:
        """Whether a little patience would let it catch up: half full, by number or by size, and the collector takes
        what it is sent. The thread that sends waits for Python's lock while this process does nothing but work."""
        is_half_full = (
            len(self._waiting) > self._max_size // 2 or self._bytes_in - self._bytes_out > MAX_QUEUE_BYTES // 2
        )
        if not (is_half_full and self._is_collector_fast):
            return False
        return time.monotonic() - self._request_start_seconds < HEALTHY_EXPORT_SECONDS

    def is_full(self) -> bool:
        """Whether there is no room for even the smallest. It counts as dropped then, and nobody need encode it."""
        return not self._has_room(1)

    def put(self, span: bytes) -> None:
        """One that ended. Never waits."""
        size = len(span)
        if not self._has_room(size):
            return
        self._bytes_in += size
        self._waiting.append(span)
        held = self._bytes_in - self._bytes_out
        if len(self._waiting) == self._batch_size or held - size < MAX_REQUEST_BYTES <= held:
            self._wake.set()

    def _has_room(self, size: int) -> bool:
        """What has none is counted."""
        is_full = len(self._waiting) + self._in_flight >= self._max_size
        if not (is_full or self._is_closing or self._bytes_in - self._bytes_out + size > MAX_QUEUE_BYTES):
            return True
        with self._lock:
            self._rejected += 1
            self._update_dropped_metric()
        return False

    def flush(self, timeout_seconds: float) -> bool:
        """Send what waits. False: it was not all sent in time."""
        self._idle.clear()
        self._wake.set()
        return self._idle.wait(timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        """The same for the last time. What does not arrive in time counts as dropped."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_seconds)
        with self._lock:  # before `abort`, after which the request under way would be counted by the thread, too
            self._is_aborted = self._thread.is_alive()
            if self._is_aborted:
                self._failed += len(self._waiting) + self._in_flight
                self._update_dropped_metric()
        self._abort()
        return not self._is_aborted

    def _run(self) -> None:
        while not self._is_aborted and not (self._is_closing and not self._waiting):
            self._wake.wait(self._delay_seconds)
            self._wake.clear()
            flushes = not self._idle.is_set()
            self._send_waiting()
            if flushes:
                self._idle.set()

    def _send_waiting(self) -> None:
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
        """The next to be sent: as many as one request may hold, and one at least."""
        with self._lock:
            if self._is_aborted:
                return []
            taken: list[bytes] = []
            size = 0
            while self._waiting and len(taken) < self._batch_size:
                size += len(self._waiting[0])
                if taken and size > MAX_REQUEST_BYTES:
                    break
                self._in_flight += 1  # before it is taken out: nobody may find room that there is not
                taken.append(self._waiting.popleft())
            return taken

    def _update_dropped_metric(self) -> None:
        """At once: a collector that is away for long is away while somebody looks."""
        setattr(self._metrics, self._counter, self.dropped)

    def _try_send(self, spans: Sequence[bytes]) -> bool:
        try:
            return self._send(spans)
        except Exception:
            log.exception("spans could not be sent", extra={"spans": len(spans)})
            return False


def int_from_env(environ: Mapping[str, str], variable: str, default: int) -> int:
    """What a variable says; its default where that is no whole number. 0 counts as 1."""
    found = environ.get(variable, "")
    return max(1, int(found)) if found.isdecimal() else default
