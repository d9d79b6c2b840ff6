"""The commands of `streamconsumer dead-letters`. What they print of the letters goes to standard output, all else to
standard error."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from streamconsumer.cli.dead_letters import output
from streamconsumer.errors import InvalidSettings

try:
    from streamconsumer.cli.target import Target, target
    from streamconsumer.processor.dead_letters import DeadLetter, DeadLetterReason, Filter
    from streamconsumer.processor.stream import StreamManager
    from streamconsumer.processor.stream.dead_letter_office import DeadLetterOffice, paced
    from streamconsumer.server.failures import told_as_ours
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

PROGRESS_SECONDS = 1.0

Options = Mapping[str, Any]


def run(command: str, options: Options) -> int:
    """The exit code."""
    commands = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}
    return asyncio.run(commands[command](options))


@asynccontextmanager
async def _opened(options: Options) -> AsyncIterator[tuple[Target, DeadLetterOffice]]:
    async with _where(options) as where:
        manager = StreamManager.from_settings(where.redis, where.stream)
        office = DeadLetterOffice(manager.ask, where.stream, where.group, where.key)
        try:
            with told_as_ours(where.where, where.advice):
                await _check(where, office)
                yield where, office
        finally:
            await manager.aclose()


@asynccontextmanager
async def _where(options: Options) -> AsyncIterator[Target]:
    """A name alone is that of a StreamConsumer in the cluster; with a file, of one in there."""
    if options["file"] is None and options["name"]:
        from streamconsumer.cli.in_cluster import in_cluster

        async with in_cluster(options, os.environ, _in_a_pod) as found:
            yield found
    elif options["namespace"] or options["context"]:
        told = "the file of -f says where its StreamConsumer is" if options["file"] is not None else "give --name too"
        raise click.UsageError(f"-n and --context say where in the cluster the StreamConsumer of --name is; {told}")
    else:
        yield target(options, os.environ)


def _in_a_pod(command: str) -> str:
    return f"run it in a pod: {command} -- streamconsumer dead-letters …; or forward a port and give --redis-url"


async def _check(where: Target, office: DeadLetterOffice) -> None:
    try:
        await office.check()
    except InvalidSettings as error:
        raise InvalidSettings(f"{where.server}: {error}") from None


# -- looking -----------------------------------------------------------------------------------------------------------


async def _list(options: Options) -> int:
    wanted = _filter(options)
    async with _opened(options) as (where, office):
        if options["output"] == "json":
            await _print_json(where, office.find(wanted))
        elif not await _print_table(office.find(wanted)):
            click.echo(f"no dead letters of group {where.group!r} in {where.key!r}", err=True)
        _tell_passed_over(where, office)
    return 0


async def _show(options: Options) -> int:
    async with _opened(options) as (where, office):
        letter = await office.get(options["dead_letter_id"])
        if letter is None:
            click.echo(f"no dead letter {options['dead_letter_id']} in {where.key!r}: {_GONE}", err=True)
            return 1
        if options["output"] == "json":
            click.echo(output.to_json(output.as_json(letter)))
        else:
            click.echo("\n".join(output.details(letter, _now())))
    return 0


_GONE = "replayed, dropped or trimmed already"


async def _print_table(letters: AsyncIterator[DeadLetter]) -> int:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = 0
    async for letter in letters:
        if not count:
            click.echo(output.HEADER)
        click.echo(output.row(letter, _now(), width))
        count += 1
    return count


async def _print_json(where: Target, letters: AsyncIterator[DeadLetter]) -> None:
    """One document, written as it is read: there may be more than fits into memory."""
    about = {"stream": where.stream, "consumerGroup": where.group, "deadLetterStream": where.key}
    click.echo(output.to_json(about).removesuffix("\n}") + ',\n  "deadLetters": [', nl=False)
    between = "\n"
    async for letter in letters:
        click.echo(between + output.to_json(output.as_json(letter)), nl=False)
        between = ",\n"
    click.echo("\n]}")


# -- doing -------------------------------------------------------------------------------------------------------------


async def _replay(options: Options) -> int:
    _check_which(options)
    async with _opened(options) as (where, office):
        chosen = _Chosen(office, options)
        if options["dry_run"]:
            return await _dry_run(where, office, chosen, "replay")
        with _progress("replayed", chosen) as progress:
            async for letter in paced(chosen.letters(), options["rate"]):
                if await office.replay(letter):
                    progress.done += 1
                else:
                    chosen.gone += 1
                progress.tell()
        _tell_passed_over(where, office)
    return 1 if chosen.refused else 0


async def _drop(options: Options) -> int:
    _check_which(options)
    async with _opened(options) as (where, office):
        chosen = _Chosen(office, options)
        if options["dry_run"]:
            return await _dry_run(where, office, chosen, "drop")
        found = [letter.dead_letter_id async for letter in chosen.letters()]
        if found and not _confirmed(len(found), where, options):
            return 1
        with _progress("dropped", chosen) as progress:
            for begin in range(0, len(found), 1000):
                page = found[begin : begin + 1000]
                dropped = await office.drop(page)
                progress.done += dropped
                chosen.gone += len(page) - dropped
                progress.tell()
        _tell_passed_over(where, office)
    return 1 if chosen.refused else 0


async def _dry_run(where: Target, office: DeadLetterOffice, chosen: "_Chosen", verb: str) -> int:
    count = await _print_table(chosen.letters())
    click.echo(f"would {verb} {_letters(count)}; nothing was done", err=True)
    _tell_passed_over(where, office)
    return 1 if chosen.refused else 0


class _Chosen:
    """The letters that the options choose."""

    def __init__(self, office: DeadLetterOffice, options: Options) -> None:
        self._office, self._options = office, options
        self.gone = 0
        """Named, or seen a moment ago, and not there."""
        self.refused = 0

    async def letters(self) -> AsyncIterator[DeadLetter]:
        if self._options["ids"]:
            for dead_letter_id in dict.fromkeys(self._options["ids"]):
                if letter := await self._get(dead_letter_id):
                    yield letter
            return
        async for letter in self._office.find(_filter(self._options)):
            yield letter

    async def _get(self, dead_letter_id: str) -> DeadLetter | None:
        try:
            letter = await self._office.get(dead_letter_id)
        except InvalidSettings as error:
            self.refused += 1
            click.echo(f"refused: {error}", err=True)
            return None
        self.gone += letter is None
        return letter


def _check_which(options: Options) -> None:
    by_filter = any((options["reasons"], options["older_than"], options["newer_than"], options["origin_id"]))
    ways = [bool(options["ids"]), by_filter, options["everything"]]
    if sum(ways) != 1:
        raise click.UsageError("say which: their IDs, or --reason, --older-than, --newer-than, --origin-id, or --all")


def _filter(options: Options) -> Filter:
    reasons = frozenset(options["reasons"])
    if unknown := reasons - set(DeadLetterReason):
        known = ", ".join(DeadLetterReason)
        raise click.UsageError(f"--reason {', '.join(sorted(unknown))}: there is no such reason; there are {known}")
    return Filter(reasons, options["older_than"], options["newer_than"], options["origin_id"])


def _confirmed(count: int, where: Target, options: Options) -> bool:
    if options["yes"]:
        return True
    if not sys.stdin.isatty():
        raise InvalidSettings(f"{_letters(count)} would be dropped for good, and nobody is there to ask; say --yes")
    question = f"Drop {_letters(count)} of group {where.group!r} of stream {where.stream!r} for good?"
    return click.confirm(question, err=True)


# -- telling -----------------------------------------------------------------------------------------------------------


class _Progress:
    def __init__(self, did: str) -> None:
        self._did = did
        self.done = 0
        self._told = self._begun = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def tell(self) -> None:
        """Once a second: over the line before on a terminal, else a line more."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            line = f"{self._did} {self.done}, {now - self._begun:.0f} s"
            click.echo(f"\r{line}" if self._is_terminal else line, nl=not self._is_terminal, err=True)

    def end(self) -> None:
        if self._is_terminal and self._told != self._begun:
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def _progress(did: str, chosen: _Chosen) -> Iterator[_Progress]:
    """With the last word, also of what was interrupted."""
    progress = _Progress(did)
    try:
        yield progress
    finally:
        progress.end()
        gone = f"; {chosen.gone} {_GONE}" if chosen.gone else ""
        click.echo(f"{did} {_letters(progress.done)}{gone}")


def _tell_passed_over(where: Target, office: DeadLetterOffice) -> None:
    if office.passed_over:
        many = "1 entry that is" if office.passed_over == 1 else f"{office.passed_over} entries that are"
        whose = f"group {where.group!r} of stream {where.stream!r}"
        click.echo(f"passed over {many} no dead letter of {whose}", err=True)


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _now() -> datetime:
    return datetime.now(UTC)
