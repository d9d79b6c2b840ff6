"""Leader election between operator processes, based on a Lease, as in Kubernetes' own controllers.

The leader election in `kubernetes.aio` is not used, for three reasons. First, `kubernetes.aio` does not release the
Lease at exit, so every upgrade would wait until the Lease expires. Second, the requests of `kubernetes.aio` have no
timeout, so there could be two leaders if the API server hangs. Third, `kubernetes.aio` ends the election if a
connection is lost.

This module uses only the clock of its own process. The module records when the process *saw* the Lease change, and when
the process *sent* its last successful renewal. The clocks of different nodes are never compared.
"""

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from streamconsumer.operator.kube.api import ApiError, Conflict, NotFound, api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import Manifest

LEASE_DURATION = 12.0
"""Another operator may take the Lease if this number of seconds has passed since the last renewal."""

RENEW_DEADLINE = 8.0
"""The leader stops if this number of seconds has passed since its last renewal. The number is well below
LEASE_DURATION, so that the leader stops before another operator starts."""

RETRY_PERIOD = 2.0
"""The interval, in seconds, at which the leader renews the Lease."""

POLL_PERIOD = 1.0
"""The interval, in seconds, at which a follower reads the Lease. A follower therefore takes a released Lease within a
second."""

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

log = logging.getLogger(__name__)


class LeaderLease:
    """The Lease `namespace/name`. The operator acquires, renews and releases the Lease with this class."""

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

    async def find_obstacle(self) -> str:
        """Return why this operator could not hold the Lease, or an empty string if it could."""
        lease = f"{self._namespace}/{self._name}"
        try:
            verb = "update" if await self._kube.get(API_VERSION, KIND, self._namespace, self._name) else "create"
            is_allowed = await self._is_allowed(verb)
        except Exception as error:  # noqa: BLE001 - the next attempt may succeed
            return f"cannot read the Lease {lease}: {api_error_message(error)}"
        return "" if is_allowed else f"the operator is not allowed to {verb} the Lease {lease}"

    async def _is_allowed(self, verb: str) -> bool:
        try:
            return await self._kube.can_i(verb, "leases.coordination.k8s.io", self._namespace, self._name)
        except ApiError as error:
            if error.status != 403:
                raise
            return True  # access reviews are forbidden, so only the election can show whether the permission exists

    async def acquire(self, may_lead: Callable[[], bool]) -> None:
        """Wait until this operator holds the Lease. While `may_lead` returns False, the operator does not try to take
        the Lease. Errors are logged, and the request is retried."""
        logged_holder = ""
        while not (may_lead() and await self._attempt(self._try_acquire)):
            if self._holder not in (logged_holder, self.identity):
                logged_holder = self._holder
                log.info("waiting: another replica is the leader", extra={"leader": self._holder})
            await asyncio.sleep(POLL_PERIOD)
        log.info("became the leader", extra={"leader": self.identity})

    async def renew_until_lost(self) -> None:
        """Renew the Lease repeatedly. Returns when another operator holds the Lease or may soon take the Lease."""
        while (left := self._renewed_seconds + RENEW_DEADLINE - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    renewed = await self._attempt(self._renew)
                    if self._own_lease is None:
                        return
                    await asyncio.sleep(RETRY_PERIOD if renewed else POLL_PERIOD)

    async def release(self) -> None:
        """Release the Lease if this operator holds the Lease, so that the next leader does not wait until the Lease
        expires."""
        if self._own_lease is None:
            return
        with suppress(Exception):  # if the release fails, the Lease expires
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
        except Exception as error:  # noqa: BLE001 - every error is retried until the deadline
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
        """Record the holder, and the time at which this process first saw the Lease's resourceVersion. Each renewal
        changes the resourceVersion, so a new resourceVersion shows that the holder is running."""
        self._holder = lease.get("spec", {}).get("holderIdentity") or ""
        version = lease["metadata"].get("resourceVersion", "")
        if version != self._last_version:
            self._last_version, self._last_change_seconds = version, time.monotonic()

    async def _renew(self, **spec: Any) -> bool:
        """Renew the Lease if the Lease has not changed since this operator last read or wrote the Lease.

        Returns False after a conflict. A conflict has two possible causes: another operator has written the Lease, or
        the response to this operator's previous write was lost. After a conflict, this method reads the Lease to find
        the cause."""
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
