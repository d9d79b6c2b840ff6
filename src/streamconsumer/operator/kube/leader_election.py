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

from streamconsumer.operator.kube.api import Conflict, NotFound, api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import Manifest

LEASE_DURATION = 12.0
"""Seconds after which a Lease that nobody renews is free."""

RENEW_DEADLINE = 8.0
"""Seconds without a renewal after which its holder stops: well before anybody else begins."""

RETRY_PERIOD = 2.0
POLL_PERIOD = 1.0
"""Seconds. A follower only reads, and has a Lease that was given up within a second."""

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

log = logging.getLogger(__name__)


class LeaderLease:
    """One operator's hand on the Lease `namespace/name`."""

    def __init__(self, kube: KubeClient, namespaced_name: str) -> None:
        self.identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"  # a pod's host name is its own name
        self._kube = kube
        self._namespace, _, self._name = namespaced_name.partition("/")
        self._own_lease: Manifest | None = None
        self._last_change: tuple[str, float] = ("", 0.0)
        self._holder = ""
        self._renewed_seconds = 0.0

    async def acquire(self) -> None:
        """Return once the Lease is ours. Whatever goes wrong is tried again."""
        told = ""
        while not await self._attempt(self._try_acquire):
            if self._holder not in (told, self.identity):
                told = self._holder
                log.info("another operator leads", extra={"leader": told})
            await asyncio.sleep(POLL_PERIOD)
        log.info("this operator leads", extra={"leader": self.identity})

    async def renew_until_lost(self) -> None:
        """Renew the Lease. Returns when it is lost, or might be."""
        while (left := self._renewed_seconds + RENEW_DEADLINE - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    renewed = await self._attempt(self._renew)
                    if self._own_lease is None:
                        return
                    await asyncio.sleep(RETRY_PERIOD if renewed else POLL_PERIOD)

    async def release(self) -> None:
        """Give up what is held, so that nobody waits for it to expire."""
        if self._own_lease is None:
            return
        with suppress(Exception):  # it expires by itself
            async with asyncio.timeout(RETRY_PERIOD):
                self._own_lease = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
                if self._own_lease and self._own_lease["spec"].get("holderIdentity") == self.identity:
                    await self._write(holderIdentity="")
        self._own_lease = None

    async def _attempt(self, action: Any) -> bool:
        """Whether it was done. A server that hangs counts as one that does not answer."""
        try:
            async with asyncio.timeout(RENEW_DEADLINE / 2):
                return bool(await action())
        except Exception as error:  # noqa: BLE001 - the Lease's deadline judges, not the kind of error
            log.warning("no word on the lease", extra={"error": api_error_message(error)})
            return False

    async def _try_acquire(self) -> bool:
        found = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
        if found is None:
            found = {"apiVersion": API_VERSION, "kind": KIND}
            found["metadata"] = {"namespace": self._namespace, "name": self._name}
        self._observe(found)
        if self._holder not in ("", self.identity) and time.monotonic() < self._last_change[1] + LEASE_DURATION:
            return False
        self._own_lease = found
        now, turns = _now(), found.get("spec", {}).get("leaseTransitions", 0)
        return await self._renew(acquireTime=now, leaseTransitions=turns + 1)

    def _observe(self, lease: Manifest) -> None:
        """Its version changes with each renewal; that it has changed is all that is known of when."""
        self._holder = lease.get("spec", {}).get("holderIdentity") or ""
        version = lease["metadata"].get("resourceVersion", "")
        if version != self._last_change[0]:
            self._last_change = version, time.monotonic()

    async def _renew(self, **spec: Any) -> bool:
        """Write it as it was last seen. A conflict is another's hand on it, or our own write whose answer was lost."""
        sent = time.monotonic()
        try:
            await self._write(
                holderIdentity=self.identity, leaseDurationSeconds=int(LEASE_DURATION), renewTime=_now(), **spec
            )
        except (Conflict, NotFound):
            found = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
            ours = found is not None and found.get("spec", {}).get("holderIdentity") == self.identity
            self._own_lease = found if ours else None
            return False
        self._renewed_seconds = sent
        return True

    async def _write(self, **spec: Any) -> None:
        assert self._own_lease
        wanted = {**self._own_lease, "spec": {**self._own_lease.get("spec", {}), **spec}}
        self._own_lease = await self._kube.replace(wanted)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
