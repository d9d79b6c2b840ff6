"""`streamconsumer dead-letters` as a process, on a real server: what it prints, what it does, how it ends."""

import asyncio
import json
import os
import pty
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.processor.dead_letters import DeadLetterReason, fields
from tests.cli import forked
from tests.cli.dev_process import SOURCES
from tests.cli.forked import Ran
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.letters import FIELDS, KEY, buried, command, evidence, raw, restrict


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
    return [*("dead-letters", *arguments, *where)]


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


async def letter(group: Group, **about: Any) -> str:
    """One that holds bytes, of an exception that says more than a line."""
    error = ValueError("no such\ncustomer \x1b[31mred")
    about = {"error": error, "reason": DeadLetterReason.TERMINAL_ERROR, "traceparent": "00-cc-dd-01", **about}
    return str(await command(group, "XADD", KEY, "*", *fields(FIELDS, evidence("1-0", **about))))


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_list_prints_a_line_a_letter_that_no_terminal_obeys(group: Group) -> None:
    first = await letter(group)
    [second] = await buried(group, 1)
    ran = await run("list", url=group.url)
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["ID", "AGE", "REASON", "DELIVERIES", "ERROR"]
    assert rows[0].startswith(first)
    assert re.fullmatch(r"\d+s", rows[0].split()[1])
    assert rows[0].endswith(r"TerminalError          10  ValueError: no such\ncustomer \x1b[31mred")
    assert rows[1].startswith(second)
    assert len(rows) == 2


async def test_list_as_json_is_one_document_with_everything(group: Group) -> None:
    dead_letter_id = await letter(group)
    await buried(group, 1)
    ran = await run("list", "-o", "json", url=group.url)
    document = json.loads(ran.out)
    assert {name: document[name] for name in ("stream", "consumerGroup", "deadLetterStream")} == {
        "stream": STREAM,
        "consumerGroup": GROUP,
        "deadLetterStream": KEY,
    }
    found, _ = document["deadLetters"]
    assert found.pop("deadLetteredAt").endswith("Z")
    assert found == {
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


async def test_no_letters_are_no_error(group: Group) -> None:
    ran = await run("list", url=group.url)
    assert (ran.code, ran.out, ran.err) == (0, "", f"no dead letters of group 'billing' in '{KEY}'\n")
    assert json.loads((await run("list", "-o", "json", url=group.url)).out)["deadLetters"] == []


async def test_ten_thousand_letters_are_listed_and_a_reader_may_leave_early(group: Group) -> None:
    ids = await buried(group, 10_000)
    ran = await run("list", url=group.url)
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ids
    process = await started("list", "-o", "json", url=group.url)
    assert process.stdout
    assert process.stderr
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined] # as `head` does
    assert "Traceback" not in (await process.stderr.read()).decode()
    await process.wait()


async def test_show_prints_all_that_is_known(group: Group) -> None:
    dead_letter_id = await letter(group)
    ran = await run("show", dead_letter_id, url=group.url)
    assert ran.code == 0
    assert r"message:       no such\ncustomer \x1b[31mred" in ran.out
    assert "  n = base64:/wA=\n  n = twice\n" in ran.out
    assert "\x1b" not in ran.out


