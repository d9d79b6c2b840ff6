"""`streamconsumer dead-letters` as a process with a real server: output, effects and exit codes."""

import asyncio
import json
import os
import pty
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.processor.dead_letters.record import DeadLetterReason, to_fields
from tests.cli.target_command import TargetCommand
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.dead_letters.dead_letter_factory import (
    FIELDS,
    KEY,
    command,
    failure_details,
    raw,
    restrict,
    write_dead_letters,
)
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """The stream and the group on an empty server."""
    on_server = Group(redis_server)
    await on_server.create_group()
    yield on_server
    await on_server.close()


COMMAND = TargetCommand(("dead-letters",))
start, run = COMMAND.start, COMMAND.run


async def write_dead_letter(group: Group, **details: Any) -> str:
    """Write a dead letter with binary fields and a multi-line error. Returns its id."""
    error = ValueError("no such\ncustomer \x1b[31mred")
    details = {"error": error, "reason": DeadLetterReason.TERMINAL_ERROR, "traceparent": "00-cc-dd-01", **details}
    return str(await command(group, "XADD", KEY, "*", *to_fields(FIELDS, failure_details("1-0", **details))))


# -- list, show --------------------------------------------------------------------------------------------------------


async def test_list_prints_one_escaped_line_for_each_dead_letter(group: Group) -> None:
    first = await write_dead_letter(group)
    [second] = await write_dead_letters(group, 1)
    ran = await run("list", url=group.url)
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["ID", "AGE", "REASON", "DELIVERIES", "ERROR"]
    assert rows[0].startswith(first)
    assert re.fullmatch(r"\d+s", rows[0].split()[1])
    assert rows[0].endswith(r"TerminalError          10  ValueError: no such\ncustomer \x1b[31mred")
    assert rows[1].startswith(second)
    assert len(rows) == 2


async def test_list_as_json_prints_one_document_with_all_details(group: Group) -> None:
    dead_letter_id = await write_dead_letter(group)
    await write_dead_letters(group, 1)
    ran = await run("list", "-o", "json", url=group.url)
    document = json.loads(ran.out)
    assert {name: document[name] for name in ("stream", "consumerGroup", "deadLetterStream")} == {
        "stream": STREAM,
        "consumerGroup": GROUP,
        "deadLetterStream": KEY,
    }
    dead_letter, _ = document["deadLetters"]
    assert dead_letter.pop("deadLetteredAt").endswith("Z")
    assert dead_letter == {
        "id": dead_letter_id,
        "reason": "TerminalError",
        "error": {"type": "ValueError", "message": "no such\ncustomer \x1b[31mred", "at": ""},
        "stream": STREAM,
        "consumerGroup": GROUP,
        "consumer": "pod-a",
        "messageId": "1-0",
        "originId": "1-0",
        "addedAt": "1970-01-01T00:00:00.001Z",
        "deliveries": 10,
        "replays": 0,
        "traceparent": "00-cc-dd-01",
        "fields": [
            {"name": "n", "valueBase64": "/wA="},
            {"name": "n", "value": "twice"},
            {"name": "traceparent", "value": "00-aa-bb-01"},
        ],
    }


async def test_list_without_dead_letters_succeeds(group: Group) -> None:
    ran = await run("list", url=group.url)
    assert (ran.code, ran.out, ran.err) == (0, "", f"no dead letters of group 'billing' in '{KEY}'\n")
    assert json.loads((await run("list", "-o", "json", url=group.url)).out)["deadLetters"] == []


async def test_list_prints_10_000_dead_letters_and_ends_if_the_reader_closes_the_pipe(group: Group) -> None:
    ids = await write_dead_letters(group, 10_000)
    ran = await run("list", url=group.url)
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ids
    process = await start("list", "-o", "json", url=group.url)
    assert process.stdout
    assert process.stderr
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined] # as `head` does
    assert "Traceback" not in (await process.stderr.read()).decode()
    await process.wait()


async def test_show_prints_all_details(group: Group) -> None:
    dead_letter_id = await write_dead_letter(group)
    ran = await run("show", dead_letter_id, url=group.url)
    assert ran.code == 0
    assert r"message:       no such\ncustomer \x1b[31mred" in ran.out
    assert "  n = base64:/wA=\n  n = twice\n" in ran.out
    assert "\x1b" not in ran.out


