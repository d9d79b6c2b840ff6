"""Events on StreamConsumers, for `kubectl describe`.

The operator writes Events in the background, so that a slow or failed write does not affect the reconcile.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import MAX_NOTE_BYTES, KubeClient
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile_trace import current

MAX_QUEUED = 1000
"""The maximum number of queued Events. If the queue is full, further Events are only logged and traced."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """An Event that waits to be written. `regarding` contains only the namespace, the name and the uid of the
    StreamConsumer, because a whole resource may be large."""

    regarding: Manifest
    reason: str
    message: str
    warning: bool
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class EventRecorder:
    """Queues the Events of reconciles and writes them in the background."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._queue: asyncio.Queue[Event] = asyncio.Queue(MAX_QUEUED)

    def record(self, regarding: Manifest, reason: str, message: str, *, warning: bool) -> None:
        """Log an Event, add the Event to the trace of the reconcile, and queue the Event to be written."""
        metadata = {key: regarding["metadata"].get(key, "") for key in ("namespace", "name", "uid")}
        event = Event({"metadata": metadata}, reason, message[:MAX_NOTE_BYTES], warning)
        log.log(logging.WARNING if warning else logging.INFO, message, extra=_log_fields(event))
        current.get().event(reason, message)
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(event)

    async def run(self) -> None:
        """Write the queued Events in order, one at a time, until cancelled."""
        while True:
            event = await self._queue.get()
            reason, message, warning = event.reason, event.message, event.warning
            try:
                await self._kube.create_event(
                    event.regarding, reason=reason, message=message, warning=warning, at=event.at
                )
            except Exception as error:  # noqa: BLE001 - the namespace may be terminating, or the permission may be missing
                log.warning("failed to write event", extra={**_log_fields(event), "error": api_error_message(error)})


def _log_fields(event: Event) -> dict[str, str]:
    metadata = event.regarding["metadata"]
    return {"namespace": metadata["namespace"], "consumer": metadata["name"], "reason": event.reason}
