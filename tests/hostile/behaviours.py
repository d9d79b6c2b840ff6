"""The ways in which a Redis server can misbehave, as behaviours of `redis_server`.

`working` is a server that replies to every command of the product as Redis does. Most behaviours are this server with
one difference.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping

from streamconsumer.redis_client import scripts
from tests.hostile.redis_server import HOST, Behaviour, Command, Connection

ENDLESS = b"x" * 65536
DIGITS = b"9" * 400
MANY_CONSUMERS = 200_000
MANY_FIELDS = 1_500_000
SLOTS = 16384
DEPTH = 1_000_000
LARGEST_ID = b"18446744073709551615-18446744073709551615"

Reply = bytes | Callable[[Connection, Command], bytes]


def bulk(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(*items: bytes) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


def integer(value: int | bytes) -> bytes:
    return b":%s\r\n" % (value if isinstance(value, bytes) else str(value).encode())


def fields(**values: bytes) -> bytes:
    """Return a flat array of names and values, as XINFO replies with it. `_` in a name stands for `-`."""
    return array(*(item for name, value in values.items() for item in (bulk(name.replace("_", "-")), value)))


def group(**changes: bytes) -> dict[str, Reply]:
    """Return the replies that describe a group: to the command that lists the groups, and to the operator's script."""
    values = {
        "name": bulk("billing"),
        "consumers": integer(1),
        "pending": integer(0),
        "last_delivered_id": bulk("5-0"),
        "entries_read": integer(5),
        "lag": integer(0),
        "length": integer(5),
        "oldest": NIL,
        "owned": integer(0),
        "owners": bulk(""),
        **changes,
    }
    listed = ("name", "consumers", "pending", "last_delivered_id", "entries_read", "lag")
    script = ("pending", "consumers", "last_delivered_id", "entries_read", "lag")
    owned = array(*(values[name] for name in ("oldest", "owned", "owners")))
    return {
        "XINFO GROUPS": array(fields(**{name: values[name] for name in listed})),
        "EVAL PROBE_GROUP": array(array(*(values[name] for name in script)), values["length"], owned),
    }


def consumers(*names: bytes) -> dict[str, Reply]:
    """Return the replies that list consumers."""
    lines = (array(bulk(name), integer(0), integer(1)) for name in names)
    return {
        "XINFO CONSUMERS": array(*(fields(name=bulk(name), pending=integer(0), idle=integer(1)) for name in names)),
        "EVAL LIST_CONSUMERS": array(*lines),
    }


def pending(message_id: bytes, owner: bytes) -> dict[str, Reply]:
    """Return the replies that list one pending entry."""
    line = array(array(bulk(message_id), bulk(owner), integer(1), integer(1)))
    summary = array(integer(1), bulk(message_id), bulk(message_id), array(array(bulk(owner), bulk("1"))))
    return {
        "XPENDING": lambda _, command: summary if len(command) == 3 else line,
        "EVAL LIST_PENDING": line,
        **group(pending=integer(1), oldest=bulk(message_id), owned=integer(1), owners=bulk(owner + b" 1")),
    }


OK, NIL = b"+OK\r\n", b"$-1\r\n"
WORKING: Mapping[str, Reply] = {
    **group(),
    **consumers(b"orders-consumer-a"),
    "XINFO STREAM": fields(length=integer(5), last_generated_id=bulk("5-0"), entries_added=integer(5)),
    "XLEN": integer(5),
    "XPENDING": lambda _, command: array(integer(0), NIL, NIL, NIL) if len(command) == 3 else array(),
    "EVAL LIST_PENDING": array(),
    "EVAL LAST_GENERATED_ID": bulk("5-0"),
    "HGETALL": array(),
    "HMGET": array(NIL),
    "HSCAN": array(bulk("0"), array()),
    "TIME": array(bulk("1700000000"), bulk("0")),
    "EVAL": integer(0),
    "XREAD": b"*-1\r\n",
    "XRANGE": array(),
    "INFO": bulk("redis_version:7.2.0\r\n"),
    "PING": b"+PONG\r\n",
    "SENTINEL": array(bulk(HOST), bulk("1")),
    "CLUSTER": array(array(integer(0), integer(SLOTS - 1), array(bulk(HOST), integer(1), bulk("a")))),
}
"""The replies of the working server. All other commands succeed with OK."""

