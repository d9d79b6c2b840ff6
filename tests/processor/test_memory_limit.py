"""A pod under a memory limit survives entries of every size and shape, and settles each entry."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests.cluster import cgroups
from tests.processor.eventually import eventually
from tests.processor.group import DEAD_LETTER_STREAM, GROUP, STREAM, Group
from tests.processor.pod import NewPod

MEGABYTE = 1_000_000
LIMIT_BYTES = 256 * 1024 * 1024
WITHIN = 120.0

UNREADABLE, OVERSIZED, UNDECODABLE = b"Unreadable", b"Oversized", b"Undecodable"


def shapes() -> Iterator[tuple[str, dict[str, str | bytes], bytes | None]]:
    """Yield the name and the fields of each entry, and the reason of its dead letter. None if the pod handles it."""
    yield "1 byte", {"v": "x"}, None
    yield "15 MB", {"v": "x" * (15 * MEGABYTE)}, None
    yield "15 MB with an emoji", {"v": "x" * (15 * MEGABYTE) + "🦊"}, None
    yield "15 MB of binary", {"v": b"\xff" * (15 * MEGABYTE)}, UNDECODABLE
    yield "22 MB with an emoji", {"v": "x" * (22 * MEGABYTE) + "🦊"}, OVERSIZED
    yield "30 MB", {"v": "x" * (30 * MEGABYTE)}, UNREADABLE
    yield "200 MB", {"v": "x" * (200 * MEGABYTE)}, UNREADABLE
    yield "a name of 100 MB", {"n" * (100 * MEGABYTE): "v"}, UNREADABLE
    yield "300,000 fields of 20 bytes", {f"{number:010}": "v" * 10 for number in range(300_000)}, None
    yield "500,000 tiny fields", {f"{number:x}": "ww" for number in range(500_000)}, None
    yield "1,000,000 fields of 20 bytes", {f"{number:010}": "v" * 10 for number in range(MEGABYTE)}, UNREADABLE


@pytest.fixture
def limited() -> Iterator[tuple[str, ...]]:
    """Yield the prefix of a command that runs in a control group with LIMIT_BYTES of memory."""
    name = f"streamconsumer-memory-{os.getpid()}"
    try:
        processes = cgroups.limit_memory(name, LIMIT_BYTES)
    except OSError as error:
        pytest.skip(f"cannot create a control group with a memory limit: {error}")
    yield ("sh", "-c", f'echo $$ > {processes}; exec "$@"', "sh")
    cgroups.remove(name)


@pytest.mark.slow
async def test_pod_survives_entries_of_every_shape(group: Group, new_pod: NewPod, limited: tuple[str, ...]) -> None:
    client = Redis.from_url(group.url, socket_timeout=WITHIN)
    pod = new_pod("pod_handlers:noop", concurrency="4").start(command_prefix=limited)
    try:
        await pod.wait_for_log("processor started")
        for name, fields, expected in shapes():
            pipeline = client.pipeline(transaction=True)
            for each in ({"n": "1"}, fields, {"n": "2"}):
                pipeline.xadd(STREAM, each)  # type: ignore[arg-type] # its stub allows no mixed types
            await pipeline.execute()

            async def is_settled() -> bool:
                with suppress(ResponseError):  # BUSY: on a slow machine, the script needs seconds for a million fields
                    [info] = await client.xinfo_groups(STREAM)
                    return pod.process is None or pod.process.poll() is not None or not (info["pending"] or info["lag"])
                return False

            await eventually(is_settled, WITHIN)
            assert pod.process is not None
            assert pod.process.poll() is None, name
            dead_letters: Any = await client.xrange(DEAD_LETTER_STREAM)
            reasons = [each[b"streamconsumer.reason"] for _, each in dead_letters]
            assert reasons == ([expected] if expected else []), name
            await client.delete(DEAD_LETTER_STREAM)
            await client.xtrim(STREAM, maxlen=0, approximate=False)
        assert await group.consumers() == {"pod-a"}, f"the group {GROUP} was not created again"
    finally:
        pod.remove()
        await client.aclose()
