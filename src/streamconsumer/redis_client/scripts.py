"""Lua scripts that the pods, the operator and the CLI run. The scripts are the files in the folder `lua`.

Several of the Lua scripts only read. The reading scripts replace commands whose replies can have any size. A stream can
have any number of groups, consumers and entries, and a name or a value can have up to 512 MB. The reading scripts
return only numbers, ids and a limited number of short names.

A script makes at most 1,000 calls of Redis commands, because Redis runs no other command while the script runs. Longer
work is split into pages.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Self

from redis.exceptions import NoScriptError, ResponseError

from streamconsumer.redis_client.keys import CLAIM_HASH_SIZE, CLAIM_SECONDS, MAX_REMEMBERED_COMMITS, POSTPONED_CONSUMER
from streamconsumer.redis_client.replies import Execute

MAX_CONSUMERS = 10_000
"""Maximum number of consumers of a group that a pod, a script or a command lists. The command XINFO CONSUMERS has no
limit of its own. For 10,000 consumers, the command takes 10 ms, and a script with this command takes 60 ms. For a
million consumers, the script takes 15 s."""

MAX_REGISTRATIONS = 20_000
"""Maximum number of registrations that the script `DELETE_GROUP` checks. The script needs 20 ms to check this number of
registrations."""

MAX_FIELD_BYTES = 1024
"""Maximum size of a name or a value in a companion hash that a script returns. Longer names and values are ignored,
because any program may write to the hash."""

_COMMON_CONSTANTS: dict[str, int | str] = {
    "MAX_CONSUMERS": MAX_CONSUMERS,
    "MAX_REGISTRATIONS": MAX_REGISTRATIONS,
    "MAX_FIELD_BYTES": MAX_FIELD_BYTES,
    "POSTPONED": POSTPONED_CONSUMER,
    "CLAIM_SECONDS": CLAIM_SECONDS,
    "CLAIMS_PER_HASH": CLAIM_HASH_SIZE,
    "MAX_REMEMBERED_COMMITS": MAX_REMEMBERED_COMMITS,
}


class Script(str):
    """Text of a Lua script. The command `("EVAL", script, …)` is sent as EVALSHA (see `execute_by_hash`)."""

    __slots__ = ("name", "sha1")
    name: str
    sha1: str

    def __new__(cls, name: str, text: str) -> Self:
        """Create a script. `name` is the name of its file without the suffix."""
        script = super().__new__(cls, text)
        script.name, script.sha1 = name, hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - as Redis computes it
        return script


def load_script(name: str, **constants: int | str) -> Script:
    """Return the script `lua/NAME.lua`, preceded by the constants and the library functions that it uses.

    The first line of a file can name library functions (`-- uses: a, b`), which are the files `lua/lib/NAME.lua`."""
    parts = [*_library(name), _read(f"{name}.lua")]
    code = "\n".join(parts)
    used = {
        word: value for word, value in {**_COMMON_CONSTANTS, **constants}.items() if re.search(rf"\b{word}\b", code)
    }
    lines = [f"local {word} = {_literal(value)}" for word, value in used.items()]
    return Script(name, "\n".join([*lines, code]))


async def execute_by_hash(execute: Execute, command: Sequence[Any]) -> Any:
    """Execute a command. Sends an EVAL of a `Script` as EVALSHA, and as EVAL if the server does not have the script."""
    try:
        return await execute(*_by_hash(command))
    except ResponseError as error:
        if not _is_unknown_script(error):
            raise
    return await execute(*command)


async def execute_all_by_hash(
    execute_all: Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]], commands: Sequence[Sequence[Any]]
) -> list[Any]:
    """Execute commands as `execute_by_hash` does. `execute_all` returns one reply or error for each command."""
    found = await execute_all([_by_hash(command) for command in commands])
    if unknown := [index for index, reply in enumerate(found) if _is_unknown_script(reply)]:
        repeated = await execute_all([commands[index] for index in unknown])
        for index, reply in zip(unknown, repeated, strict=True):
            found[index] = reply
    return found


def _by_hash(command: Sequence[Any]) -> Sequence[Any]:
    """Return an EVAL of a `Script` as EVALSHA, which sends only the hash. Returns any other command unchanged."""
    if len(command) > 1 and command[0] == "EVAL" and isinstance(command[1], Script):
        return ("EVALSHA", command[1].sha1, *command[2:])
    return command


def _is_unknown_script(reply: Any) -> bool:
    """Return True if an EVALSHA must be repeated as EVAL: the server does not have the script, or refuses EVALSHA."""
    if not isinstance(reply, ResponseError):
        return False
    text = str(reply)
    return isinstance(reply, NoScriptError) or text.startswith("NOSCRIPT") or "evalsha" in text[:200].lower()


def _library(name: str) -> list[str]:
    """Return the text of the library functions that a script uses. Each function comes after the functions that it
    calls."""
    ordered: dict[str, str] = {}

    def add(path: str) -> None:
        for function in _used_functions(_read(path)):
            if function not in ordered:
                add(f"lib/{function}.lua")
                ordered[function] = _read(f"lib/{function}.lua")

    add(f"{name}.lua")
    return list(ordered.values())


def _used_functions(text: str) -> Iterator[str]:
    if text.startswith("-- uses: "):
        yield from text.partition("\n")[0].removeprefix("-- uses: ").split(", ")


@cache
def _read(path: str) -> str:
    return files(__package__).joinpath("lua", *path.split("/")).read_text()


def _literal(value: int | str) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


PROBE_GROUP = load_script("probe_group")
FIND_GROUP = load_script("find_group")
LIST_GROUPS = load_script("list_groups")
LAST_GENERATED_ID = load_script("last_generated_id")
COUNT_AFTER = load_script("count_after")
LIST_CONSUMERS = load_script("list_consumers")
LIST_PENDING = load_script("list_pending")
DELETE_IDLE_CONSUMER = load_script("delete_idle_consumer")
