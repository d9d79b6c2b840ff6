"""`streamconsumer group delete` as a process with real servers."""

import json
import os
import pty
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.cli.group.deletion import DeletionResult, delete_group
from streamconsumer.cli.target import Target
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import Effects, Reject, Retry
from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, group_key
from streamconsumer.redis_client.scripts import MAX_CONSUMERS, MAX_REGISTRATIONS
from tests.cli.target_command import TargetCommand
from tests.cluster.redis_servers import VALKEY, RedisServer, StartRedis
from tests.model.examples import consumer
from tests.processor.dead_letters.dead_letter_factory import KEY, command, restrict
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder
from tests.redis_client.test_cluster import Nodes, nodes

__all__ = ["nodes"]

CONSUMERS = group_key(STREAM, GROUP, "consumers")
DOCUMENTED = [
    line
    for line in (Path(__file__).parents[3] / "docs" / "redis.md").read_text().splitlines()
    if line.startswith("ACL SETUSER janitor")
]


@pytest.fixture
async def any_group(any_redis: RedisServer) -> AsyncIterator[Group]:
    """The stream and the group on each kind of server."""
    on_server = Group(any_redis)
    await on_server.create_group()
    yield on_server
    await on_server.close()


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """The stream and the group on an empty server."""
    on_server = Group(redis_server)
    await on_server.create_group()
    yield on_server
    await on_server.close()


COMMAND = TargetCommand(("group", "delete"))
start, run = COMMAND.start, COMMAND.run


async def delete(group: Group, min_idle: str = "30s") -> DeletionResult:
    """Delete the group of a StreamConsumer."""
    target = Target(RedisSettings(url=group.url), STREAM, GROUP, KEY, consumer(delivery={"minIdle": min_idle}))
    return await delete_group(group.manager(), target)


async def keys(group: Group) -> set[str]:
    return {str(each) async for each in group.client.scan_iter()}


async def write_companions(group: Group, stream: str = STREAM, name: str = GROUP) -> set[str]:
    """Write each companion key as dead consumers leave them. Returns the keys."""
    written = {group_key(stream, name, each) for each in COMPANION_SUFFIXES}
    for each in written:
        await group.client.hset(each, "pod-dead", "0")
    return written


# -- deletion ----------------------------------------------------------------------------------------------------------


async def test_every_companion_key_that_a_processor_writes_is_deleted(any_group: Group) -> None:
    def handle(data: dict[str, Any]) -> Effects | None:
        match data["n"]:
            case "0":
                raise Retry(after=timedelta(minutes=5))
            case "1":
                raise Reject("no such customer")
        return Effects().set(f"{{{STREAM}}}:effect", "1")

    processor = await any_group.start(handle)
    busy = Recorder(gate=False)
    peer = await any_group.start(busy, "pod-b")
    written = set(COMPANION_SUFFIXES) - {"claimed", "claimed-before"}  # no consumer claims an entry in this test
    expected = {STREAM, KEY, f"{{{STREAM}}}:effect", *(group_key(STREAM, GROUP, each) for each in written)}

    async def are_all_written() -> bool:
        await any_group.add(3)
        return await keys(any_group) == expected

    await eventually(are_all_written)
    busy.gate.set()
    await processor.stop_listening()
    await peer.stop_listening()
    dead_letters, length = await any_group.client.xlen(KEY), await any_group.client.xlen(STREAM)
    await rewrite_emptied_companions(any_group)
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"group 'billing' of stream 'orders' deleted; companion keys deleted: {len(COMPANION_SUFFIXES)}\n"
    assert await keys(any_group) == {STREAM, KEY, f"{{{STREAM}}}:effect"}
    assert not await any_group.group_exists()
    assert (await any_group.client.xlen(KEY), await any_group.client.xlen(STREAM)) == (dead_letters, length)


async def rewrite_emptied_companions(group: Group) -> None:
    """Write the companion keys that a processor empties when it stops, and those that it has not written."""
    existing = await keys(group)
    for each in COMPANION_SUFFIXES:
        if (key := group_key(STREAM, GROUP, each)) not in existing:
            await group.client.hset(key, "pod-dead", "0")


