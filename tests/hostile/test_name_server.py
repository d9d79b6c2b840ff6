"""A name server that is silent for one tenant: the operator serves the others as before."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.errors import MissingTool
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.redis_servers import RedisServer
from tests.hostile.administrator import Ran, run_command
from tests.hostile.delays import Delays, HealthyTenant
from tests.hostile.measured_operator import MeasuredOperator, Record
from tests.hostile.name_server import NameServer
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOSTS = 24
"""Hosts of the hostile tenant. uvloop resolves names in four threads, and asyncio in a few more."""

SILENT_DOMAIN = "silent.example"


@dataclass(frozen=True)
class Outcome:
    fault_free: Delays
    silent: Delays
    long_callbacks: list[Record]
    blocking_calls: list[Record]
    status: Ran


@pytest.fixture(scope="module")
def outcome(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    if os.geteuid() != 0:
        raise MissingTool("root is needed for a name server at port 53 and for a resolv.conf of the operator's own")
    folder = tmp_path_factory.mktemp("names")
    with RedisServer() as redis, fresh_namespace(api) as healthy, fresh_namespace(api) as hostile:

        def lookup(name: str) -> str | None:
            if SILENT_DOMAIN in name or name.endswith(f"{hostile}.svc.cluster.local"):
                return None
            return redis.host if name == f"redis.{healthy}.svc.cluster.local" else ""

        with NameServer(lookup) as name_server:
            name_server.write_configuration(
                folder / "resolv.conf", "streamconsumer-system.svc.cluster.local", "svc.cluster.local", "cluster.local"
            )
            yield observe(Namespace(api, healthy), Namespace(api, hostile), redis, name_server, folder)


def with_resolv_conf(folder: Path) -> tuple[str, ...]:
    """Return a command that runs another command with the resolv.conf in the folder, in a mount namespace."""
    mount = f'mount --bind {folder / "resolv.conf"} /etc/resolv.conf && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "sh")


class OperatorWithResolvConf(MeasuredOperator):
    """An operator whose /etc/resolv.conf is the file in the folder."""

    def __init__(self, kubeconfig: Path, folder: Path, **settings: object) -> None:
        super().__init__(kubeconfig, folder, **settings)
        self.command = (*with_resolv_conf(folder), *MeasuredOperator.command)


def observe(
    healthy: Namespace, hostile: Namespace, redis: RedisServer, name_server: NameServer, folder: Path
) -> Outcome:
    settings = {"watch_namespaces": f"{healthy.name},{hostile.name}", "stream_interval": "1s"}
    operator = OperatorWithResolvConf(healthy.cluster.kubeconfig, folder, **settings)
    tenant = HealthyTenant(healthy, redis, operator.metrics, host="redis")
    try:
        operator.start().wait_until_started(60)
        tenant.create()
        fault_free, since = tenant.measure(), time.monotonic()
        for number in range(HOSTS):
            host = f"host-{number}.{SILENT_DOMAIN}" if number % 2 else f"host-{number}"
            hostile.create(manifest(f"silent-{number}", redis={"url": f"redis://{host}:6379/0"}))
        eventually(lambda: check_asked(name_server), 60)
        silent = tenant.measure()
        callbacks, calls = operator.long_callbacks(since), operator.blocking_calls(since)
    finally:
        operator.kill()
        tenant.close()
    status = run_command(hostile, folder, "status", "-n", hostile.name, prefix=with_resolv_conf(folder))
    return Outcome(fault_free, silent, callbacks, calls, status)


def check_asked(name_server: NameServer) -> None:
    """Check that the operator waits for names of the hostile tenant."""
    assert len({each for each in name_server.questions if each.startswith("host-")}) >= 4


def test_delays_of_other_tenants_at_most_double(outcome: Outcome) -> None:
    print(outcome.fault_free, outcome.silent)
    assert outcome.silent.problems(outcome.fault_free) == []


def test_no_callback_of_the_event_loop_needs_more_than_100_ms(outcome: Outcome) -> None:
    assert outcome.long_callbacks == []


def test_the_event_loop_makes_no_blocking_call(outcome: Outcome) -> None:
    assert outcome.blocking_calls == []


def test_status_of_the_hostile_tenant_works(outcome: Outcome) -> None:
    assert outcome.status.problems([]) == []
