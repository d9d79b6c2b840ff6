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
from streamconsumer.cli.target import Options, Target, open_manager, open_target
from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, DeadLetterReason
from streamconsumer.processor.dead_letters.store import DeadLetterStore, rate_limited

PROGRESS_SECONDS = 5.0
DROP_BATCH_SIZE = 500


def run(command: str, options: Options) -> int:
    """The exit code."""
    commands = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}
    return asyncio.run(commands[command](options))


@asynccontextmanager
async def _open_store(options: Options) -> AsyncIterator[tuple[Target, DeadLetterStore]]:
    async with (
        open_target(options, os.environ) as where,
        open_manager(where, f"dead letters {where.dead_letter_stream!r}") as manager,
    ):
        office = DeadLetterStore(manager.execute, where.stream, where.group, where.dead_letter_stream)
        await office.check()
        yield where, office


# -- looking -----------------------------------------------------------------------------------------------------------


async def _list(options: Options) -> int:
    reasons = _reasons(options)
    async with _open_store(options) as (where, office):
        letters = office.find(reasons, options["older_than"])
        if options["output"] == "json":
            await _print_json(where, letters)
        elif not await _print_table(letters):
            click.echo(f"no dead letters of group {where.group!r} in {where.dead_letter_stream!r}", err=True)
        _report_skipped(where, office)
    return 0


async def _show(options: Options) -> int:
    async with _open_store(options) as (where, office):
        letter = await office.get(options["dead_letter_id"])
        if letter is None:
            click.echo(
                f"no dead letter {options['dead_letter_id']} in {where.dead_letter_stream!r}: {_ALREADY_REMOVED}",
                err=True,
            )
            return 1
        click.echo("\n".join(output.details(letter, _now())))
    return 0


_ALREADY_REMOVED = "replayed, dropped or trimmed already"


async def _print_table(dead_letters: AsyncIterator[DeadLetter]) -> int:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = 0
    async for letter in dead_letters:
        if not count:
            click.echo(output.HEADER)
        click.echo(output.row(letter, _now(), width))
        count += 1
    return count


async def _print_json(target: Target, dead_letters: AsyncIterator[DeadLetter]) -> None:
    """One document, written as it is read: there may be more than fits into memory."""
    about = {"stream": target.stream, "consumerGroup": target.group, "deadLetterStream": target.dead_letter_stream}
    click.echo(output.to_json(about).removesuffix("\n}") + ',\n  "deadLetters": [', nl=False)
    between = "\n"
    async for letter in dead_letters:
        click.echo(between + output.to_json(output.as_json(letter)), nl=False)
        between = ",\n"
    click.echo("\n]}")


# -- doing -------------------------------------------------------------------------------------------------------------


async def _replay(options: Options) -> int:
    _check_selection(options)
    async with _open_store(options) as (where, office):
        chosen = _Selection(office, options)
        if options["dry_run"]:
            return await _dry_run(where, office, chosen, "replay")
        with _progress("replayed", chosen) as progress:
            async for letter in rate_limited(chosen.dead_letters(), options["rate"]):
                if await office.replay(letter):
                    progress.done += 1
                else:
                    chosen.missing += 1
                progress.report()
        _report_skipped(where, office)
    return 1 if chosen.rejected else 0


async def _drop(options: Options) -> int:
    _check_selection(options)
    async with _open_store(options) as (where, office):
        chosen = _Selection(office, options)
        if options["dry_run"]:
            return await _dry_run(where, office, chosen, "drop")
        found = [letter.dead_letter_id async for letter in chosen.dead_letters()]
        if found and not _confirm(len(found), where, options):
            return 1
        with _progress("dropped", chosen) as progress:
            for begin in range(0, len(found), DROP_BATCH_SIZE):
                page = found[begin : begin + DROP_BATCH_SIZE]
                dropped = await office.drop(page)
                progress.done += dropped
                chosen.missing += len(page) - dropped
                progress.report()
        _report_skipped(where, office)
    return 1 if chosen.rejected else 0


async def _dry_run(target: Target, store: DeadLetterStore, selection: "_Selection", verb: str) -> int:
    count = await _print_table(selection.dead_letters())
    click.echo(f"would {verb} {_count_text(count)}; nothing was done", err=True)
    _report_skipped(target, store)
    return 1 if selection.rejected else 0


class _Selection:
    """The letters that the options choose."""

    def __init__(self, store: DeadLetterStore, options: Options) -> None:
        self._store, self._options = store, options
        self.missing = 0
        """Named, or seen a moment ago, and not there."""
        self.rejected = 0

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        if self._options["ids"]:
            for dead_letter_id in dict.fromkeys(self._options["ids"]):
                if letter := await self._get(dead_letter_id):
                    yield letter
            return
        async for letter in self._store.find(_reasons(self._options), self._options["older_than"]):
            yield letter

    async def _get(self, dead_letter_id: str) -> DeadLetter | None:
        try:
            letter = await self._store.get(dead_letter_id)
        except InvalidSettings as error:
            self.rejected += 1
            click.echo(f"refused: {error}", err=True)
            return None
        self.missing += letter is None
        return letter


def _check_selection(options: Options) -> None:
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


def _confirm(count: int, target: Target, options: Options) -> bool:
    question = f"Drop {_count_text(count)} of group {target.group!r} of stream {target.stream!r} for good?"
    return options["yes"] or click.confirm(question, err=True)


# -- telling -----------------------------------------------------------------------------------------------------------


class _Progress:
    def __init__(self, action: str) -> None:
        self._action = action
        self.done = 0
        self._reported_at = self._started_at = time.monotonic()

    def report(self) -> None:
        """Write a line to standard error every five seconds."""
        now = time.monotonic()
        if now - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            click.echo(f"{self._action} {self.done}, {now - self._started_at:.0f} s", err=True)


@contextmanager
def _progress(action: str, selection: _Selection) -> Iterator[_Progress]:
    """With the last word, also of what was interrupted."""
    progress = _Progress(action)
    try:
        yield progress
    finally:
        gone = f"; {selection.missing} {_ALREADY_REMOVED}" if selection.missing else ""
        click.echo(f"{action} {_count_text(progress.done)}{gone}")


def _report_skipped(target: Target, store: DeadLetterStore) -> None:
    if store.skipped:
        many = "1 entry that is" if store.skipped == 1 else f"{store.skipped} entries that are"
        whose = f"group {target.group!r} of stream {target.stream!r}"
        click.echo(f"passed over {many} no dead letter of {whose}", err=True)


def _count_text(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _now() -> datetime:
    return datetime.now(UTC)