async def test_other_group_of_the_stream_keeps_its_pending_entries_and_keys(group: Group) -> None:
    await group.client.xgroup_create(STREAM, "shipping", "0")
    other_keys = await write_companions(group, name="shipping")
    await group.add(2)
    await group.client.xreadgroup("shipping", "worker", {STREAM: ">"})
    assert (await run("--yes", url=group.url)).code == 0
    [other] = await group.client.xinfo_groups(STREAM)
    assert (other["name"], other["pending"]) == ("shipping", 2)
    assert await keys(group) == {STREAM, *other_keys}


async def test_companion_keys_of_a_missing_stream_are_deleted(any_group: Group) -> None:
    await write_companions(any_group)
    await any_group.client.delete(STREAM)
    ran = await run("--yes", url=any_group.url)
    result = f"group 'billing' of stream 'orders' did not exist; companion keys deleted: {len(COMPANION_SUFFIXES)}\n"
    assert (ran.code, ran.out) == (0, result)
    assert await keys(any_group) == set()


async def test_missing_group_is_reported(any_group: Group) -> None:
    assert (await run("--yes", url=any_group.url)).code == 0
    for stream in (STREAM, "odrers"):
        target = ("--redis-url", any_group.url, "--stream", stream, "--group", GROUP)
        ran = await run("--yes", *target)
        assert (ran.code, ran.out) == (2, "")
        assert f"group 'billing' of stream '{stream}' at {any_group.url} does not exist and has no companion" in ran.err


@pytest.mark.parametrize("stream", ["a{b", "{shop}:orders", "{}x", "or\nders \x1b[31m"])
async def test_names_with_braces_and_control_characters_are_deleted_and_printed_on_one_line(
    group: Group, stream: str
) -> None:
    name = "bil{ling}\x1b[0m"
    await group.client.xgroup_create(stream, name, "0", mkstream=True)
    await write_companions(group, stream, name)
    ran = await run("--yes", "--redis-url", group.url, "--stream", stream, "--group", name)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out
    assert len(ran.out.splitlines()) == 1
    assert await keys(group) == {STREAM, stream}
    assert await group.client.xinfo_groups(stream) == []


async def test_json_output_is_one_document(group: Group) -> None:
    await group.add(3)
    await write_companions(group)
    ran = await run("--yes", "-o", "json", url=group.url)
    assert json.loads(ran.out) == {
        "stream": STREAM,
        "consumerGroup": GROUP,
        "server": group.url,
        "groupDeleted": True,
        "companionKeysDeleted": len(COMPANION_SUFFIXES),
        "pending": 0,
        "lag": 3,
        "deadLetterStream": KEY,
        "deadLetters": 0,
    }


async def test_group_in_a_redis_cluster_is_deleted_on_the_node_of_the_stream(nodes: Nodes) -> None:
    await nodes.group.create_group()
    await write_companions(nodes.group)
    seed = f"redis://{nodes.other.host}:{nodes.other.port}/0"
    environment = {"STREAMCONSUMER_REDIS_URL": seed, "STREAMCONSUMER_REDIS_CLUSTER": "true"}
    ran = await run("--yes", "--stream", STREAM, "--group", GROUP, **environment)
    assert (ran.code, ran.err) == (0, "")
    assert await keys(nodes.group) == {STREAM}
    assert not await nodes.group.group_exists()


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_waiting_pod_prevents_the_deletion_and_is_named(any_group: Group) -> None:
    processor = await any_group.start(Recorder(), poll=30)
    await any_group.wait_until_reading()
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (1, "")
    assert "found the live consumers 'pod-a', expected none" in ran.err
    assert "suspend or delete the StreamConsumer, or stop the consumers; then repeat the command" in ran.err
    assert await any_group.group_exists()
    await processor.stop_listening()
    assert (await run("--yes", url=any_group.url)).code == 0