async def test_show_reports_a_missing_dead_letter(group: Group) -> None:
    ran = await run("show", "7-7", url=group.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"dead letter 7-7 in '{KEY}': not found; already replayed, dropped or trimmed\n"


# -- replay ------------------------------------------------------------------------------------------------------------


async def test_replay_by_id_replays_each_dead_letter_once(group: Group) -> None:
    first, second, third = await write_dead_letters(group, 3)
    ran = await run("replay", first, third, first, url=group.url)
    assert (ran.code, ran.out, ran.err) == (0, "replayed 2 dead letters\n", "")
    assert [dead_letter_id for dead_letter_id, _ in await raw(group, KEY)] == [second]
    ran = await run("replay", first, third, url=group.url)
    assert (ran.code, ran.out) == (0, "replayed 0 dead letters; 2 already replayed, dropped or trimmed\n")
    assert await group.client.xlen(STREAM) == 2


async def test_replay_by_filter_replays_only_matching_dead_letters(group: Group) -> None:
    await write_dead_letters(group, 3, reason=DeadLetterReason.REJECTED)
    await write_dead_letters(group, 2)
    listed = await run("replay", "--reason", "Rejected", "--dry-run", url=group.url)
    assert listed.err == "would replay 3 dead letters; nothing was changed\n"
    assert len(listed.out.splitlines()) == 4
    assert await group.client.xlen(STREAM) == 0
    assert (await run("replay", "--older-than", "1h", url=group.url)).out == "replayed 0 dead letters\n"
    ran = await run("replay", "--reason", "Rejected", url=group.url)
    assert ran.out == "replayed 3 dead letters\n"
    assert await group.client.xlen(KEY) == 2


async def test_concurrent_replays_replay_each_dead_letter_once(group: Group) -> None:
    await write_dead_letters(group, 300)
    runs = await asyncio.gather(*(run("replay", "--all", "--rate", "100000", url=group.url) for _ in range(3)))
    assert {each.code for each in runs} == {0}
    assert sum(int(each.out.split()[1]) for each in runs) == 300
    assert await group.client.xlen(STREAM) == 300


async def test_repeatedly_killed_replay_loses_and_duplicates_nothing(group: Group) -> None:
    await write_dead_letters(group, 2000)
    interrupted = 0
    for threshold in range(200, 2000, 300):
        process = await start("replay", "--all", "--rate", "100000", url=group.url)

        async def has_replayed(minimum: int = threshold) -> bool:
            return int(await group.client.xlen(STREAM)) >= minimum

        await eventually(has_replayed, 20)
        process.kill()
        await process.communicate()
        await wait_for_server(group)
        left = await group.client.xlen(KEY)
        assert await group.client.xlen(STREAM) + left == 2000
        interrupted += bool(left)
    assert interrupted >= 3
    ran = await run("replay", "--all", "--rate", "100000", url=group.url)
    assert ran.code == 0
    assert sorted(int(entry[1]) for _, entry in await raw(group, STREAM)) == list(range(2000))
    assert await group.client.xlen(KEY) == 0


async def wait_for_server(group: Group) -> None:
    """Wait until the server has executed all commands of the killed process and closed its connections."""

    async def has_no_other_client() -> bool:
        clients = await group.client.client_list()
        return not [each for each in clients if each["cmd"] in {"eval", "xrange", "type"}]

    await eventually(has_no_other_client)


async def test_replay_keeps_its_rate_and_prints_progress_every_five_seconds(group: Group) -> None:
    await write_dead_letters(group, 110)
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    ran = await run("replay", "--all", "--rate", "20", url=group.url)
    assert 5.45 <= loop.time() - started_at < 60
    assert ran.out == "replayed 110 dead letters\n"
    first, *_ = ran.err.splitlines()
    progress = re.fullmatch(r"replayed ([0-9]+), [56] s", first)
    assert progress
    assert 0 < int(progress[1]) < 110


async def test_replay_refuses_dead_letters_of_another_group_and_replays_the_others(group: Group) -> None:
    [own_id] = await write_dead_letters(group, 1)
    [other_id] = await write_dead_letters(group, 1, consumer_group="shipping")
    ran = await run("replay", own_id, other_id, url=group.url)
    assert (ran.code, ran.out) == (1, "replayed 1 dead letter\n")
    assert ran.err.startswith(f"refused: entry {other_id} of '{KEY}' is left unchanged: it is not a dead letter")
    ran = await run("replay", "--all", url=group.url)
    assert (ran.code, ran.out) == (0, "replayed 0 dead letters\n")
    assert ran.err == "skipped 1 entry that is not a dead letter of group 'billing' of stream 'orders'\n"


# -- drop --------------------------------------------------------------------------------------------------------------


async def test_unreadable_dead_letter_shows_sizes_and_is_replayed_only_while_its_entry_exists(group: Group) -> None:
    [entry_id] = await group.add()
    await group.read_as("pod-a")
    await group.client.xack(STREAM, GROUP, entry_id)
    letters = []
    for message_id in ("1-0", entry_id):
        details = failure_details(message_id, reason=DeadLetterReason.UNREADABLE, error=ValueError("too large"))
        letters.append(str(await command(group, "XADD", KEY, "*", *to_fields([b"picture", b"200000000"], details))))
    shown = await run("show", letters[0], url=group.url)
    assert shown.out.splitlines()[-1] == "  picture = (200000000 bytes, not stored)"
    listed = json.loads((await run("list", "-o", "json", url=group.url)).out)
    assert listed["deadLetters"][0]["fields"] == [{"name": "picture", "sizeBytes": 200000000}]
    replayed = await run("replay", "--all", url=group.url)
    assert (replayed.code, replayed.out) == (1, "replayed 1 dead letter\n")
    assert replayed.err.startswith(f"refused: dead letter {letters[0]} cannot be replayed: it contains no values")
    assert [each.message_id for each in await group.entries()] == [entry_id]


async def test_drop_without_a_terminal_requires_yes(group: Group) -> None:
    ids = await write_dead_letters(group, 3)
    refused = await run("drop", "--all", url=group.url)
    assert (refused.code, refused.out) == (1, "")
    assert "Aborted!" in refused.err
    assert (await run("drop", "--all", "--dry-run", url=group.url)).err.startswith("would drop 3 dead letters")
    assert await group.client.xlen(KEY) == 3
    assert (await run("drop", ids[1], "--yes", url=group.url)).out == "dropped 1 dead letter\n"
    assert (await run("drop", "--all", "--yes", url=group.url)).out == "dropped 2 dead letters\n"
    assert await group.client.xlen(KEY) == 0
    assert await group.client.xlen(STREAM) == 0


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 3), (b"y\n", 0, 0)])
async def test_drop_prompts_on_a_terminal(group: Group, answer: bytes, code: int, left: int) -> None:
    await write_dead_letters(group, 3)
    terminal, child_terminal = pty.openpty()
    process = await start("drop", "--all", url=group.url, stdin=child_terminal)
    os.close(child_terminal)
    os.write(terminal, answer)
    _, err = await process.communicate()
    os.close(terminal)
    assert b"Drop 3 dead letters of group 'billing' of stream 'orders' permanently? [y/N]" in err
    assert process.returncode == code
    assert await group.client.xlen(KEY) == left


