"""`streamconsumer group delete` as a process, on real servers."""

import asyncio
import json
import os
import pty
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.cli.group.deletion import Outcome, delete
from streamconsumer.cli.target import Target
from streamconsumer.model.settings import RedisAccess
from streamconsumer.processor import Effects, Reject, Retry
from streamconsumer.server.keys import COMPANIONS, companion
from tests.cli import forked
from tests.cli.dev_process import SOURCES
from tests.cli.forked import Ran
from tests.cluster.redis_servers import VALKEY, RedisServer, StartRedis
from tests.model.examples import consumer
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.letters import KEY, command, restrict
from tests.processor.recorder import Recorder
from tests.processor.test_cluster import Nodes, nodes

__all__ = ["nodes"]

CONSUMERS = companion(STREAM, GROUP, "consumers")
DOCUMENTED = [
    line
    for line in (Path(__file__).parents[2] / "docs" / "redis.md").read_text().splitlines()
    if line.startswith("ACL SETUSER janitor")
]


@pytest.fixture
async def any_group(any_redis: RedisServer) -> AsyncIterator[Group]:
    """The stream and the group on each kind of server."""
    on_server = Group(any_redis)
    await on_server.create()
    yield on_server
    await on_server.close()


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """The stream and the group on an empty server."""
    on_server = Group(redis_server)
    await on_server.create()
    yield on_server
    await on_server.close()


def command_line(*arguments: str, url: str = "") -> list[str]:
    """Return the arguments of the command line: for the group on this server, if there is a `url`."""
    where = ("--redis-url", url, "--stream", STREAM, "--group", GROUP) if url else ()
    return [*("group", "delete", *where, *arguments)]


def clean(environment: dict[str, str]) -> dict[str, str]:
    """Return these variables and the few that each command needs, without the others of this process."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), **environment}


async def started(*arguments: str, url: str = "", stdin: int = DEVNULL, **environment: str) -> Process:
    """Start the command in a new interpreter, for tests that signal it or give it a terminal."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamconsumer", *command_line(*arguments, url=url)),
        env=clean(environment),
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
    )


async def run(*arguments: str, url: str = "", **environment: str) -> Ran:
    """Run the command until it exits."""
    words = command_line(*arguments, url=url)
    ran = await asyncio.to_thread(forked.run, *words, environment=clean(environment))
    assert "Traceback" not in ran.err, ran.err
    return ran


async def outcome(group: Group, min_idle: str = "30s") -> Outcome:
    """Delete the group of a StreamConsumer."""
    target = Target(RedisAccess(url=group.url), STREAM, GROUP, KEY, consumer(delivery={"minIdle": min_idle}))
    return await delete(group.manager(), target)


async def keys(group: Group) -> set[str]:
    return {str(each) async for each in group.client.scan_iter()}


async def write_companions(group: Group, stream: str = STREAM, name: str = GROUP) -> set[str]:
    """Write each companion key as dead consumers leave them. Returns the keys."""
    written = {companion(stream, name, each) for each in COMPANIONS}
    for each in written:
        await group.client.hset(each, "pod-dead", "0")
    return written


# -- what is deleted ---------------------------------------------------------------------------------------------------


async def test_the_list_of_companion_keys_is_what_a_processor_writes_and_all_of_it_is_deleted(any_group: Group) -> None:
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
    expected = {STREAM, KEY, f"{{{STREAM}}}:effect", *(companion(STREAM, GROUP, each) for each in COMPANIONS)}

    async def are_all_written() -> bool:
        await any_group.add(3)
        return await keys(any_group) == expected

    await eventually(are_all_written)
    busy.gate.set()
    await processor.stop_listening()
    await peer.stop_listening()
    letters, length = await any_group.client.xlen(KEY), await any_group.client.xlen(STREAM)
    await write_companions_that_ended(any_group)
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"group 'billing' of stream 'orders' deleted; companion keys deleted: {len(COMPANIONS)}\n"
    assert await keys(any_group) == {STREAM, KEY, f"{{{STREAM}}}:effect"}
    assert not await any_group.exists()
    assert (await any_group.client.xlen(KEY), await any_group.client.xlen(STREAM)) == (letters, length)


async def write_companions_that_ended(group: Group) -> None:
    """Write again the companion keys that a processor empties when it stops."""
    there = await keys(group)
    for each in COMPANIONS:
        if (key := companion(STREAM, GROUP, each)) not in there:
            await group.client.hset(key, "pod-dead", "0")


