"""Who of several operators works: the one that holds a Lease, as Kubernetes' own controllers agree on it.

The election that `kubernetes.aio` ships is not used: it does not give the Lease up at the end, so that every upgrade
would wait for it to expire; its requests have no time-out, so that a server that hangs leaves two leaders; and a lost
connection ends it. What counts here is this process' own clock: when a Lease was last *seen* to change, and when the
last renewal that succeeded was *sent*. Clocks of different nodes are never compared.
"""

import asyncio
import logging
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from streamconsumer.operator.kube.api import FASTER, MISSING, what_was_said
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.manifests import Manifest

LASTS = 12.0
"""Seconds after which a Lease that nobody renews is free."""

RENEWED_WITHIN = 8.0
"""Seconds without a renewal after which its holder stops: well before anybody else begins."""

RENEWED_EVERY = 2.0
LOOKED_AT_EVERY = 1.0
"""Seconds. A follower only reads, and has a Lease that was given up within a second."""

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

log = logging.getLogger(__name__)


class Lease:
    """One operator's hand on the Lease `namespace/name`."""

    def __init__(self, cluster: Cluster, place: str) -> None:
        self.identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"  # a pod's host name is its own name
        self._cluster = cluster
        self._namespace, _, self._name = place.partition("/")
        self._mine: Manifest | None = None
        self._seen: tuple[str, float] = ("", 0.0)
        self._holder = ""
        self._renewed = 0.0

    async def acquire(self) -> None:
        """Return once the Lease is ours. Whatever goes wrong is tried again."""
        told = ""
        while not await self._tried(self._take):
            if self._holder not in (told, self.identity):
                told = self._holder
                log.info("another operator leads", extra={"leader": told})
            await asyncio.sleep(LOOKED_AT_EVERY)
        log.info("this operator leads", extra={"leader": self.identity})

    async def hold(self) -> None:
        """Renew the Lease. Returns when it is lost, or might be."""
        while (left := self._renewed + RENEWED_WITHIN - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    renewed = await self._tried(self._renew)
                    if self._mine is None:
                        return
                    await asyncio.sleep(RENEWED_EVERY if renewed else LOOKED_AT_EVERY)

    async def release(self) -> None:
        """Give up what is held, so that nobody waits for it to expire."""
        if self._mine is None:
            return
        with suppress(Exception):  # it expires by itself
            async with asyncio.timeout(RENEWED_EVERY):
                self._mine = await self._cluster.get(API_VERSION, KIND, self._namespace, self._name)
                if self._mine and self._mine["spec"].get("holderIdentity") == self.identity:
                    await self._write(holderIdentity="")
        self._mine = None

    async def _tried(self, act: Any) -> bool:
        """Whether it was done. A server that hangs counts as one that does not answer."""
        try:
            async with asyncio.timeout(RENEWED_WITHIN / 2):
                return bool(await act())
        except Exception as error:  # noqa: BLE001 - the Lease's deadline judges, not the kind of error
            log.warning("no word on the lease", extra={"error": what_was_said(error)})
            return False

    async def _take(self) -> bool:
        found = await self._cluster.get(API_VERSION, KIND, self._namespace, self._name)
        if found is None:
            found = {"apiVersion": API_VERSION, "kind": KIND}
            found["metadata"] = {"namespace": self._namespace, "name": self._name}
        self._look_at(found)
        if self._holder not in ("", self.identity) and time.monotonic() < self._seen[1] + LASTS:
            return False
        self._mine = found
        now, turns = _now(), found.get("spec", {}).get("leaseTransitions", 0)
        return await self._renew(acquireTime=now, leaseTransitions=turns + 1)

    def _look_at(self, found: Manifest) -> None:
        """Its version changes with each renewal; that it has changed is all that is known of when."""
        self._holder = found.get("spec", {}).get("holderIdentity") or ""
        version = found["metadata"].get("resourceVersion", "")
        if version != self._seen[0]:
            self._seen = version, time.monotonic()

    async def _renew(self, **spec: Any) -> bool:
        """Write it as it was last seen. A conflict is another's hand on it, or our own write whose answer was lost."""
        sent = time.monotonic()
        try:
            await self._write(holderIdentity=self.identity, leaseDurationSeconds=int(LASTS), renewTime=_now(), **spec)
        except (FASTER, MISSING):
            found = await self._cluster.get(API_VERSION, KIND, self._namespace, self._name)
            ours = found is not None and found.get("spec", {}).get("holderIdentity") == self.identity
            self._mine = found if ours else None
            return False
        self._renewed = sent
        return True

    async def _write(self, **spec: Any) -> None:
        assert self._mine
        wanted = {**self._mine, "spec": {**self._mine.get("spec", {}), **spec}}
        self._mine = await self._cluster.replace(wanted)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
