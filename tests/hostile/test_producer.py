"""A producer that adds huge and misleading entries: a pod with a memory limit survives and settles each of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from streamconsumer.processor.dead_letters import record
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.hostile.memory_limit import MemoryLimit
from tests.processor.eventually import eventually
from tests.processor.group import DEAD_LETTER_STREAM, GROUP, STREAM
from tests.processor.pod import Pod

pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
MEMORY_MEBIBYTES = 256
SETTLE_SECONDS = 240.0
LAST_ID = f"{2**64 - 1}-{2**64 - 1}"

KILO, MEGA = 1000, 1_000_000
SIZES = (0, 1, KILO, 100 * KILO, MEGA, 4 * MEGA, 16 * MEGA, 50 * MEGA, 120 * MEGA, 200 * MEGA)

OWN_NAMES = [
    record.FIELD_PREFIX + name
    for name in (
        *("reason", "stream", "group", "consumer", "message-id", "origin-id", "replays", "replayed-for", "deliveries"),
        *("error-type", "error-message", "at", "traceparent", "packed", "unknown"),
    )
]
TRACE_NAMES = ("traceparent", "tracestate", "baggage")
EVENT_NAMES = ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "ce-id", "ce_type")
STRANGE_NAMES = ("", " ", "\x00", "\r\nFLUSHALL\r\n", "\x1b[2J", "\u202e", "__class__", "../../x", "n" * MEGA)
VALUES = (
    b"",
    b"1",
    b"9" * 400,
    b"\xff\xfe\x00",
    b"\r\n+OK\r\n",
    b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-01",
    b"-1",
    b"*",
)

Entry = Mapping[bytes, bytes]


def misleading_entries() -> Iterator[Entry]:
    """Yield entries whose field names have a meaning for the product, alone and all together."""
    names = [name.encode() for name in (*OWN_NAMES, *TRACE_NAMES, *EVENT_NAMES, *STRANGE_NAMES)]
    for value in VALUES:
        yield from ({name: value} for name in names)
        yield dict.fromkeys(names, value)


def large_entries() -> Iterator[Entry]:
    """Yield entries with a large value, a large name, many fields, and many large names."""
    for size in SIZES:
        yield {b"value": b"v" * size}
        yield {b"n": b"1"}
    yield {b"n" * (120 * MEGA): b"1"}
    for count in (record.MAX_FIELDS, record.MAX_FIELDS + 1, 20_000, 300_000):
        yield {b"%d" % number: b"" for number in range(count)}
    yield {b"%d" % number + b"n" * 500_000: b"v" * 500_000 for number in range(60)}
    yield {b"%b%d" % (name.encode(), number): b"v" * 100 for name in OWN_NAMES for number in range(20_000)}


class Producer:
    """The producer, and its view of the entries that it has added."""

    def __init__(self, server: RedisServer) -> None:
        self.client: Any = Redis(host=server.host, port=server.port)
        self.ids: list[str] = []

    async def add(self, entries: Iterator[Entry], message_id: str = "*") -> None:
        for entry in entries:
            self.ids.append((await self.client.xadd(STREAM, entry, id=message_id)).decode())

    async def dead_lettered(self) -> set[str]:
        """Return the ids of the dead letters, without their values, which may be large."""
        found, after = set[str](), "-"
        while page := await self.client.xrange(DEAD_LETTER_STREAM, after, "+", 20):
            found |= {entry[b"streamconsumer.message-id"].decode() for _, entry in page}
            after = f"({page[-1][0].decode()}"
        return found

    async def unsettled(self) -> int:
        """Return the number of entries that the group has not read or not settled."""
        groups = [group for group in await self.client.xinfo_groups(STREAM) if group["name"] == GROUP.encode()]
        if not groups or groups[0]["last-delivered-id"].decode() != self.ids[-1]:
            return len(self.ids)
        return int(groups[0]["pending"])


@pytest.fixture
async def producer(start_redis: StartRedis) -> AsyncIterator[Producer]:
    made = Producer(start_redis())
    yield made
    await made.client.aclose()


@pytest.fixture
def limit() -> Iterator[MemoryLimit]:
    with MemoryLimit(MEMORY_MEBIBYTES) as limited:
        yield limited


def start_pod(folder: Path, producer: Producer, limit: MemoryLimit, name: str, **settings: str) -> Pod:
    folder.joinpath(name).mkdir()
    port = producer.client.connection_pool.connection_kwargs["port"]
    pod = Pod(folder / name, f"redis://127.0.0.1:{port}/0", "recording_handler:record", consumer_name=name, **settings)
    pod.environment["PYTHONPATH"] += f":{HERE}"
    return pod.start(environment={"HANDLED_FILE": str(folder / "handled")}, command_prefix=limit.command_prefix)


async def check_settled(producer: Producer, folder: Path, limit: MemoryLimit, pods: list[Pod]) -> None:
    """Wait until every entry is settled, and check that each was handled or is a dead letter."""

    async def is_settled() -> bool:
        assert limit.kills() == 0, f"the pod was killed at its memory limit; {await producer.unsettled()} unsettled"
        assert not [pod for pod in pods if pod.process and pod.process.poll() not in (None, -9)], "a pod has exited"
        await asyncio.sleep(0.2)
        return await producer.unsettled() == 0

    try:
        await eventually(is_settled, SETTLE_SECONDS)
        handled = set((folder / "handled").read_text().split())
        lost = set(producer.ids) - handled - await producer.dead_lettered()
        assert lost == set()
        print(f"{len(producer.ids)} entries, {len(handled)} handled, peak {limit.peak_mebibytes():.0f} MiB")
    finally:
        for pod in pods:
            pod.remove()


async def test_entries_with_the_names_of_the_product_are_settled(
    producer: Producer, limit: MemoryLimit, tmp_path: Path
) -> None:
    await producer.add(misleading_entries())
    await producer.add(iter([{b"n": b"1"}]), LAST_ID)
    await check_settled(producer, tmp_path, limit, [start_pod(tmp_path, producer, limit, "pod-a")])


@pytest.mark.chaos
@pytest.mark.parametrize("encoding", ["utf-8", "bytes"])
async def test_entries_of_up_to_200_megabytes_are_settled(
    producer: Producer, limit: MemoryLimit, tmp_path: Path, encoding: str
) -> None:
    await producer.add(large_entries())
    await producer.add(iter([{b"n": b"1"}]), LAST_ID)
    await check_settled(producer, tmp_path, limit, [start_pod(tmp_path, producer, limit, "pod-a", encoding=encoding)])


@pytest.mark.chaos
async def test_large_entries_of_a_killed_pod_are_settled_by_another_pod(
    producer: Producer, limit: MemoryLimit, tmp_path: Path
) -> None:
    await producer.add(large_entries())
    first = start_pod(tmp_path, producer, limit, "pod-a")
    await first.wait_for_log("processor started")
    await asyncio.sleep(1)  # in the middle of the large entries
    first.remove()
    await check_settled(producer, tmp_path, limit, [start_pod(tmp_path, producer, limit, "pod-b")])


@pytest.mark.chaos
async def test_entries_beyond_the_output_buffer_limit_of_the_server_are_settled(
    producer: Producer, limit: MemoryLimit, tmp_path: Path
) -> None:
    await producer.client.config_set("client-output-buffer-limit", "normal 1048576 0 0")
    await producer.add({b"value": b"v" * 300_000} for _ in range(20))
    await producer.add(iter([{b"value": b"v" * (5 * MEGA)}, {b"n": b"1"}]))
    await check_settled(producer, tmp_path, limit, [start_pod(tmp_path, producer, limit, "pod-a")])