async def test_another_group_of_the_stream_keeps_its_pending_entries_and_its_keys(group: Group) -> None:
    await group.client.xgroup_create(STREAM, "shipping", "0")
    theirs = await write_companions(group, name="shipping")
    await group.add(2)
    await group.client.xreadgroup("shipping", "worker", {STREAM: ">"})
    assert (await run("--yes", url=group.url)).code == 0
    [other] = await group.client.xinfo_groups(STREAM)
    assert (other["name"], other["pending"]) == ("shipping", 2)
    assert await keys(group) == {STREAM, *theirs}


async def test_companion_keys_whose_stream_is_gone_are_deleted(any_group: Group) -> None:
    await write_companions(any_group)
    await any_group.client.delete(STREAM)
    ran = await run("--yes", url=any_group.url)
    result = f"group 'billing' of stream 'orders' did not exist; companion keys deleted: {len(COMPANIONS)}\n"
    assert (ran.code, ran.out) == (0, result)
    assert await keys(any_group) == set()


async def test_a_group_that_does_not_exist_is_reported(any_group: Group) -> None:
    assert (await run("--yes", url=any_group.url)).code == 0
    for stream in (STREAM, "odrers"):
        where = ("--redis-url", any_group.url, "--stream", stream, "--group", GROUP)
        ran = await run("--yes", *where)
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


async def test_the_result_as_json_is_one_document(group: Group) -> None:
    await group.add(3)
    await write_companions(group)
    ran = await run("--yes", "-o", "json", url=group.url)
    assert json.loads(ran.out) == {
        "stream": STREAM,
        "consumerGroup": GROUP,
        "server": group.url,
        "groupDeleted": True,
        "companionKeysDeleted": len(COMPANIONS),
        "pending": 0,
        "lag": 3,
        "deadLetterStream": KEY,
        "deadLetters": 0,
    }


async def test_in_a_redis_cluster_the_node_of_the_stream_is_found(nodes: Nodes) -> None:
    await nodes.group.create()
    await write_companions(nodes.group)
    seed = f"redis://{nodes.other.host}:{nodes.other.port}/0"
    environment = {"STREAMCONSUMER_REDIS_URL": seed, "STREAMCONSUMER_REDIS_CLUSTER": "true"}
    ran = await run("--yes", "--stream", STREAM, "--group", GROUP, **environment)
    assert (ran.code, ran.err) == (0, "")
    assert await keys(nodes.group) == {STREAM}
    assert not await nodes.group.exists()


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_pod_that_waits_for_entries_is_named_and_nothing_is_deleted(any_group: Group) -> None:
    processor = await any_group.start(Recorder(), poll=30)
    await any_group.is_reading()
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (1, "")
    assert "found the live consumers 'pod-a', expected none" in ran.err
    assert "suspend or delete the StreamConsumer, or stop the consumers; then repeat the command" in ran.err
    assert await any_group.exists()
    await processor.stop_listening()
    assert (await run("--yes", url=any_group.url)).code == 0


async def test_a_consumer_of_another_program_that_read_lately_is_refused(any_group: Group) -> None:
    await any_group.add()
    await command(any_group, "XREADGROUP", "GROUP", GROUP, b"\xff\x1b[31m", "STREAMS", STREAM, ">")
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (1, "")
    assert r"'\\xff\x1b[31m', expected none" in ran.err
    assert "\x1b" not in ran.err
    [kept] = await any_group.client.xinfo_groups(STREAM)
    assert kept["pending"] == 1


async def test_a_consumer_that_is_idle_for_longer_than_min_idle_does_not_keep_the_group(any_group: Group) -> None:
    await any_group.add()
    await any_group.read_as("worker")

    async def is_deleted() -> bool:
        return (await outcome(any_group, min_idle="1s")).alive != {"worker"}

    assert not await is_deleted()
    await eventually(is_deleted)
    assert not await any_group.exists()


async def test_a_read_that_returns_no_entry_is_a_sign_of_life_where_the_server_records_it(
    start_redis: StartRedis,
) -> None:
    group = Group(start_redis(flavour=VALKEY))
    await group.create()
    await group.read_as("worker")

    async def is_idle() -> bool:
        [worker] = await group.client.xinfo_consumers(STREAM, GROUP)
        return int(worker["idle"]) > 1000

    await eventually(is_idle)
    await group.read_as("worker")
    assert (await outcome(group, min_idle="1s")).alive == {"worker"}
    await group.close()


async def test_a_live_consumer_keeps_the_pending_entries_and_the_companion_keys(any_group: Group) -> None:
    await any_group.add()
    written = await write_companions(any_group)
    await any_group.read_as("worker")
    assert (await outcome(any_group)).alive == {"worker"}
    assert await any_group.pending() == 1
    assert written <= await keys(any_group)


