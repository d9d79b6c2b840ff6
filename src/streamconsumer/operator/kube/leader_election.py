"""Leader election between operators by a Lease, as Kubernetes' own controllers do it.

The election in `kubernetes.aio` is not used, for three reasons. At exit it does not release the Lease, and every
upgrade would wait for the expiry. Its requests have no timeout: an API server that hangs would leave two leaders. A
lost connection ends the election.

This module only uses the clock of its own process: the time at which it *saw* the Lease change, and the time at which
it *sent* the last successful renewal. Clocks of different nodes are never compared.
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
"""The time, in seconds, after which a Lease without a renewal is free."""

RENEW_DEADLINE = 8.0
"""The time, in seconds, without a renewal after which the leader stops: well before another operator starts."""

RETRY_PERIOD = 2.0
"""The interval, in seconds, at which the leader renews the Lease."""

POLL_PERIOD = 1.0
"""The interval, in seconds, at which a follower reads the Lease. A follower takes a released Lease within a second."""

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

log = logging.getLogger(__name__)


class LeaderLease:
    """The Lease `namespace/name`, as one operator acquires, renews and releases it."""

    def __init__(self, kube: KubeClient, namespaced_name: str) -> None:
        self.identity = (
            f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"  # the host name of a pod is the name of the pod
        )
        self._kube = kube
        self._namespace, _, self._name = namespaced_name.partition("/")
        self._own_lease: Manifest | None = None
        self._last_version, self._last_change_seconds = "", 0.0
        self._holder = ""
        self._renewed_seconds = 0.0

    async def acquire(self) -> None:
        """Return when this operator holds the Lease. Errors are logged and retried."""
        logged_holder = ""
        while not await self._attempt(self._try_acquire):
            if self._holder not in (logged_holder, self.identity):
                logged_holder = self._holder
                log.info("waiting: another replica is the leader", extra={"leader": self._holder})
            await asyncio.sleep(POLL_PERIOD)
        log.info("became the leader", extra={"leader": self.identity})

    async def renew_until_lost(self) -> None:
        """Renew the Lease. Returns when the Lease is lost or may be lost."""
        while (left := self._renewed_seconds + RENEW_DEADLINE - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    renewed = await self._attempt(self._renew)
                    if self._own_lease is None:
                        return
                    await asyncio.sleep(RETRY_PERIOD if renewed else POLL_PERIOD)

    async def release(self) -> None:
        """Release a held Lease, so that the next leader does not wait for its expiry."""
        if self._own_lease is None:
            return
        with suppress(Exception):  # an unreleased Lease expires
            async with asyncio.timeout(RETRY_PERIOD):
                self._own_lease = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
                if self._own_lease and self._own_lease["spec"].get("holderIdentity") == self.identity:
                    await self._write(holderIdentity="")
        self._own_lease = None

    async def _attempt(self, action: Any) -> bool:
        """Run the action with a timeout. Returns False if the action returned False, failed or timed out."""
        try:
            async with asyncio.timeout(RENEW_DEADLINE / 2):
                return bool(await action())
        except Exception as error:  # noqa: BLE001 - the deadline of the Lease decides, not the kind of error
            log.warning("failed to read or renew the leader lease; retrying", extra={"error": api_error_message(error)})
            return False

    async def _try_acquire(self) -> bool:
        lease = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
        if lease is None:
            lease = {"apiVersion": API_VERSION, "kind": KIND}
            lease["metadata"] = {"namespace": self._namespace, "name": self._name}
        self._observe(lease)
        if self._holder not in ("", self.identity) and time.monotonic() < self._last_change_seconds + LEASE_DURATION:
            return False
        self._own_lease = lease
        transitions = lease.get("spec", {}).get("leaseTransitions", 0)
        return await self._renew(acquireTime=_now(), leaseTransitions=transitions + 1)

    def _observe(self, lease: Manifest) -> None:
        """Record the holder, and the time at which this process first saw the version. Each renewal changes the
        version."""
        self._holder = lease.get("spec", {}).get("holderIdentity") or ""
        version = lease["metadata"].get("resourceVersion", "")
        if version != self._last_version:
            self._last_version, self._last_change_seconds = version, time.monotonic()

    async def _renew(self, **spec: Any) -> bool:
        """Renew the last seen version of the Lease.

        Returns False after a conflict: another operator wrote the Lease, or the response to the previous write of this
        operator was lost. Reading the Lease shows which of the two happened."""
        sent_seconds = time.monotonic()
        try:
            await self._write(
                holderIdentity=self.identity, leaseDurationSeconds=int(LEASE_DURATION), renewTime=_now(), **spec
            )
        except (Conflict, NotFound):
            lease = await self._kube.get(API_VERSION, KIND, self._namespace, self._name)
            is_holder = lease is not None and lease.get("spec", {}).get("holderIdentity") == self.identity
            self._own_lease = lease if is_holder else None
            return False
        self._renewed_seconds = sent_seconds
        return True

    async def _write(self, **spec: Any) -> None:
        assert self._own_lease
        lease = {**self._own_lease, "spec": {**self._own_lease.get("spec", {}), **spec}}
        self._own_lease = await self._kube.replace(lease)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