async def test_active_consumer_of_another_program_prevents_the_deletion(any_group: Group) -> None:
    await any_group.add()
    await command(any_group, "XREADGROUP", "GROUP", GROUP, b"\xff\x1b[31m", "STREAMS", STREAM, ">")
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (1, "")
    assert r"'\\xff\x1b[31m', expected none" in ran.err
    assert "\x1b" not in ran.err
    [kept] = await any_group.client.xinfo_groups(STREAM)
    assert kept["pending"] == 1


async def test_consumer_idle_for_min_idle_does_not_prevent_the_deletion(any_group: Group) -> None:
    await any_group.add()
    await any_group.read_as("worker")

    async def is_deleted() -> bool:
        return (await delete(any_group, min_idle="1s")).live_consumers != {"worker"}

    assert not await is_deleted()
    await eventually(is_deleted)
    assert not await any_group.group_exists()


async def test_empty_read_counts_as_activity_if_the_server_records_it(
    start_redis: StartRedis,
) -> None:
    group = Group(start_redis(flavour=VALKEY))
    await group.create_group()
    await group.read_as("worker")

    async def is_idle() -> bool:
        [worker] = await group.client.xinfo_consumers(STREAM, GROUP)
        return int(worker["idle"]) > 1000

    await eventually(is_idle)
    await group.read_as("worker")
    assert (await delete(group, min_idle="1s")).live_consumers == {"worker"}
    await group.close()


async def test_live_consumer_keeps_its_pending_entries_and_companion_keys(any_group: Group) -> None:
    await any_group.add()
    written = await write_companions(any_group)
    await any_group.read_as("worker")
    assert (await delete(any_group)).live_consumers == {"worker"}
    assert await any_group.pending() == 1
    assert written <= await keys(any_group)


@pytest.mark.parametrize("registered", ["inf", "nan", "yesterday", "99999999999999"])
async def test_invalid_or_future_registration_counts_as_alive(group: Group, registered: str) -> None:
    await group.client.hset(CONSUMERS, "pod-a", registered)
    ran = await run("--yes", url=group.url)
    assert ran.code == 1
    assert "found the live consumers 'pod-a', expected none" in ran.err


async def test_group_with_too_many_consumers_is_kept(group: Group) -> None:
    pipeline = group.client.pipeline(transaction=False)
    for number in range(MAX_CONSUMERS + 1):
        pipeline.xgroup_createconsumer(STREAM, GROUP, f"leaked-{number}")
    await pipeline.execute()
    ran = await run("--yes", url=group.url)
    assert ran.code == 3
    assert f"found {MAX_CONSUMERS + 1} consumers in the group, expected at most {MAX_CONSUMERS}" in ran.err
    assert "delete unused consumers" in ran.err
    assert await group.group_exists()


async def test_group_with_too_many_registrations_is_kept(group: Group) -> None:
    for first in (0, MAX_REGISTRATIONS):
        names: Any = {f"leaked-{number}": 1 for number in range(first, first + MAX_REGISTRATIONS)}
        await group.client.hset(CONSUMERS, mapping=names)
    ran = await run("--yes", url=group.url)
    assert ran.code == 3
    assert f"found {2 * MAX_REGISTRATIONS} registrations of consumers, expected at most {MAX_REGISTRATIONS}" in ran.err
    assert f"delete {CONSUMERS}, wait until live consumers have registered again" in ran.err
    assert await keys(group) == {STREAM, CONSUMERS}


async def test_keys_of_other_types_are_reported_and_kept(any_group: Group) -> None:
    await any_group.client.set("text", "x")
    ran = await run("--yes", "--redis-url", any_group.url, "--stream", "text", "--group", GROUP)
    assert ran.code == 3
    assert "group 'billing' of stream 'text'" in ran.err
    assert "contains another type of value" in ran.err
    await any_group.client.set(CONSUMERS, "x")
    ran = await run("--yes", url=any_group.url)
    assert ran.code == 3
    assert "WRONGTYPE" in ran.err
    assert await keys(any_group) == {STREAM, "text", CONSUMERS}
    assert await any_group.group_exists()


