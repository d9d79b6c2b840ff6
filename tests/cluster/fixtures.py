"""The bench's door for tests: `pytest_plugins = ["tests.cluster.fixtures"]` in the root conftest.

A missing tool skips the test loudly on a person's machine and fails it where CI is set, because a
skip that nobody reads is a test that nobody has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import find
from tests.cluster.collector import Collector
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import MissingTool
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster, named_cluster
from tests.cluster.redis_servers import FLAVOURS, REDIS, Flavour, Options, RedisServer, StartRedis

SKIP_PREFIX = "MISSING TOOL: "


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with skip_on_missing_tool():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with skip_on_missing_tool():
        return (yield)


@contextlib.contextmanager
def skip_on_missing_tool() -> Iterator[None]:
    try:
        yield
    except MissingTool as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{SKIP_PREFIX}{missing} (CI is set, so this is a failure)", pytrace=False)
        pytest.skip(f"{SKIP_PREFIX}{missing}")


@contextlib.contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Let the progress of first builds reach the terminal."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end of the run, once a tool, what was not tested for lack of it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    missing = [reason.partition(SKIP_PREFIX)[2] for reason in reasons if SKIP_PREFIX in reason]
    if missing:
        terminalreporter.section("tests not run for want of a tool", sep="!", red=True)
    for reason in dict.fromkeys(missing):
        terminalreporter.write_line(f"{missing.count(reason)} not run: {reason}", red=True)


NODE = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "coredns", "network-policies")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
ON_ANY_CLUSTER = ("kubectl", "helm", "helm3", "otelcol")
BINARIES_OF = {
    "api_server": ("etcd", "kube-apiserver", "kubectl"),
    "control_plane": CONTROL_PLANE,
    "node": (*CONTROL_PLANE, *NODE, "pause", *ON_ANY_CLUSTER),
    "collector_process": ("otelcol",),
}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need before the first one runs, and its time-out with it."""
    if session.config.option.collectonly:
        return
    fixtures = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    with contextlib.suppress(MissingTool), uncaptured(session.config):
        for name in sorted({name for fixture in fixtures for name in binaries_of(fixture)}):
            find(name)


def binaries_of(fixture: str) -> Sequence[str]:
    if fixture == "node" and OwnCluster.from_environment():
        return ON_ANY_CLUSTER
    return BINARIES_OF.get(fixture, ())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give all tests on the node to one worker under `--dist loadgroup`: one node is enough."""
    for item in items:
        if "node" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("node"))


@pytest.fixture(scope="session")
def api_server(pytestconfig: pytest.Config) -> Iterator[ApiServer]:
    """etcd and kube-apiserver, shared by all tests of this process."""
    with uncaptured(pytestconfig):
        server = ApiServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """An API server with controllers and scheduler, shared by all tests of this process."""
    with uncaptured(pytestconfig):
        cluster = ControlPlane().start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def node(pytestconfig: pytest.Config) -> Iterator[Node | OwnCluster]:
    """A cluster that runs pods: the bench's own node or, where KUBECONFIG is set, that cluster."""
    named = named_cluster()
    if named:
        yield named
        return
    with uncaptured(pytestconfig):
        started = Node().start()
    yield started
    started.stop()


@pytest.fixture
def node_namespace(node: Node | OwnCluster) -> Iterator[str]:
    """The name of a fresh namespace on `node`."""
    with fresh_namespace(node) as name:
        yield name


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """The name of a fresh namespace on `api_server`."""
    with fresh_namespace(api_server) as name:
        yield name


@pytest.fixture
def control_plane_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a fresh namespace on `control_plane`."""
    with fresh_namespace(control_plane) as name:
        yield name


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """Start servers with options of the test's choice: `start_redis({"requirepass": "x"})`."""
    servers: list[RedisServer] = []

    def start(options: Options | None = None, flavour: Flavour = REDIS) -> RedisServer:
        server = RedisServer(options, flavour)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.remove()


@pytest.fixture
def redis_server(start_redis: StartRedis) -> RedisServer:
    """A fresh Redis 7.0."""
    return start_redis()


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.name)
def any_redis(request: pytest.FixtureRequest, start_redis: StartRedis) -> RedisServer:
    """A fresh server of each kind and age that the product works with, one after the other."""
    return start_redis(flavour=request.param)


@pytest.fixture(scope="session")
def collector_process(pytestconfig: pytest.Config) -> Iterator[Collector]:
    """The collector that all tests of this process share; tests take `collector` instead."""
    with uncaptured(pytestconfig):
        running = Collector().start()
    yield running
    running.stop()


@pytest.fixture
def collector(collector_process: Collector) -> Collector:
    """The collector, showing only what arrives from now on."""
    collector_process.clear()
    return collector_process