@pytest.mark.parametrize("seen", ["inf", "nan", "yesterday", "99999999999999"])
async def test_a_registration_that_is_no_time_in_the_past_counts_as_alive(group: Group, seen: str) -> None:
    await group.client.hset(CONSUMERS, "pod-a", seen)
    ran = await run("--yes", url=group.url)
    assert ran.code == 1
    assert "found the live consumers 'pod-a', expected none" in ran.err


async def test_keys_of_other_types_are_refused_and_kept(any_group: Group) -> None:
    await any_group.client.set("text", "x")
    ran = await run("--yes", "--redis-url", any_group.url, "--stream", "text", "--group", GROUP)
    assert ran.code == 3
    assert "group 'billing' of stream 'text'" in ran.err
    assert "the key is not a stream" in ran.err
    await any_group.client.set(CONSUMERS, "x")
    ran = await run("--yes", url=any_group.url)
    assert ran.code == 3
    assert "WRONGTYPE" in ran.err
    assert await keys(any_group) == {STREAM, "text", CONSUMERS}
    assert await any_group.exists()


# -- the prompt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
async def test_a_terminal_shows_what_goes_and_prompts(group: Group, answer: bytes, code: int) -> None:
    await group.add(2)
    await write_companions(group)
    ours, its = pty.openpty()
    process = await started(url=group.url, stdin=its)
    os.close(its)
    os.write(ours, answer)
    _, err = await process.communicate()
    os.close(ours)
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
    assert await group.exists() is bool(code)


async def test_without_a_terminal_yes_is_required(group: Group) -> None:
    ran = await run(url=group.url)
    assert (ran.code, ran.out) == (1, "")
    assert "Aborted!" in ran.err
    assert await group.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--yes"], "--redis-url, --stream, --group: missing; or give the name of a StreamConsumer"),
        (["--yes", "--redis-url", "redis://x", "--stream", STREAM], "--group: missing"),
        (["--yes", "orders", "--stream", STREAM], "--stream: the StreamConsumer already names them"),
        (["--yes", "-n", "shop", "--stream", STREAM], "-n and --context need the name of a StreamConsumer"),
        (["--yes", "../pods"], "is no name of a StreamConsumer"),
    ],
)
async def test_wrong_use_is_reported_before_any_server_is_asked(arguments: list[str], expected: str) -> None:
    ran = await run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err


# -- the server --------------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_answer_is_named_without_its_credentials() -> None:
    ran = await run("--yes", url="redis://shop:s3cret@127.0.0.1:1/0")
    assert (ran.code, ran.out) == (3, "")
    assert "redis://127.0.0.1:1/0: " in ran.err
    assert "s3cret" not in ran.err


async def test_a_password_file_opens_the_server_and_a_wrong_password_is_reported(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": "s3cret"})
    on_server = Group(server)
    await on_server.create()
    url = f"redis://{server.host}:{server.port}/0"
    wrong = await run("--yes", url=url, STREAMCONSUMER_REDIS_PASSWORD="wr0ng")
    assert (wrong.code, wrong.out) == (3, "")
    assert "the user name or the password is wrong" in wrong.err
    assert "wr0ng" not in wrong.err
    (tmp_path / "password").write_text("s3cret\n")
    assert (await run("--yes", "--password-file", str(tmp_path / "password"), url=url)).code == 0
    await on_server.close()


async def test_the_rights_in_the_documentation_are_enough(any_group: Group) -> None:
    [line] = DOCUMENTED
    await any_group.add(2)
    await write_companions(any_group)
    await command(any_group, *line.split())
    url = f"redis://janitor:password@{any_group.server.host}:{any_group.server.port}/0"
    ran = await run("--yes", "-o", "json", url=url)
    assert (ran.code, ran.err) == (0, "")
    deleted = json.loads(ran.out)
    assert (deleted["companionKeysDeleted"], deleted["pending"], deleted["deadLetters"]) == (len(COMPANIONS), 0, 0)
    assert await keys(any_group) == {STREAM}


@pytest.mark.parametrize("right", ["+unlink", "+eval", "+hgetall"])
async def test_a_missing_right_keeps_the_group_and_its_keys(any_group: Group, right: str) -> None:
    [line] = DOCUMENTED
    rights = [each for each in line.split() if each.startswith("+") and each != right]
    await restrict(any_group, *rights, keys=(f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*"))
    written = await write_companions(any_group)
    ran = await run("--yes", url=any_group.url)
    assert (ran.code, ran.out) == (3, "")
    assert "grant it with ACL SETUSER" in ran.err
    assert await any_group.exists()
    assert await keys(any_group) == {STREAM, *written}