SCRIPTS = {
    word.encode(): f"EVAL {name}"
    for name, script in vars(scripts).items()
    if isinstance(script, scripts.Script)
    for word in (script, script.sha1)
}
COMMANDS = tuple(dict.fromkeys(name for name in WORKING if name.startswith(("XINFO", "XLEN", "XPENDING", "EVAL"))))
"""The commands that read the state of a group. EVAL stands for the scripts that `WORKING` does not name."""

HANDSHAKE = ("AUTH", "SELECT", "CLIENT", "HELLO", "CLUSTER", "SENTINEL", "PING", "READONLY")

ODD_REPLIES: Mapping[str, bytes] = {
    "simple_string": b"+surprise\r\n",
    "empty_bulk": bulk(""),
    "binary_bulk": bulk(b"\xff\xfe\x00\x80"),
    "null_bulk": b"$-1\r\n",
    "null_array": b"*-1\r\n",
    "empty_array": b"*0\r\n",
    "number": integer(7),
    "negative_number": integer(-7),
    "400_digits": integer(DIGITS),
    "number_beyond_64_bits": integer(2**64),
    "odd_number_of_fields": array(bulk("name")),
    "nested_nulls": array(array(b"$-1\r\n", b"*-1\r\n"), b"$-1\r\n"),
    "array_of_arrays": array(array(array(array())), array()),
    "array_of_errors": array(b"-ERR inside\r\n", b"-ERR inside\r\n"),
    "map": b"%1\r\n" + bulk("name") + bulk("billing"),
    "set": b"~1\r\n" + bulk("name"),
    "boolean": b"#t\r\n",
    "null": b"_\r\n",
    "double": b",nan\r\n",
    "big_number": b"(" + DIGITS + b"\r\n",
    "verbatim": b"=8\r\ntxt:some\r\n",
    "attribute": b"|1\r\n+key\r\n+value\r\n+OK\r\n",
    "push": b">2\r\n+invalidate\r\n*0\r\n",
    "streamed_string": b"$?\r\n;4\r\nsome\r\n;0\r\n",
    "unknown_type": b"@what\r\n",
    "bulk_error": b"!9\r\nERR a\r\nb\r\n",
    "not_resp": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "negative_size": b"$-5\r\n",
    "negative_length": b"*-7\r\n",
    "size_of_400_digits": b"$" + DIGITS + b"\r\n",
    "length_of_400_digits": b"*" + DIGITS + b"\r\n",
    "no_terminator": b"$3\r\nabcdef\r\n",
}
"""Replies of a type or a value that the product does not expect."""


def command_name(command: Command) -> str:
    """Return the name of a command, with its subcommand or its script if `WORKING` contains it."""
    if len(command) > 1 and command[1] in SCRIPTS:
        name = SCRIPTS[command[1]]
        return name if name in WORKING else "EVAL"
    words = [word.decode(errors="replace").upper() for word in command[:2]]
    return " ".join(words) if " ".join(words) in WORKING else words[0] if words else ""


def server(replies: Mapping[str, Reply] | None = None, *, default: Reply | None = None) -> Behaviour:
    """Return the working server with other replies to some commands. `default` replaces all except the handshake."""

    async def serve(connection: Connection) -> None:
        while True:
            command = await connection.read_command()
            await connection.send(_reply(connection, command))

    def _reply(connection: Connection, command: Command) -> bytes:
        name = command_name(command)
        known: Mapping[str, Reply] = {**WORKING, **(replies or {})}
        reply = known.get(name, OK)
        if default is not None and name.partition(" ")[0] not in HANDSHAKE:
            reply = default
        return reply if isinstance(reply, bytes) else reply(connection, command)

    return serve


def in_turn(replies: Iterable[bytes]) -> Reply:
    """Return a reply that is another one each time."""
    cycle = itertools.cycle(replies)
    return lambda _connection, _command: next(cycle)