async def test_show_of_what_is_not_there_says_so(group: Group) -> None:
    ran = await run("show", "7-7", url=group.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"no dead letter 7-7 in '{KEY}': replayed, dropped or trimmed already\n"


# -- replaying ---------------------------------------------------------------------------------------------------------


async def test_replay_by_id_twice_replays_once(group: Group) -> None:
    first, second, third = await buried(group, 3)
    ran = await run("replay", first, third, first, url=group.url)
    assert (ran.code, ran.out, ran.err) == (0, "replayed 2 dead letters\n", "")
    assert [dead_letter_id for dead_letter_id, _ in await raw(group, KEY)] == [second]
    ran = await run("replay", first, third, url=group.url)
    assert (ran.code, ran.out) == (0, "replayed 0 dead letters; 2 replayed, dropped or trimmed already\n")
    assert await group.client.xlen(STREAM) == 2


async def test_replay_by_filter_replays_what_matches(group: Group) -> None:
    await buried(group, 3, reason=DeadLetterReason.REJECTED)
    await buried(group, 2)
    listed = await run("replay", "--reason", "Rejected", "--dry-run", url=group.url)
    assert listed.err == "would replay 3 dead letters; nothing was done\n"
    assert len(listed.out.splitlines()) == 4
    assert await group.client.xlen(STREAM) == 0
    assert (await run("replay", "--older-than", "1h", url=group.url)).out == "replayed 0 dead letters\n"
    ran = await run("replay", "--reason", "Rejected", url=group.url)
    assert ran.out == "replayed 3 dead letters\n"
    assert await group.client.xlen(KEY) == 2


async def test_replays_at_the_same_time_replay_each_once(group: Group) -> None:
    await buried(group, 300)
    runs = await asyncio.gather(*(run("replay", "--all", "--rate", "100000", url=group.url) for _ in range(3)))
    assert {each.code for each in runs} == {0}
    assert sum(int(each.out.split()[1]) for each in runs) == 300
    assert await group.client.xlen(STREAM) == 300


async def test_a_replay_that_is_killed_again_and_again_loses_and_doubles_nothing(group: Group) -> None:
    await buried(group, 2000)
    in_the_middle = 0
    for threshold in range(200, 2000, 300):
        process = await started("replay", "--all", "--rate", "100000", url=group.url)

        async def has_replayed(so_many: int = threshold) -> bool:
            return int(await group.client.xlen(STREAM)) >= so_many

        await eventually(has_replayed, 20)
        process.kill()
        await process.communicate()
        await left_by_clients(group)
        left = await group.client.xlen(KEY)
        assert await group.client.xlen(STREAM) + left == 2000
        in_the_middle += bool(left)
    assert in_the_middle >= 3
    ran = await run("replay", "--all", "--rate", "100000", url=group.url)
    assert ran.code == 0
    assert sorted(int(entry[1]) for _, entry in await raw(group, STREAM)) == list(range(2000))
    assert await group.client.xlen(KEY) == 0


async def left_by_clients(group: Group) -> None:
    """Wait until the server has done what was still on its way, and closed the connections of who is dead."""

    async def nobody_else() -> bool:
        found = await group.client.client_list()
        return not [each for each in found if each["cmd"] in {"eval", "xrange", "type"}]

    await eventually(nobody_else)


async def test_a_replay_keeps_its_rate_and_writes_its_progress_every_five_seconds(group: Group) -> None:
    await buried(group, 110)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ran = await run("replay", "--all", "--rate", "20", url=group.url)
    assert 5.45 <= loop.time() - begun < 60
    assert ran.out == "replayed 110 dead letters\n"
    first, *_ = ran.err.splitlines()
    told = re.fullmatch(r"replayed ([0-9]+), [56] s", first)
    assert told
    assert 0 < int(told[1]) < 110


async def test_what_is_no_dead_letter_of_the_group_is_refused_and_the_others_are_replayed(group: Group) -> None:
    [ours] = await buried(group, 1)
    [theirs] = await buried(group, 1, consumer_group="shipping")
    ran = await run("replay", ours, theirs, url=group.url)
    assert (ran.code, ran.out) == (1, "replayed 1 dead letter\n")
    assert ran.err.startswith(f"refused: entry {theirs} of '{KEY}' is no dead letter of group 'billing'")
    ran = await run("replay", "--all", url=group.url)
    assert (ran.code, ran.out) == (0, "replayed 0 dead letters\n")
    assert ran.err == "passed over 1 entry that is no dead letter of group 'billing' of stream 'orders'\n"


# -- dropping ----------------------------------------------------------------------------------------------------------


async def test_drop_without_a_terminal_deletes_only_with_yes(group: Group) -> None:
    ids = await buried(group, 3)
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
async def test_drop_asks_on_a_terminal(group: Group, answer: bytes, code: int, left: int) -> None:
    await buried(group, 3)
    ours, its = pty.openpty()
    process = await started("drop", "--all", url=group.url, stdin=its)
    os.close(its)
    os.write(ours, answer)
    _, err = await process.communicate()
    os.close(ours)
    assert b"Drop 3 dead letters of group 'billing' of stream 'orders' for good? [y/N]" in err
    assert process.returncode == code
    assert await group.client.xlen(KEY) == left


# -- where to look -----------------------------------------------------------------------------------------------------


async def test_the_option_dead_letter_stream_names_the_key(group: Group) -> None:
    await buried(group, 1, key="graves")
    ran = await run("list", "--dead-letter-stream", "graves", url=group.url)
    assert len(ran.out.splitlines()) == 2


async def test_the_environment_of_a_pod_names_server_group_and_credentials(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": "s3cret"})
    on_server = Group(server)
    await on_server.create()
    await buried(on_server, 1)
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
    assert "the server wants a password" in without.err
    wrong = await run("list", url=url, STREAMCONSUMER_REDIS_PASSWORD="wr0ng")
    assert wrong.code == 3
    assert "the user name or the password is wrong" in wrong.err
    assert "wr0ng" not in wrong.err
    await on_server.close()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_answer_is_named_without_its_credentials() -> None:
    ran = await run("list", url="redis://shop:s3cret@127.0.0.1:1/0")
    assert ran.code == 3
    assert "at redis://127.0.0.1:1/0: " in ran.err
    assert "s3cret" not in ran.err


async def test_a_server_that_goes_away_ends_a_replay_with_what_was_done(group: Group) -> None:
    await buried(group, 1000)
    process = await started("replay", "--all", "--rate", "200", url=group.url)

    async def has_begun() -> bool:
        return int(await group.client.xlen(STREAM)) > 10

    await eventually(has_begun, 20)
    group.server.kill()
    out, err = await process.communicate()
    assert process.returncode == 3
    assert out.decode().startswith("replayed ")
    assert "Traceback" not in err.decode()
    assert "ServerUnavailable" in err.decode()


async def test_what_is_misspelt_is_told(group: Group) -> None:
    where = ("--redis-url", group.url)
    ran = await run("list", *where, "--stream", "odrers", "--group", GROUP)
    assert (ran.code, ran.out) == (2, "")
    assert "there is no stream 'odrers'" in ran.err
    ran = await run("list", *where, "--stream", STREAM, "--group", "biling")
    assert (ran.code, ran.out) == (2, "")
    assert "stream 'orders' has no group 'biling'; it has 'billing'" in ran.err
    await group.client.set(KEY, "mine")
    ran = await run("list", url=group.url)
    assert (ran.code, ran.out) == (2, "")
    assert f"key '{KEY}' is a string, not a stream of dead letters" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay"], "say which: their IDs, or --reason"),
        (["replay", "1-0", "--all"], "say which"),
        (["drop", "--yes"], "say which"),
        (["list", "-n", "shop"], "-n and --context need the name of a StreamConsumer"),
        (["list", "--name", "orders"], "--stream, --group: the StreamConsumer already names them"),
        (["replay", "latest"], "'latest' is not the id of an entry"),
        (["list", "--older-than", "yesterday"], "'yesterday' must be a duration such as 500ms"),
        (["list", "--reason", "Bored"], "there is no such reason; there are MaxDeliveries, Rejected, TerminalError"),
        (["replay", "--all", "--rate", "0"], "0.0 is not in the range x>0"),
    ],
)
async def test_wrong_use_is_told_before_anything_is_asked(arguments: list[str], told: str) -> None:
    ran = await run(*arguments, url="redis://127.0.0.1:1/0")
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


