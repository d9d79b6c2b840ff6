"""The commands of `streamconsumer dead-letters`. What they print of the letters goes to standard output, all else to
standard error."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import click

from streamconsumer.cli.dead_letters import output
from streamconsumer.cli.target import Options, Target, connected, located
from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, DeadLetterReason
from streamconsumer.processor.dead_letters.store import DeadLetterOffice, paced

PROGRESS_SECONDS = 5.0
DROP_AT_ONCE = 500


def run(command: str, options: Options) -> int:
    """The exit code."""
    commands = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}
    return asyncio.run(commands[command](options))


@asynccontextmanager
async def _opened(options: Options) -> AsyncIterator[tuple[Target, DeadLetterOffice]]:
    async with (
        located(options, os.environ) as where,
        connected(where, f"dead letters {where.dead_letters!r}") as manager,
    ):
        office = DeadLetterOffice(manager.ask, where.stream, where.group, where.dead_letters)
        await office.check()
        yield where, office


# -- looking -----------------------------------------------------------------------------------------------------------


async def _list(options: Options) -> int:
    reasons = _reasons(options)
    async with _opened(options) as (where, office):
        letters = office.find(reasons, options["older_than"])
        if options["output"] == "json":
            await _print_json(where, letters)
        elif not await _print_table(letters):
            click.echo(f"no dead letters of group {where.group!r} in {where.dead_letters!r}", err=True)
        _tell_passed_over(where, office)
    return 0


async def _show(options: Options) -> int:
    async with _opened(options) as (where, office):
        letter = await office.get(options["dead_letter_id"])
        if letter is None:
            click.echo(f"no dead letter {options['dead_letter_id']} in {where.dead_letters!r}: {_GONE}", err=True)
            return 1
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
    about = {"stream": where.stream, "consumerGroup": where.group, "deadLetterStream": where.dead_letters}
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
            for begin in range(0, len(found), DROP_AT_ONCE):
                page = found[begin : begin + DROP_AT_ONCE]
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
        async for letter in self._office.find(_reasons(self._options), self._options["older_than"]):
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
    by_filter = any((options["reasons"], options["older_than"]))
    ways = [bool(options["ids"]), by_filter, options["everything"]]
    if sum(ways) != 1:
        raise click.UsageError("say which: their IDs, or --reason, --older-than, or --all")


def _reasons(options: Options) -> frozenset[str]:
    reasons = frozenset(options["reasons"])
    if unknown := reasons - set(DeadLetterReason):
        known = ", ".join(DeadLetterReason)
        raise click.UsageError(f"--reason {', '.join(sorted(unknown))}: there is no such reason; there are {known}")
    return reasons


def _confirmed(count: int, where: Target, options: Options) -> bool:
    question = f"Drop {_letters(count)} of group {where.group!r} of stream {where.stream!r} for good?"
    return options["yes"] or click.confirm(question, err=True)


# -- telling -----------------------------------------------------------------------------------------------------------


class _Progress:
    def __init__(self, did: str) -> None:
        self._did = did
        self.done = 0
        self._told = self._begun = time.monotonic()

    def tell(self) -> None:
        """Write a line to standard error every five seconds."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            click.echo(f"{self._did} {self.done}, {now - self._begun:.0f} s", err=True)


@contextmanager
def _progress(did: str, chosen: _Chosen) -> Iterator[_Progress]:
    """With the last word, also of what was interrupted."""
    progress = _Progress(did)
    try:
        yield progress
    finally:
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