# -- the prompt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
async def test_deletion_prompts_on_a_terminal_with_a_summary(group: Group, answer: bytes, code: int) -> None:
    await group.add(2)
    await write_companions(group)
    terminal, child_terminal = pty.openpty()
    process = await start(url=group.url, stdin=child_terminal)
    os.close(child_terminal)
    os.write(terminal, answer)
    _, err = await process.communicate()
    os.close(terminal)
    shown = err.decode()
    for line in (
        "stream: 'orders'\n",
        "consumerGroup: 'billing'\n",
        f"server: '{group.url}'\n",
        "pending: 0\n",
        "lag: 2\n",
        f"deadLetterStream: '{KEY}'\n",
        "deadLetters: 0\n",
        "Delete the group, its pending entries and its companion keys? The dead letters stay. [y/N]",
    ):
        assert line in shown
    assert process.returncode == code
    assert await group.group_exists() is bool(code)


async def test_deletion_without_a_terminal_requires_yes(group: Group) -> None:
    ran = await run(url=group.url)
    assert (ran.code, ran.out) == (1, "")
    assert "Aborted!" in ran.err
    assert await group.group_exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--yes"],
            "missing --redis-url, --stream, --group; pass each missing option, or the name of a StreamConsumer",
        ),
        (["--yes", "--redis-url", "redis://x", "--stream", STREAM], "missing --group;"),
        (["--yes", "orders", "--stream", STREAM], "--stream: cannot be combined with the name of a StreamConsumer"),
        (["--yes", "-n", "shop", "--stream", STREAM], "-n and --context require the name of a StreamConsumer"),
        (["--yes", "../pods"], "is not a valid StreamConsumer name"),
    ],
)
async def test_wrong_use_is_reported_before_a_connection_is_opened(arguments: list[str], expected: str) -> None:
    ran = await run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err


# -- the server --------------------------------------------------------------------------------------------------------


async def test_unreachable_server_is_named_without_credentials() -> None:
    ran = await run("--yes", url="redis://shop:s3cret@127.0.0.1:1/0")
    assert (ran.code, ran.out) == (3, "")
    assert "redis://127.0.0.1:1/0: " in ran.err
    assert "s3cret" not in ran.err


async def test_password_file_is_used_and_a_wrong_password_is_reported(start_redis: StartRedis, tmp_path: Path) -> None:
    server = start_redis({"requirepass": "s3cret"})
    on_server = Group(server)
    await on_server.create_group()
    url = f"redis://{server.host}:{server.port}/0"
    wrong = await run("--yes", url=url, STREAMCONSUMER_REDIS_PASSWORD="wr0ng")
    assert (wrong.code, wrong.out) == (3, "")
    assert "the user name or the password is wrong" in wrong.err
    assert "wr0ng" not in wrong.err
    (tmp_path / "password").write_text("s3cret\n")
    assert (await run("--yes", "--password-file", str(tmp_path / "password"), url=url)).code == 0
    await on_server.close()


async def test_documented_permissions_are_sufficient(any_group: Group) -> None:
    [line] = DOCUMENTED
    await any_group.add(2)
    await write_companions(any_group)
    await command(any_group, *line.split())
    url = f"redis://janitor:password@{any_group.server.host}:{any_group.server.port}/0"
    ran = await run("--yes", "-o", "json", url=url)
    assert (ran.code, ran.err) == (0, "")
    deleted = json.loads(ran.out)
    assert (deleted["companionKeysDeleted"], deleted["pending"], deleted["deadLetters"]) == (
        len(COMPANION_SUFFIXES),
        0,
        0,
    )
    assert await keys(any_group) == {STREAM}


@pytest.mark.parametrize("permission", ["+unlink", "+eval", "+hgetall"])
async def test_missing_permission_keeps_the_group_and_its_keys(any_group: Group, permission: str) -> None:
    [line] = DOCUMENTED
    permissions = [each for each in line.split() if each.startswith("+") and each != permission]
    await restrict(any_group, *permissions, keys=(f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*"))
    written = await write_companions(any_group)
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (3, "")
    assert "grant it with ACL SETUSER" in ran.err
    assert await any_group.group_exists()
    assert await keys(any_group) == {STREAM, *written}
