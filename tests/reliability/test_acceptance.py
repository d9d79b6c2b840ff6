"""Short versions of the measurements of `tests.reliability.acceptance`, and tests of their instruments."""

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until
from tests.reliability.acceptance import control
from tests.reliability.acceptance.group import Group
from tests.reliability.acceptance.idle_cost import measure_idle_cost
from tests.reliability.acceptance.rollout import measure_rollout
from tests.reliability.acceptance.started_twice import CASES, measure_started_twice
from tests.reliability.acceptance.takeover import in_own_network, measure_kills
from tests.reliability.fork_server import ROOT, ForkServer
from tests.reliability.proxy import DelayProxy

QUICK_CASES = ("GIL held for 20 s", "write pause of 10 s", "maxclients reached, 15 s")

run_as_measurement = pytest.mark.timeout(600)


@pytest.mark.slow
@run_as_measurement
def test_entries_of_a_killed_pod_start_in_a_peer_within_the_promise(tmp_path: Path) -> None:
    """Requires the median, because four samples have no 99th percentile."""
    report, is_met = measure_kills(4, tmp_path, percent=50)
    assert is_met, report


@pytest.mark.slow
@run_as_measurement
def test_entries_of_a_lost_node_start_in_a_peer_within_the_promise() -> None:
    command = [sys.executable, "-m", "tests.reliability.acceptance", "lost-node-in-own-network", "--repetitions", "1"]
    ran = subprocess.run(in_own_network(command), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@run_as_measurement
def test_no_message_of_a_disturbed_live_pod_starts_twice(tmp_path: Path) -> None:
    cases = [case for case in CASES if case.name in QUICK_CASES]
    assert len(cases) == len(QUICK_CASES)
    report, is_met = measure_started_twice(cases, 1, tmp_path)
    assert is_met, report


@pytest.mark.slow
@run_as_measurement
def test_a_roll_out_from_the_previous_version_loses_nothing(tmp_path: Path) -> None:
    report, is_met = measure_rollout(0.5, tmp_path)
    assert is_met, report


@pytest.mark.chaos
@run_as_measurement
def test_idle_pods_send_few_commands(tmp_path: Path) -> None:
    report, is_met = measure_idle_cost(30, tmp_path)
    assert is_met, report


# -- instruments ---------------------------------------------------------------------------------------------------


async def test_the_control_timer_records_how_late_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setenv("LEDGER", str(ledger))
    timer = asyncio.create_task(control.measure_lateness("pod-a"))
    await asyncio.sleep(0)  # the timer starts to wait
    begin = time.time()
    time.sleep(0.3)  # noqa: ASYNC251 - the loop must not run
    await asyncio.sleep(0.05)
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)
    assert control.max_lateness(ledger, {"pod-a"}, begin, time.time()) > 0.2
    assert control.max_lateness(ledger, {"pod-b"}, begin, time.time()) == 0
    assert control.max_lateness(ledger, {"pod-a"}, time.time() + 1, time.time() + 2) == 0
    assert control.max_lateness(ledger, {"pod-a"}, begin - 2, begin - 1) == 0


def test_a_delay_proxy_delays_requests_and_replies(redis_server: RedisServer) -> None:
    with DelayProxy(redis_server.host, redis_server.port) as proxy, Redis.from_url(proxy.url) as client:
        client.set("key", "value")
        proxy.delay_seconds = 0.2
        began = time.monotonic()
        assert client.get("key") == b"value"
        assert time.monotonic() - began >= 0.4
        proxy.delay_seconds = 0
        client.set("key", "another value")
        assert client.get("key") == b"another value"


def test_a_delay_proxy_delivers_the_request_of_a_client_that_leaves(redis_server: RedisServer, client: Redis) -> None:
    with DelayProxy(redis_server.host, redis_server.port) as proxy:
        proxy.delay_seconds = 0.2
        with socket.create_connection(proxy.address) as leaving:
            leaving.sendall(b"SET key value\r\n")
        assert wait_until(lambda: bool(client.exists("key")), 20)


def test_a_group_cuts_the_connections_of_one_pod_only(fork_server: ForkServer, tmp_path: Path) -> None:
    with Group(fork_server, tmp_path / "group") as group:
        first, second = group.start_pod("pod-a"), group.start_pod("pod-b")
        group.wait(lambda: group.blocked_reads() == 2, "the pods do not wait for messages")
        of_first, of_second = set(group.connections_of(first)), set(group.connections_of(second))
        assert of_first
        assert of_second
        assert of_first.isdisjoint(of_second)
        group.cut([*of_first])
        listed = {each["addr"] for each in group.client.client_list()}
        assert of_first.isdisjoint(listed)
        assert of_second <= listed


def test_a_message_that_holds_the_gil_stops_every_thread_of_its_process(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    with Group(fork_server, tmp_path / "group", HANDLER_PYTHON="tests.reliability.acceptance.control:handle") as group:
        pod = group.start_pod("pod-a")
        group.add(1, lambda _: {"gil": "2"})
        group.wait(lambda: group.ledger.lines("started"), "the message does not start")
        started = time.time()
        group.trigger()
        group.wait(lambda: group.ledger.lines("done"), "the message does not end")
        file = group.ledger.handled_file
        group.wait(lambda: control.control_file(file).read_text(), "the control timer was not late")
        assert control.max_lateness(file, {"pod-a"}, started, time.time()) > 1.5
        assert pod.is_running
