"""Events on StreamConsumers, for kubectl describe. A courtesy: none fails a reconcile, and none is waited for."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.operator.kube.api import what_was_said
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile_trace import current

MOST = 1000
"""The number of Events that wait at most. The log has those that find no room."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What happened to whom: the metadata is enough, the rest of the resource may be large."""

    about: Manifest
    reason: str
    message: str
    warning: bool
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Events:
    """`tell` from a reconcile; `write` runs until it is cancelled."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(MOST)

    def tell(self, about: Manifest, reason: str, message: str, *, warning: bool) -> None:
        """Log it, add it to the reconcile's trace, and have `write` write it."""
        event = Event({"metadata": about["metadata"]}, reason, message, warning)
        log.log(logging.WARNING if warning else logging.INFO, message, extra=_about(event))
        current.get().event(reason, message)
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait(event)

    async def write(self) -> None:
        """Write Events in their order, one after the other."""
        while True:
            event = await self._waiting.get()
            reason, message, warning = event.reason, event.message, event.warning
            try:
                await self._cluster.record(event.about, reason=reason, message=message, warning=warning, at=event.at)
            except Exception as error:  # noqa: BLE001 - the namespace may be going away, the right to write them missing
                log.warning("event not written", extra={**_about(event), "error": what_was_said(error)})


def _about(event: Event) -> dict[str, str]:
    metadata = event.about["metadata"]
    return {"namespace": metadata["namespace"], "consumer": metadata["name"], "reason": event.reason}