def after(commands: int, then: Behaviour) -> Behaviour:
    """Return the working server that changes its behaviour after a number of commands on a connection."""

    async def serve(connection: Connection) -> None:
        for _ in range(commands):
            command = await connection.read_command()
            reply = WORKING.get(command_name(command), OK)
            await connection.send(reply if isinstance(reply, bytes) else reply(connection, command))
        await then(connection)

    return serve


def starting_with(prefix: bytes, then: bytes = b"") -> Behaviour:
    """Return a server that answers the first command with a prefix, and then repeats data or stays silent."""

    async def serve(connection: Connection) -> None:
        await connection.read_command()
        await connection.send(prefix)
        if then:
            await connection.send_forever(then)
        await connection.discard_input()

    return serve


async def silence(connection: Connection) -> None:
    """Read everything and reply to nothing."""
    await connection.discard_input()


async def never_read(_connection: Connection) -> None:
    """Neither read nor reply."""
    await asyncio.sleep(3600)


async def close(_connection: Connection) -> None:
    """Close the connection."""


async def one_byte_per_second(connection: Connection) -> None:
    for byte in itertools.cycle(array(*[bulk("a")] * 1000)):
        await connection.send(bytes([byte]))
        await asyncio.sleep(1)


async def greet_first(connection: Connection) -> None:
    """Send replies that no command asked for, and then work."""
    await connection.send(OK * 10_000 + integer(7) * 10_000)
    await server()(connection)


async def answer_each_command_many_times(connection: Connection) -> None:
    while True:
        await connection.read_command()
        await connection.send(array(*[integer(1)] * 5) * 100)


async def tls_garbage(connection: Connection) -> None:
    """Answer the TLS handshake with records of random content."""
    await connection.send(b"\x16\x03\x03\x40\x00" + b"\xa5" * 0x4000)
    await connection.send_forever(b"\x17\x03\x03\x40\x00" + b"\xa5" * 0x4000)


async def late(connection: Connection) -> None:
    """Work, but reply to each command just before the client gives up."""
    while True:
        command = await connection.read_command()
        await asyncio.sleep(4)
        reply = WORKING.get(command_name(command), OK)
        await connection.send(reply if isinstance(reply, bytes) else b"")


def _redirect(kind: bytes) -> Reply:
    return lambda connection, _command: b"-%s 0 %s:%d\r\n" % (kind, HOST.encode(), connection.port)


def _many_consumers() -> bytes:
    line = array(bulk("orders-consumer-aaaaaaaaaa-aaaaa"), integer(0), integer(1))
    return b"*%d\r\n" % MANY_CONSUMERS + line * MANY_CONSUMERS


def _many_owners() -> dict[str, Reply]:
    return group(owners=bulk(b"orders-consumer-a 1 " * MANY_CONSUMERS), owned=integer(MANY_CONSUMERS))


def _slots(connection: Connection, _command: Command) -> bytes:
    """Return one node for each slot. All nodes have the address of this server."""
    node = array(bulk(HOST), integer(connection.port), bulk("a" * 40))
    return array(*(array(integer(slot), integer(slot), node) for slot in range(SLOTS)))


MARKUP = b"\x1b]0;owned\x07\x1b[31m\xe2\x80\xae\xc2\x9b2J"
"""Escape sequences of terminals: a window title, a colour, a bidirectional override, and C1 control characters."""

