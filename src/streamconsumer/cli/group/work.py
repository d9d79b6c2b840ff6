"""Runs `streamconsumer group delete`. The result is written to standard output, all other text to standard error."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click

from streamconsumer.errors import GroupKept, InvalidSettings
from streamconsumer.model.environment import variable
from streamconsumer.model.fields import format_duration

try:
    from streamconsumer.cli.group.deletion import Deletion, Group
    from streamconsumer.cli.target import Target, target
    from streamconsumer.model.status import StreamFigures
    from streamconsumer.processor.stream.watch import ABSENT
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

MOST_NAMED = 10
"""Maximum number of live consumers that an error names."""

_URLS = (variable("redis", "url"), variable("redis", "url_file"))
"""Variables that name the server in the environment of a pod."""

Options = Mapping[str, Any]


def run(options: Options) -> int:
    """Return the exit code. Raises InvalidSettings, GroupKept and ServerUnavailable."""
    _check_use(options)
    return asyncio.run(_delete(options))


def _check_use(options: Options) -> None:
    """Raises click.UsageError before any server is asked."""
    if binary := [f"--{name.replace('_', '-')}" for name, value in options.items() if not _is_utf8(value)]:
        raise click.UsageError(f"{', '.join(binary)}: expected UTF-8, found other bytes")
    named = [f"--{each}" for each in ("stream", "group") if options[each]]
    if options["name"] and named:
        raise click.UsageError(f"{', '.join(named)}: the StreamConsumer NAME already names them; give one of the two")
    if not options["name"]:
        if options["namespace"] or options["context"]:
            raise click.UsageError("-n and --context need the NAME of a StreamConsumer")
        server = options["redis_url"] or next((each for each in _URLS if each in os.environ), None)
        needed = {"--redis-url": server, "--stream": options["stream"], "--group": options["group"]}
        if missing := [option for option, given in needed.items() if not given]:
            raise click.UsageError(f"{', '.join(missing)}: missing; or give the NAME of a StreamConsumer")
    if not options["yes"] and not sys.stdin.isatty():
        raise click.UsageError("standard input is not a terminal, so no prompt is possible; give --yes to delete")


def _is_utf8(value: object) -> bool:
    """False for text that holds other bytes of the command line, as lone surrogates."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


@asynccontextmanager
async def _target(options: Options) -> AsyncIterator[Target]:
    if not options["name"]:
        yield target({**options, "file": None}, os.environ)
        return
    from streamconsumer.cli.in_cluster import in_cluster

    async with in_cluster(options, os.environ, lambda _: "forward a port and give --redis-url") as found:
        yield found


async def _delete(options: Options) -> int:
    async with _target(options) as where:
        deletion = Deletion(where)
        try:
            found, figures = await deletion.look()
            _check(where, found, deletion)
            if not options["yes"] and not _confirmed(where, found, figures):
                return 1
            deleted = await deletion.delete()
            _check(where, deleted, deletion)
        finally:
            await deletion.aclose()
    if options["output"] == "json":
        click.echo(json.dumps(_document(where, deleted, figures), ensure_ascii=False, indent=2))
    else:
        click.echo(_sentence(where, deleted, figures))
    if consumer := where.consumer:
        name = f"{consumer.namespace}/{consumer.name}"
        click.echo(f"StreamConsumer {name} still exists; after it is resumed, the group is created again", err=True)
    return 0


def _check(where: Target, found: Group, deletion: Deletion) -> None:
    """Raises GroupKept if a consumer is alive or may start, and InvalidSettings if the group does not exist."""
    whose = f"group {where.group!r} of stream {where.stream!r} at {where.server}"
    consumer = where.consumer
    name = f"{consumer.namespace}/{consumer.name}" if consumer else ""
    if found.alive:
        alive = ", ".join(map(str, found.alive[:MOST_NAMED]))
        more = f" and {len(found.alive) - MOST_NAMED} more" if len(found.alive) > MOST_NAMED else ""
        raise GroupKept(
            f"{whose} is not deleted: found live consumers {alive}{more}; expected none. "
            f"{_stop(where)}. A registered consumer counts as alive for {format_duration(ABSENT)}, an active one for "
            f"{format_duration(deletion.min_idle)}; then repeat the command"
        )
    if consumer and not consumer.spec.suspend:
        raise GroupKept(
            f"{whose} is not deleted: StreamConsumer {name} is not suspended, and the operator would create the group "
            f"again. {_stop(where)}, then repeat the command"
        )
    if not found.exists and not found.companion_keys:
        raise InvalidSettings(f"{whose} does not exist and has no companion keys; check the names and the database")


def _stop(where: Target) -> str:
    if where.consumer is None:
        return "Suspend or delete the StreamConsumer of this group, or stop the consumers"
    consumer = where.consumer
    if consumer.spec.suspend:
        return f"StreamConsumer {consumer.namespace}/{consumer.name} is suspended: wait until its pods have ended"
    command = f"kubectl streamconsumer suspend {consumer.name} -n {consumer.namespace}"
    return f"Suspend the StreamConsumer with `{command}`, or delete it"


def _confirmed(where: Target, found: Group, figures: StreamFigures) -> bool:
    """Show what the command deletes, and prompt."""
    lines = {
        "stream": repr(where.stream),
        "group": repr(where.group) if found.exists else f"{where.group!r}, which does not exist",
        "server": where.server,
        "consumers": found.consumers,
        "pending": _known(figures.pending),
        "lag": _known(figures.lag),
        "companion keys": found.companion_keys,
        "dead letters": f"{_known(figures.dead_letters)} in {where.key!r}, which stay",
    }
    for name, value in lines.items():
        click.echo(f"{name + ':':<16}{value}", err=True)
    return click.confirm("Delete the group, its pending entries and its companion keys?", err=True)


def _known(figure: int | None) -> str:
    return "unknown" if figure is None else str(figure)


def _document(where: Target, deleted: Group, figures: StreamFigures) -> dict[str, Any]:
    return {
        "stream": where.stream,
        "consumerGroup": where.group,
        "server": where.server,
        "groupDeleted": deleted.exists,
        "companionKeysDeleted": deleted.companion_keys,
        "consumers": deleted.consumers,
        "pending": figures.pending,
        "lag": figures.lag,
        "deadLetterStream": where.key,
        "deadLetters": figures.dead_letters,
    }


def _sentence(where: Target, deleted: Group, figures: StreamFigures) -> str:
    keys = "1 companion key" if deleted.companion_keys == 1 else f"{deleted.companion_keys} companion keys"
    group = f"group {where.group!r} and " if deleted.exists else ""
    sentence = f"deleted {group}{keys} of stream {where.stream!r}"
    if figures.dead_letters:
        sentence += f"; dead letters stay in {where.key!r}: {figures.dead_letters}"
    return sentence
