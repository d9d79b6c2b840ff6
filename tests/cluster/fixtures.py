"""Fixtures of the real servers, and the marker of the tests that need more than git, make and Python.

`make test` runs the tests without a marker. A test that takes a fixture of `PROGRAMS` gets the marker `cluster`
automatically and runs in `make test-cluster`; a test that starts such a server itself carries the marker in its file.
Programs are built before the first test starts, because a build would not fit into the time limit of a test.

A missing tool skips a test on a developer's machine, with a summary in red. If the environment variable CI is set, the
test fails instead, because a skipped test in CI would go unnoticed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import binaries
from tests.cluster.api_server import ApiServer
from tests.cluster.collector import Collector
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import BenchError, MissingTool
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster, named_cluster, programs_for
from tests.cluster.redis_servers import (
    DEFAULT,
    FLAVOURS,
    REDIS_8_2,
    VALKEY,
    Flavour,
    Options,
    RedisServer,
    StartRedis,
)

SKIP_PREFIX = "SKIP_PREFIX TOOL: "
BEYOND_MAKE_TEST = ("cluster", "e2e", "chaos")
"""Markers of tests that `make test` does not run."""

PROGRAMS = {
    "api_server": binaries.API_SERVER,
    "control_plane": binaries.CONTROL_PLANE,
    "node": (),  # see `programs_for`
    "collector_process": ("otelcol",),
    "helm": ("helm", "helm3"),
    "kubectl": ("kubectl",),
    "promtool": (),  # Debian's
}
"""The programs that each fixture starts."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "cluster: needs a Kubernetes API server, Helm, a collector or promtool (make test-cluster); "
        "a fixture that starts one of them adds this marker",
    )
    config.addinivalue_line("markers", "check: needs the linters and type checkers (make check)")
    config.addinivalue_line("markers", "slow: needs much real time or processor time (make test-cluster)")
    config.addinivalue_line("markers", "e2e: needs the whole single-node cluster (make e2e)")
    config.addinivalue_line("markers", "chaos: tries every fault instead of a sample (make chaos)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a program of `PROGRAMS`, before pytest selects by marker."""
    for item in items:
        fixtures = _fixtures(item)
        if PROGRAMS.keys() & fixtures and not _has_marker(item):
            item.add_marker("cluster")
        if "node" in fixtures:
            # With --dist loadgroup, one worker runs all tests on the node: one node is enough.
            item.add_marker(pytest.mark.xdist_group("node"))


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _has_marker(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in BEYOND_MAKE_TEST)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the selected tests need before the first one runs. End the session if that fails."""
    # Workers of pytest-xdist do not build: their output is not shown. `make test-cluster` builds before pytest starts.
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    names = [name for item in session.items for name in _programs(item)]
    with uncaptured(session.config):
        try:
            binaries.build_missing(names)
        except MissingTool:
            return  # without Go, each test that needs the program is skipped
        except BenchError as failure:
            pytest.exit(str(failure), returncode=pytest.ExitCode.INTERNAL_ERROR)


def _programs(item: pytest.Item) -> list[str]:
    """Return the names of the programs that a test needs: all of `make test-cluster` if only its marker says so."""
    known = PROGRAMS.keys() & _fixtures(item)
    if "node" in known or item.get_closest_marker("e2e"):
        return [*programs_for("e2e")]
    if not known and item.get_closest_marker("cluster"):
        return [*programs_for("test-cluster")]
    return [name for fixture in known for name in PROGRAMS[fixture]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with only_marked_tests_find_programs(item), skip_on_missing_tool():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with only_marked_tests_find_programs(item), skip_on_missing_tool():
        return (yield)


def only_marked_tests_find_programs(item: pytest.Item) -> contextlib.AbstractContextManager[None]:
    """Make `find` fail during a test that `make test` runs. Teardown is exempt: it may end what other tests started."""
    return contextlib.nullcontext() if _has_marker(item) else binaries.forbidden_for(item.nodeid)


@contextlib.contextmanager
def skip_on_missing_tool() -> Iterator[None]:
    """Skip the test if a tool is missing, or fail it in CI."""
    try:
        yield
    except MissingTool as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{SKIP_PREFIX}{missing} (CI is set, so this is a failure)", pytrace=False)
        pytest.skip(f"{SKIP_PREFIX}{missing}")


@contextlib.contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Let progress reach the terminal."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List each missing tool once, with the number of tests that were skipped without it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    missing = [reason.partition(SKIP_PREFIX)[2] for reason in reasons if SKIP_PREFIX in reason]
    if missing:
        terminalreporter.section("tests not run because a tool is missing", sep="!", red=True)
    for reason in dict.fromkeys(missing):
        terminalreporter.write_line(f"{missing.count(reason)} not run: {reason}", red=True)


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
    """A cluster that runs pods: a node on this machine or, if KUBECONFIG is set, that cluster."""
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


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """The path of kubectl."""
    return binaries.find("kubectl")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The path of Prometheus' tool for rules and their tests."""
    return binaries.find_installed("promtool", "prometheus")


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """Start servers with options of the test's choice: `start_redis({"requirepass": "x"})`."""
    servers: list[RedisServer] = []

    def start(options: Options | None = None, flavour: Flavour = DEFAULT) -> RedisServer:
        server = RedisServer(options, flavour)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.remove()


@pytest.fixture
def redis_server(start_redis: StartRedis) -> RedisServer:
    """A fresh server of the default kind."""
    return start_redis()


ANY_FLAVOUR = [
    pytest.param(each, id=each.name, marks=pytest.mark.slow if each is REDIS_8_2 else ()) for each in FLAVOURS
]
"""Parameters of tests that run on every server. Redis 8.2 runs in `make test-cluster`, because its package is large."""


@pytest.fixture(params=ANY_FLAVOUR)
def any_redis(request: pytest.FixtureRequest, start_redis: StartRedis) -> RedisServer:
    """A fresh server; the test runs with each kind and version that the product supports."""
    return start_redis(flavour=request.param)


ON_ONE_SERVER = pytest.mark.parametrize(
    "any_redis",
    [pytest.param(each, id=each.name, marks=() if each is VALKEY else pytest.mark.slow) for each in FLAVOURS],
    indirect=True,
)
"""Marks tests of `any_redis` that take seconds: `make test` runs them on Valkey, `make test-cluster` on the others."""


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