BEHAVIOURS: Mapping[str, Behaviour] = {
    "endless_bulk": starting_with(b"$9223372036854775807\r\n", ENDLESS),
    "endless_bulk_within_64_mebibytes": starting_with(b"$67108864\r\n", ENDLESS),
    "endless_array": starting_with(b"*2147483647\r\n", b":1\r\n" * 10_000),
    "endless_array_of_bulks": starting_with(b"*2147483647\r\n", bulk(b"x" * 100) * 600),
    "endless_line": starting_with(b"+", ENDLESS),
    "endless_error": starting_with(b"-ERR ", ENDLESS),
    "endless_number": starting_with(b":", b"9" * 65536),
    "endless_nesting": starting_with(b"", b"*1\r\n" * 16384),
    "deep_nesting": server(default=lambda *_: b"*1\r\n" * DEPTH + b":1\r\n"),
    "declared_bulk_size": starting_with(b"$536870912\r\n"),
    "declared_array_length": starting_with(b"*1000000000\r\n"),
    "declared_nested_lengths": starting_with(b"*16777216\r\n" * 64),
    "declared_map_length": starting_with(b"%1000000000\r\n"),
    "silence_at_connect": never_read,
    "silence_after_1_command": after(1, silence),
    "silence_after_3_commands": after(3, silence),
    "silence_after_5_commands": after(5, silence),
    "silence_after_7_commands": after(7, silence),
    "close_at_connect": close,
    "close_after_1_command": after(1, close),
    "close_after_3_commands": after(3, close),
    "close_after_5_commands": after(5, close),
    "close_after_7_commands": after(7, close),
    "one_byte_per_second": one_byte_per_second,
    "late": late,
    "unsolicited_replies": greet_first,
    "repeated_replies": answer_each_command_many_times,
    "moved": server(default=_redirect(b"MOVED")),
    "ask": server(default=_redirect(b"ASK")),
    "loading": server(default=b"-LOADING for ever\r\n"),
    "no_auth": server(default=b"-NOAUTH Authentication required.\r\n"),
    "odd_handshake": server(dict.fromkeys(["AUTH", "SELECT", "CLIENT"], in_turn(ODD_REPLIES.values()))),
    "odd_replies_in_turn": server(default=in_turn(ODD_REPLIES.values())),
    "huge_error": server(default=lambda *_: b"-ERR " + b"x" * 10_000_000 + b"\r\n"),
    "markup_in_error": server(default=b"-ERR " + MARKUP + b"\r\n"),
    "markup_in_error_code": server(default=b"-" + MARKUP + b" x\r\n"),
    "markup_in_names": server({**consumers(MARKUP), **pending(b"1-0", MARKUP)}),
    "markup_in_ids": server({**group(last_delivered_id=bulk(MARKUP)), "EVAL LAST_GENERATED_ID": bulk(MARKUP)}),
    "huge_consumers": server(dict.fromkeys(consumers(), lambda *_: _many_consumers())),
    "huge_owners": server(_many_owners()),
    "huge_id": server(group(last_delivered_id=bulk(b"1" * 10_000_000))),
    "huge_hash": server(default=lambda *_: b"*%d\r\n" % (2 * MANY_FIELDS) + bulk("aaaaaaaa") * 2 * MANY_FIELDS),
    "counts_of_400_digits": server(
        group(pending=integer(DIGITS), lag=integer(DIGITS), owned=integer(DIGITS), consumers=integer(DIGITS))
    ),
    "counts_as_text_of_400_digits": server(
        group(pending=bulk(DIGITS), consumers=bulk(DIGITS), entries_read=bulk(DIGITS), owners=bulk(b"a " + DIGITS))
    ),
    "lengths_of_400_digits": server({**group(length=bulk(DIGITS)), "XLEN": bulk(DIGITS)}),
    "largest_integers": server(
        group(**dict.fromkeys(("pending", "consumers", "entries_read", "lag", "length"), integer(2**63 - 1)))
    ),
    "negative_counts": server(
        {**group(pending=integer(-1), consumers=integer(-5), lag=integer(-2), length=integer(-1)), "XLEN": integer(-1)}
    ),
    "counts_beyond_63_bits": server(group(pending=bulk(str(2**63)), lag=bulk(str(2**64)))),
    "fractions": server(group(pending=bulk("1.5"), lag=bulk("nan"), entries_read=bulk("inf"), consumers=bulk("1e9"))),
    "unicode_digits": server(group(pending=bulk("\u0661"), lag=bulk("\u00b2"), consumers=bulk("1_000"))),
    "counts_with_spaces": server(group(pending=bulk(" 1 "), lag=bulk("+1"), consumers=bulk("\n1"))),
    "lag_of_another_type": server(group(lag=array(), entries_read=array(), owned=NIL, owners=array())),
    "errors_inside_the_group": server(group(pending=b"-ERR a\r\n", lag=b"-ERR b\r\n", length=b"-ERR c\r\n")),
    "ids_of_400_digits": server(
        {**pending(DIGITS + b"-0", b"a"), **group(last_delivered_id=bulk(DIGITS + b"-" + DIGITS), oldest=bulk(DIGITS))}
    ),
    "largest_ids": server(
        {**pending(LARGEST_ID, b"a"), **group(last_delivered_id=bulk(LARGEST_ID), oldest=bulk(LARGEST_ID))}
    ),
    "ids_that_are_no_ids": server({**pending("\u00b2-0".encode(), b"a"), **group(last_delivered_id=bulk("x-y-z"))}),
    "ids_without_a_sequence": server({**pending(b"1", b"a"), **group(last_delivered_id=bulk("7"))}),
    "time_of_400_digits": server({"TIME": array(bulk(DIGITS), bulk("0"))}),
    "lost_group": server({**dict.fromkeys(group(), array(NIL, integer(5), NIL)), "EVAL LAST_GENERATED_ID": integer(1)}),
    "lost_group_with_a_huge_stream_id": server(
        {**dict.fromkeys(group(), array(NIL, integer(5), NIL)), "EVAL LAST_GENERATED_ID": bulk(DIGITS + b"-0")}
    ),
    **{f"{name}_to_everything": server(default=reply) for name, reply in ODD_REPLIES.items()},
    **{
        f"odd_replies_to_{name.lower().replace(' ', '_')}": server({name: in_turn(ODD_REPLIES.values())})
        for name in COMMANDS
    },
}
"""The behaviours of servers that a plain `redis://` URL names."""

