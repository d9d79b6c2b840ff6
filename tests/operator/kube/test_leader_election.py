"""A leader that finds its Lease held by another operator.

The API server is a fake: tests cannot pause a machine together with its clock.
"""

import time

from streamconsumer.operator.kube.api import Conflict
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.leader_election import POLL_PERIOD, LeaderLease
from streamconsumer.operator.manifests import Manifest


class LostLeaseClient(KubeClient):
    """A client whose Lease is free. After the first write, another operator holds the Lease."""

    def __init__(self) -> None:
        self.written: Manifest | None = None

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        metadata = {"namespace": "shop", "name": "operator", "resourceVersion": "7"}
        return self.written and {"metadata": metadata, "spec": {"holderIdentity": "another"}}

    async def replace(self, manifest: Manifest) -> Manifest:
        if self.written:
            raise Conflict(409)
        self.written = manifest
        return manifest


async def test_leader_stops_immediately_when_another_operator_holds_the_lease() -> None:
    """Otherwise two operators would reconcile until the end of the pause."""
    lease = LeaderLease(LostLeaseClient(), "shop/operator")
    await lease.acquire(may_lead=lambda: True)
    began = time.monotonic()
    await lease.renew_until_lost()
    assert time.monotonic() - began < POLL_PERIOD / 2
