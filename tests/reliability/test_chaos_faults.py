"""The faults of the chaos test have the effects that they promise."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import cast

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from tests.cluster.runs import wait_until
from tests.reliability.faults import TEMPORARY_SETTINGS, ServerPair, running_server_pair
from tests.reliability.foreign_commands import FOREIGN_COMMANDS
from tests.reliability.fork_server import Pod
from tests.reliability.ledger import GROUP
from tests.reliability.stream_workload import StreamWorkload
from tests.reliability.traffic import LARGE


@pytest.fixture(scope="module")
def pair() -> Iterator[ServerPair]:
    with running_server_pair() as server_pair:
        yield server_pair


@pytest.fixture
def through_proxy(pair: ServerPair) -> Iterator[Redis]:
    with Redis.from_url(pair.proxy.url, retry=None) as client:
        yield client
    pair.end_faults()


def test_slowness_delays_requests_and_replies_for_a_while(pair: ServerPair, through_proxy: Redis) -> None:
    through_proxy.ping()
    pair.slow_down(0.2, 30)
    began = time.monotonic()
    through_proxy.ping()
    assert time.monotonic() - began >= 0.4
    pair.slow_down(0.2, 0.1)
    assert wait_until(lambda: not pair.proxy.slowness_seconds, 20)


def test_a_write_pause_delays_writes_and_not_reads(pair: ServerPair, through_proxy: Redis) -> None:
    pair.pause_writes(1)
    began = time.monotonic()
    through_proxy.get("key")
    assert time.monotonic() - began < 1
    through_proxy.set("key", "value")
    assert time.monotonic() - began >= 0.9


def test_limited_replies_contain_one_large_message_and_not_two(pair: ServerPair, through_proxy: Redis) -> None:
    for _ in range(2):
        pair.client.xadd("large", {"padding": "x" * LARGE})
    pair.set_for(0.5, *TEMPORARY_SETTINGS["the server limits its replies"])
    assert len(cast("list[object]", through_proxy.xrange("large", count=1))) == 1
    with pytest.raises(RedisConnectionError):
        through_proxy.xrange("large")
    assert wait_until(lambda: "normal 0 0 0" in str(pair.client.config_get("client-output-buffer-limit")), 20)


def test_full_memory_rejects_messages_for_a_while(pair: ServerPair) -> None:
    pair.set_for(0.5, *TEMPORARY_SETTINGS["the server's memory is full"])
    with pytest.raises(OutOfMemoryError):
        pair.client.xadd("full", {"n": "1"})
    assert wait_until(lambda: pair.client.config_get("maxmemory")["maxmemory"] == "0", 20)


def test_a_pod_with_limited_memory_cannot_allocate(tmp_path: Path) -> None:
    program = "import sys; print(flush=True); sys.stdin.read(1); bytearray(1 << 28)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        pod = Pod(process.pid, "pod-a", tmp_path)
        assert process.stdout
        process.stdout.readline()
        StreamWorkload.limit_memory(pod, 60)
        _, errors = process.communicate(b"x", 60)
    assert b"MemoryError" in errors
    pod.remove()


def test_foreign_commands_keep_the_entries(pair: ServerPair) -> None:
    pair.client.xgroup_create("orders", GROUP, "0", mkstream=True)
    for _ in range(5):
        pair.client.xadd("orders", {"n": "1"})
    pair.client.xreadgroup(GROUP, "pod-a", {"orders": ">"})
    for command in FOREIGN_COMMANDS:
        command(pair.client, "orders", random.Random(1))
    assert pair.client.xlen("orders") == 5
    assert cast("dict[str, int]", pair.client.xpending("orders", GROUP))["pending"] == 5