SENTINEL_BEHAVIOURS: Mapping[str, Behaviour] = {
    "sentinel_port_of_400_digits": server({"SENTINEL": array(bulk(HOST), bulk(DIGITS))}),
    "sentinel_port_0": server({"SENTINEL": array(bulk(HOST), bulk("0"))}),
    "sentinel_of_itself": server({"SENTINEL": lambda link, _: array(bulk(HOST), bulk(str(link.port)))}),
    "sentinel_host_with_markup": server({"SENTINEL": array(bulk(MARKUP), bulk("6379"))}),
    "sentinel_host_is_binary": server({"SENTINEL": array(bulk(b"\xff\x00"), bulk("6379"))}),
    "sentinel_host_is_huge": server({"SENTINEL": array(bulk(b"a." * 1_000_000), bulk("6379"))}),
    "sentinel_odd_replies": server({"SENTINEL": in_turn(ODD_REPLIES.values())}),
    "sentinel_endless_bulk": starting_with(b"*2\r\n$9223372036854775807\r\n", ENDLESS),
    "sentinel_silence": silence,
    "sentinel_one_byte_per_second": one_byte_per_second,
}
CLUSTER_BEHAVIOURS: Mapping[str, Behaviour] = {
    "cluster_of_16384_nodes": server({"CLUSTER": _slots, **dict.fromkeys(group(), _redirect(b"MOVED"))}),
    "cluster_without_slots": server({"CLUSTER": array()}),
    "cluster_odd_replies": server({"CLUSTER": in_turn(ODD_REPLIES.values())}),
    "cluster_port_of_400_digits": server(
        {"CLUSTER": array(array(integer(0), integer(SLOTS), array(bulk(HOST), integer(DIGITS))))}
    ),
    "cluster_host_is_binary": server(
        {"CLUSTER": array(array(integer(0), integer(SLOTS), array(bulk(b"\xff\x00\xfe"), integer(1))))}
    ),
    "cluster_endless_array": starting_with(b"*2147483647\r\n", array(integer(0), integer(1), array()) * 1000),
    "cluster_silence": silence,
}
TLS_BEHAVIOURS: Mapping[str, Behaviour] = {
    "tls_garbage": tls_garbage,
    "tls_silence": silence,
    "tls_one_byte_per_second": one_byte_per_second,
    "tls_close": close,
}
