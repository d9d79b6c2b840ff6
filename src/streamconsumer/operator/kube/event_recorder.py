"""Events on StreamConsumers, for kubectl describe. A courtesy: none fails a reconcile, and none is waited for."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile_trace import current

MAX_QUEUED = 1000
"""The number of Events that wait at most. The log has those that find no room."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What happened to whom: the metadata is enough, the rest of the resource may be large."""

    regarding: Manifest
    reason: str
    message: str
    warning: bool
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class EventRecorder:
    """`tell` from a reconcile; `write` runs until it is cancelled."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._queue: asyncio.Queue[Event] = asyncio.Queue(MAX_QUEUED)

    def record(self, regarding: Manifest, reason: str, message: str, *, warning: bool) -> None:
        """Log it, add it to the reconcile's trace, and have `write` write it."""
        event = Event({"metadata": regarding["metadata"]}, reason, message, warning)
        log.log(logging.WARNING if warning else logging.INFO, message, extra=_log_fields(event))
        current.get().event(reason, message)
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(event)

    async def run(self) -> None:
        """Write Events in their order, one after the other."""
        while True:
            event = await self._queue.get()
            reason, message, warning = event.reason, event.message, event.warning
            try:
                await self._kube.create_event(
                    event.regarding, reason=reason, message=message, warning=warning, at=event.at
                )
            except Exception as error:  # noqa: BLE001 - the namespace may be going away, the right to write them missing
                log.warning("event not written", extra={**_log_fields(event), "error": api_error_message(error)})


def _log_fields(event: Event) -> dict[str, str]:
    metadata = event.regarding["metadata"]
    return {"namespace": metadata["namespace"], "consumer": metadata["name"], "reason": event.reason}
