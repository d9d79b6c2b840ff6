"""One node, one chart, one shop for all end-to-end tests."""

from collections.abc import Iterator

import pytest

from tests.cluster.fixtures import uncaptured
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster
from tests.e2e.shop import NAMESPACE, SYSTEM, Shop, build_images

MANIFESTS = "tests/e2e/manifests"


@pytest.fixture(scope="session")
def shop(node: Node | OwnCluster, pytestconfig: pytest.Config) -> Iterator[Shop]:
    """The node with every image, and a namespace in which Redis and a collector run."""
    with uncaptured(pytestconfig):
        for reference in build_images():
            node.load_image(reference)
    shop = Shop(node)
    node.kubectl("create", "namespace", NAMESPACE)
    shop.kubectl("apply", "-f", str(pytestconfig.rootpath / MANIFESTS))
    shop.kubectl("rollout", "status", "deploy/redis", "deploy/collector", "--timeout=90s")
    yield shop
    for namespace in (NAMESPACE, SYSTEM):
        node.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