# -- target ------------------------------------------------------------------------------------------------------------


async def test_dead_letter_stream_option_selects_the_key(group: Group) -> None:
    await write_dead_letters(group, 1, key="graves")
    ran = await run("list", "--dead-letter-stream", "graves", url=group.url)
    assert len(ran.out.splitlines()) == 2


async def test_environment_of_a_pod_selects_server_group_and_credentials(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": "s3cret"})
    on_server = Group(server)
    await on_server.create_group()
    await write_dead_letters(on_server, 1)
    url = f"redis://{server.host}:{server.port}/0"
    (tmp_path / "password").write_text("s3cret\n")
    password_file = str(tmp_path / "password")
    pod = {
        "STREAMCONSUMER_REDIS_URL": url,
        "STREAMCONSUMER_STREAM": STREAM,
        "STREAMCONSUMER_CONSUMER_GROUP": GROUP,
    }
    assert len((await run("list", **pod, STREAMCONSUMER_REDIS_PASSWORD="s3cret")).out.splitlines()) == 2
    mounted = {**pod, "STREAMCONSUMER_REDIS_PASSWORD_FILE": password_file}
    assert len((await run("list", **mounted)).out.splitlines()) == 2
    wrong = await run("list", "--password-file", str(Path(__file__)), **mounted)
    assert (wrong.code, wrong.out) == (3, "")
    assert len((await run("list", "--password-file", password_file, url=url)).out.splitlines()) == 2
    without = await run("list", url=url)
    assert without.code == 3
    assert "the server requires a password" in without.err
    wrong = await run("list", url=url, STREAMCONSUMER_REDIS_PASSWORD="wr0ng")
    assert wrong.code == 3
    assert "the user name or the password is wrong" in wrong.err
    assert "wr0ng" not in wrong.err
    await on_server.close()


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_unreachable_server_is_named_without_credentials() -> None:
    ran = await run("list", url="redis://shop:s3cret@127.0.0.1:1/0")
    assert ran.code == 3
    assert "at redis://127.0.0.1:1/0: " in ran.err
    assert "s3cret" not in ran.err


async def test_lost_server_ends_a_replay_with_its_progress(group: Group) -> None:
    await write_dead_letters(group, 1000)
    process = await start("replay", "--all", "--rate", "200", url=group.url)

    async def has_started() -> bool:
        return int(await group.client.xlen(STREAM)) > 10

    await eventually(has_started, 20)
    group.server.kill()
    out, err = await process.communicate()
    assert process.returncode == 3
    assert out.decode().startswith("replayed ")
    assert "Traceback" not in err.decode()
    assert "BackendUnavailable" in err.decode()


async def test_misspelt_stream_group_and_key_are_reported(group: Group) -> None:
    server = ("--redis-url", group.url)
    ran = await run("list", *server, "--stream", "odrers", "--group", GROUP)
    assert (ran.code, ran.out) == (2, "")
    assert "stream 'odrers' not found" in ran.err
    ran = await run("list", *server, "--stream", STREAM, "--group", "biling")
    assert (ran.code, ran.out) == (2, "")
    assert "stream 'orders' has no group 'biling'; its groups are 'billing'" in ran.err
    await group.client.set(KEY, "mine")
    ran = await run("list", url=group.url)
    assert (ran.code, ran.out) == (2, "")
    assert f"key '{KEY}' is a string, not a dead-letter stream" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["replay"],
            "select dead letters either with IDS, or with the filters --reason and --older-than, or with --all",
        ),
        (["replay", "1-0", "--all"], "select dead letters either with IDS"),
        (["drop", "--yes"], "select dead letters either with IDS"),
        (["list", "-n", "shop"], "-n and --context require the name of a StreamConsumer"),
        (["list", "--name", "orders"], "--stream, --group: cannot be combined with the name of a StreamConsumer"),
        (["replay", "latest"], "'latest' is not a valid entry id"),
        (["list", "--older-than", "yesterday"], "'yesterday' must be a duration such as 500ms"),
        (["list", "--reason", "Bored"], "unknown reason; expected one of MaxDeliveries, Rejected, TerminalError"),
        (["replay", "--all", "--rate", "0"], "0.0 is not in the range x>0"),
    ],
)
async def test_wrong_use_is_reported_before_a_connection_is_opened(arguments: list[str], message: str) -> None:
    ran = await run(*arguments, url="redis://127.0.0.1:1/0")
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