async def test_nothing_said_at_all_says_what_to_say() -> None:
    ran = await run("list")
    assert ran.code == 2
    assert "--redis-url, --stream, --group: missing; or give the name of a StreamConsumer" in ran.err


async def test_a_missing_right_is_told(group: Group) -> None:
    await restrict(group, "+type", "+xrevrange", "+xinfo")
    await buried(group, 1)
    ran = await run("list", url=group.url)
    assert ran.code == 3
    assert "the user lacks a permission; grant it with ACL SETUSER" in ran.err
    assert "'xrange'" in ran.err


async def test_a_server_out_of_memory_is_told_and_keeps_the_letter(group: Group) -> None:
    await buried(group, 1)
    await group.client.config_set("maxmemory", "1")
    ran = await run("replay", "--all", url=group.url)
    assert ran.code == 3
    assert "the server is out of memory; free some or raise maxmemory" in ran.err
    await group.client.config_set("maxmemory", "0")
    assert await group.client.xlen(KEY) == 1


async def test_the_rights_in_the_documentation_are_enough(group: Group) -> None:
    text = (Path(__file__).parents[2] / "docs" / "dead-letters.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("ACL SETUSER clerk")]
    await command(group, *line.split())
    url = f"redis://clerk:password@{group.server.host}:{group.server.port}/0"
    assert (await run("list", url=url)).code == 0
    first, *_ = await buried(group, 3)
    assert (await run("show", first, url=url)).code == 0
    assert (await run("list", "--older-than", "1h", url=url)).code == 0
    ran = await run("replay", first, url=url)
    assert (ran.out, ran.err) == ("replayed 1 dead letter\n", "")
    assert (await run("drop", "--all", "--yes", url=url)).out == "dropped 2 dead letters\n"
