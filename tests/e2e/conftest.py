"""Fixtures of the end-to-end tests: one node and one shop for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.fixtures import uncaptured
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster
from tests.e2e.shop import NAMESPACE, SYSTEM, Shop, build_images

MANIFESTS = "tests/e2e/manifests"
ORDER = [
    "test_images",
    "test_orders",
    "test_scaling",
    "test_upgrades",
    "test_cli",
    "test_user_ids",
    "test_network_policies",
]
"""Order of the modules: `test_orders` is the first that installs the chart."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the end-to-end tests last, in `ORDER`."""
    folder = Path(__file__).parent
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.parent == folder else -1)


@pytest.fixture(scope="session")
def shop(node: Node | OwnCluster, pytestconfig: pytest.Config) -> Iterator[Shop]:
    """Load every image into the node, and run Redis and a collector in a namespace."""
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