async def test_missing_target_options_are_listed() -> None:
    ran = await run("list")
    assert ran.code == 2
    assert (
        "missing --redis-url, --stream, --group; pass each missing option, or the name of a StreamConsumer" in ran.err
    )


async def test_missing_permission_is_reported(group: Group) -> None:
    await restrict(group, "+type", "+eval", "+xrevrange", "+xinfo")
    await write_dead_letters(group, 1)
    ran = await run("list", url=group.url)
    assert ran.code == 3
    assert "the user lacks a permission; grant it with ACL SETUSER" in ran.err
    assert "'xrange'" in ran.err


async def test_replay_on_a_server_out_of_memory_keeps_the_dead_letter(group: Group) -> None:
    await write_dead_letters(group, 1)
    await group.client.config_set("maxmemory", "1")
    ran = await run("replay", "--all", url=group.url)
    assert ran.code == 3
    assert "the server is out of memory; free memory or raise maxmemory" in ran.err
    await group.client.config_set("maxmemory", "0")
    assert await group.client.xlen(KEY) == 1


async def test_documented_permissions_are_sufficient(group: Group) -> None:
    text = (Path(__file__).parents[3] / "docs" / "dead-letters.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("ACL SETUSER clerk")]
    await command(group, *line.split())
    url = f"redis://clerk:password@{group.server.host}:{group.server.port}/0"
    assert (await run("list", url=url)).code == 0
    first, *_ = await write_dead_letters(group, 3)
    assert (await run("show", first, url=url)).code == 0
    assert (await run("list", "--older-than", "1h", url=url)).code == 0
    ran = await run("replay", first, url=url)
    assert (ran.out, ran.err) == ("replayed 1 dead letter\n", "")
    assert (await run("drop", "--all", "--yes", url=url)).out == "dropped 2 dead letters\n"
