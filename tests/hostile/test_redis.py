"""Redis servers that misbehave: only their own StreamConsumers notice."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.redis_servers import RedisServer
from tests.hostile.administrator import Ran, run_command, run_report
from tests.hostile.behaviours import (
    BEHAVIOURS,
    CLUSTER_BEHAVIOURS,
    SENTINEL_BEHAVIOURS,
    TLS_BEHAVIOURS,
)
from tests.hostile.delays import Delays, HealthyTenant
from tests.hostile.measured_operator import MAX_MEBIBYTES, Record, is_unhandled, measured_operator
from tests.hostile.redis_server import HOST, Behaviour, HostileServers
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SCRAPES = 5
SIMILAR = ("_to_everything", "_commands", "_command")
"""Suffixes of similar behaviours. `make chaos` tries all of them."""

ALL: Mapping[str, Behaviour] = {**BEHAVIOURS, **SENTINEL_BEHAVIOURS, **CLUSTER_BEHAVIOURS, **TLS_BEHAVIOURS}


@dataclass(frozen=True)
class Outcome:
    """Everything that was observed while the servers misbehaved."""

    fault_free: Delays
    hostile: Delays
    unserved: Sequence[str]
    """Resources of hostile servers without a condition RedisReachable."""
    peak_mebibytes: float
    exit_code: int | None
    scrapes: Sequence[int]
    """HTTP statuses of /metrics and /livez."""
    log_problems: Sequence[str]
    long_callbacks: Sequence[Record]
    blocking_calls: Sequence[Record]
    commands: Sequence[Ran]


@pytest.fixture(scope="module", params=["sample", pytest.param("all", marks=pytest.mark.chaos)])
def outcome(
    request: pytest.FixtureRequest, api: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("hostile")
    names = [name for name in ALL if request.param == "all" or not name.endswith(SIMILAR)]
    with (
        RedisServer() as redis,
        fresh_namespace(api) as healthy,
        fresh_namespace(api) as hostile,
        HostileServers({name: ALL[name] for name in names}) as servers,
    ):
        yield observe(redis, Namespace(api, healthy), Namespace(api, hostile), servers, folder)


def observe(
    redis: RedisServer, healthy: Namespace, hostile: Namespace, servers: HostileServers, folder: Path
) -> Outcome:
    settings = {"watch_namespaces": f"{healthy.name},{hostile.name}", "stream_interval": "1s"}
    with measured_operator(healthy.cluster.kubeconfig, folder, **settings) as operator:
        tenant = HealthyTenant(healthy, redis, operator.metrics)
        tenant.create()
        fault_free = tenant.measure()
        since = time.monotonic()
        for name in servers.ports:
            hostile.create(manifest_of(name, servers))
        eventually(lambda: check_every_server_is_polled(servers), 60)
        during = tenant.measure()
        scrapes = [operator.get(path)[0] for path in ("metrics", "livez") for _ in range(SCRAPES)]
        with suppress(AssertionError):  # a test reports the rest
            eventually(lambda: check_every_resource_is_served(hostile), 60)
        resources = hostile.list_all("StreamConsumer")
        commands = [
            run_command(hostile, folder, "status", "-A"),
            run_command(hostile, folder, "status", "-A", "-o", "json"),
            *(run_report(hostile, folder, resource_name(name), "-n", hostile.name, "--logs") for name in DIAGNOSED),
            *(run_command(hostile, folder, "doctor", resource_name(name), "-n", hostile.name) for name in DIAGNOSED),
        ]
        tenant.close()
        return Outcome(
            fault_free,
            during,
            [each["metadata"]["name"] for each in resources if not is_served(each)],
            operator.peak_mebibytes(),
            operator.exit_code,
            scrapes,
            [str(line)[:1500] for line in operator.unexpected_lines() if is_unhandled(line)],
            operator.long_callbacks(since),
            operator.blocking_calls(since),
            commands,
        )


def check_every_resource_is_served(namespace: Namespace) -> None:
    assert [each["metadata"]["name"] for each in namespace.list_all("StreamConsumer") if not is_served(each)] == []


DIAGNOSED = ("endless_bulk", "huge_owners", "markup_in_error", "silence_at_connect", "counts_of_400_digits")
"""Behaviours whose StreamConsumers the commands for a single one describe."""


def resource_name(behaviour: str) -> str:
    return behaviour.replace("_", "-")


def manifest_of(behaviour: str, servers: HostileServers) -> Manifest:
    """Return the StreamConsumer of a server."""
    address = f"{HOST}:{servers.ports[behaviour]}"
    kinds: Sequence[tuple[Mapping[str, Behaviour], Manifest]] = [
        (BEHAVIOURS, {"url": f"redis://{address}/1"}),
        (SENTINEL_BEHAVIOURS, {"url": "redis:///0", "sentinel": {"masterName": "primary", "nodes": [address]}}),
        (CLUSTER_BEHAVIOURS, {"url": f"redis://{address}/0", "cluster": True}),
        (TLS_BEHAVIOURS, {"url": f"rediss://{address}/0"}),
    ]
    redis = next(redis for behaviours, redis in kinds if behaviour in behaviours)
    return manifest(resource_name(behaviour), redis=redis)


def check_every_server_is_polled(servers: HostileServers) -> None:
    assert [name for name in servers.ports if not servers.connections[name]] == []


def is_served(resource: Manifest) -> bool:
    conditions = resource.get("status", {}).get("conditions", [])
    return any(each["type"] == "RedisReachable" and each.get("reason") for each in conditions)


def test_delays_of_other_tenants_at_most_double(outcome: Outcome) -> None:
    print(outcome.fault_free, outcome.hostile)
    assert outcome.hostile.problems(outcome.fault_free) == []


def test_the_operator_stays_below_its_memory_limit(outcome: Outcome) -> None:
    print(f"{outcome.peak_mebibytes:.0f} MiB")
    assert outcome.peak_mebibytes < MAX_MEBIBYTES


def test_every_resource_of_a_hostile_server_gets_a_condition(outcome: Outcome) -> None:
    assert outcome.unserved == []


def test_metrics_and_probes_answer(outcome: Outcome) -> None:
    assert (outcome.exit_code, set(outcome.scrapes)) == (None, {200})


def test_the_log_of_the_operator_contains_no_unhandled_error(outcome: Outcome) -> None:
    assert outcome.log_problems == []


def test_no_callback_of_the_event_loop_needs_more_than_100_ms(outcome: Outcome) -> None:
    assert outcome.long_callbacks == []


def test_the_event_loop_makes_no_blocking_call(outcome: Outcome) -> None:
    assert outcome.blocking_calls == []


def test_commands_of_an_administrator_work(outcome: Outcome) -> None:
    for ran in outcome.commands:
        print(f"{ran.command}: {ran.seconds:.1f} s, {ran.peak_mebibytes:.0f} MiB, exit code {ran.code}")
    assert [problem for ran in outcome.commands for problem in ran.problems([])] == []
