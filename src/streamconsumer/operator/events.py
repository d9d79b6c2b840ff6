"""Events on StreamConsumers, for kubectl describe. A courtesy: none fails a reconcile, and none is waited for.

They are written one after the other.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from streamconsumer.errors import ServerBusy
from streamconsumer.operator.api import what_was_said
from streamconsumer.operator.cluster import Cluster
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.traced import current

MOST = 1000
"""So many wait; what comes on top is in the log only."""

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
        self._waiting: deque[Event] = deque()
        self._something = asyncio.Event()

    def tell(self, about: Manifest, reason: str, message: str, *, warning: bool) -> None:
        """Log it, have it in the reconcile's trace, and write it when there is time: warnings first."""
        event = _said(about, reason, message, warning=warning)
        if warning:
            self._waiting.appendleft(event)
        else:
            self._waiting.append(event)
        if len(self._waiting) > MOST:
            self._waiting.pop()
        self._something.set()

    async def tell_now(self, about: Manifest, reason: str, message: str, *, warning: bool) -> None:
        """The same of one that is about to go, before it does."""
        await self._write(_said(about, reason, message, warning=warning))

    async def flush(self) -> None:
        """Write what waits."""
        while self._waiting:
            await self._write(self._waiting.popleft())

    async def write(self) -> None:
        """Write what is told, for ever."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                if pause := await self._write(event := self._waiting.popleft()):
                    self._waiting.appendleft(event)
                    await asyncio.sleep(pause.total_seconds())

    async def _write(self, event: Event) -> timedelta | None:
        """Returns after how long it may be tried again, where the API server says so."""
        reason, message, warning = event.reason, event.message, event.warning
        try:
            await self._cluster.record(event.about, reason=reason, message=message, warning=warning, at=event.at)
        except ServerBusy as busy:
            return busy.after
        except Exception as error:  # noqa: BLE001 - the namespace may be going away, the right to write them missing
            log.warning("event not written", extra={**_about(event), "error": what_was_said(error)})
        return None


def _said(about: Manifest, reason: str, message: str, *, warning: bool) -> Event:
    event = Event({"metadata": about["metadata"]}, reason, message, warning)
    log.log(logging.WARNING if warning else logging.INFO, message, extra=_about(event))
    current.get().event(reason, message)
    return event


def _about(event: Event) -> dict[str, str]:
    metadata = event.about["metadata"]
    return {"namespace": metadata["namespace"], "consumer": metadata["name"], "reason": event.reason}
