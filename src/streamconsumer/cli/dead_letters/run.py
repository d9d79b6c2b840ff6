"""Runs the commands of `dead-letters`.

Dead letters and results are written to standard output, and all other text to standard error.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import click

from streamconsumer.cli.console import confirm, echo, echo_lines
from streamconsumer.cli.dead_letters import output
from streamconsumer.cli.target import MAX_ENTRY_BYTES, Options, Target, open_manager, open_target
from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, DeadLetterReason
from streamconsumer.processor.dead_letters.store import DeadLetterStore, rate_limited
from streamconsumer.text import to_json

PROGRESS_SECONDS = 5.0
"""Minimum number of seconds between two progress lines."""

DROP_BATCH_SIZE = 500
"""Maximum number of dead letters that one Redis command deletes."""


def run(command: str, options: Options) -> int:
    """Run the command and return its exit code. Raises InvalidSettings and BackendUnavailable."""
    commands = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}
    return asyncio.run(commands[command](options))


@asynccontextmanager
async def _open_store(options: Options) -> AsyncIterator[tuple[Target, DeadLetterStore]]:
    async with (
        open_target(options, os.environ) as target,
        open_manager(target, f"dead letters {target.dead_letter_stream!r}") as manager,
    ):
        store = DeadLetterStore(manager.execute, target.stream, target.group, target.dead_letter_stream)
        await store.check()
        yield target, store


# -- list, show --------------------------------------------------------------------------------------------------------


async def _list(options: Options) -> int:
    reasons = _reasons(options)
    async with _open_store(options) as (target, store):
        dead_letters = store.find(reasons, options["older_than"])
        if options["output"] == "json":
            await _print_json(target, dead_letters)
        elif not await _print_table(dead_letters):
            echo(f"no dead letters of group {target.group!r} in {target.dead_letter_stream!r}", err=True)
        _report_skipped(target, store)
    return 0


async def _show(options: Options) -> int:
    async with _open_store(options) as (target, store):
        dead_letter = await store.get(options["dead_letter_id"])
        if dead_letter is None:
            subject = f"dead letter {options['dead_letter_id']} in {target.dead_letter_stream!r}"
            echo(f"{subject}: not found; {_ALREADY_REMOVED}", err=True)
            return 1
        echo_lines(output.details(dead_letter, _now()))
    return 0


_ALREADY_REMOVED = "already replayed, dropped or trimmed"


async def _print_table(dead_letters: AsyncIterator[DeadLetter]) -> int:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = 0
    async for dead_letter in dead_letters:
        if not count:
            echo_lines([output.HEADER])
        echo_lines([output.row(dead_letter, _now(), width)])
        count += 1
    return count


async def _print_json(target: Target, dead_letters: AsyncIterator[DeadLetter]) -> None:
    """Print the JSON document while dead letters are still being read, because the memory may be too small for all dead
    letters."""
    header = {"stream": target.stream, "consumerGroup": target.group, "deadLetterStream": target.dead_letter_stream}
    echo(to_json(header).removesuffix("\n}") + ',\n  "deadLetters": [', nl=False)
    separator = "\n"
    async for dead_letter in dead_letters:
        echo(separator + to_json(output.as_json(dead_letter)), nl=False)
        separator = ",\n"
    echo("\n]}")


# -- replay, drop ------------------------------------------------------------------------------------------------------


async def _replay(options: Options) -> int:
    _check_selection(options)
    async with _open_store(options) as (target, store):
        selection = _Selection(store, options)
        if options["dry_run"]:
            return await _dry_run(target, store, selection, "replay")
        with _progress("replayed", selection) as progress:
            async for dead_letter in rate_limited(selection.dead_letters(), options["rate"]):
                try:
                    if await store.replay(dead_letter):
                        progress.done += 1
                    else:
                        selection.missing += 1
                except InvalidSettings as error:
                    selection.reject(error)
                progress.report()
        _report_skipped(target, store)
    return 1 if selection.rejected else 0


async def _drop(options: Options) -> int:
    _check_selection(options)
    async with _open_store(options) as (target, store):
        selection = _Selection(store, options)
        if options["dry_run"]:
            return await _dry_run(target, store, selection, "drop")
        ids = [dead_letter.dead_letter_id async for dead_letter in selection.dead_letters()]
        if ids and not _confirm(len(ids), target, options):
            return 1
        with _progress("dropped", selection) as progress:
            for start in range(0, len(ids), DROP_BATCH_SIZE):
                batch = ids[start : start + DROP_BATCH_SIZE]
                dropped = await store.drop(batch)
                progress.done += dropped
                selection.missing += len(batch) - dropped
                progress.report()
        _report_skipped(target, store)
    return 1 if selection.rejected else 0


async def _dry_run(target: Target, store: DeadLetterStore, selection: "_Selection", verb: str) -> int:
    count = await _print_table(selection.dead_letters())
    echo(f"would {verb} {_count_text(count)}; nothing was changed", err=True)
    _report_skipped(target, store)
    return 1 if selection.rejected else 0


class _Selection:
    """The dead letters that the options select."""

    def __init__(self, store: DeadLetterStore, options: Options) -> None:
        self._store, self._options = store, options
        self.missing = 0
        """Number of selected dead letters that no longer exist."""
        self.rejected = 0
        """Number of selected dead letters that cannot be processed, such as dead letters of another group."""

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Read the selected dead letters. Prints an error for each id that belongs to another group."""
        if self._options["ids"]:
            for dead_letter_id in dict.fromkeys(self._options["ids"]):
                if dead_letter := await self._get(dead_letter_id):
                    yield dead_letter
            return
        async for dead_letter in self._store.find(_reasons(self._options), self._options["older_than"]):
            yield dead_letter

    def reject(self, error: InvalidSettings) -> None:
        """Print why a dead letter cannot be processed, and count the dead letter."""
        self.rejected += 1
        echo(f"refused: {error}", err=True)

    async def _get(self, dead_letter_id: str) -> DeadLetter | None:
        try:
            dead_letter = await self._store.get(dead_letter_id)
        except InvalidSettings as error:
            self.reject(error)
            return None
        self.missing += dead_letter is None
        return dead_letter


def _check_selection(options: Options) -> None:
    by_filter = any((options["reasons"], options["older_than"]))
    selectors = [bool(options["ids"]), by_filter, options["everything"]]
    if sum(selectors) != 1:
        raise click.UsageError(
            "select dead letters either with IDS, or with the filters --reason and --older-than, or with --all"
        )


def _reasons(options: Options) -> frozenset[str]:
    reasons = frozenset(options["reasons"])
    if unknown := reasons - set(DeadLetterReason):
        expected = ", ".join(DeadLetterReason)
        raise click.UsageError(f"--reason {', '.join(sorted(unknown))}: unknown reason; expected one of {expected}")
    return reasons


def _confirm(count: int, target: Target, options: Options) -> bool:
    question = f"Drop {_count_text(count)} of group {target.group!r} of stream {target.stream!r} permanently?"
    return options["yes"] or confirm(question)


# -- progress and results ----------------------------------------------------------------------------------------------


class _Progress:
    """Counts the processed dead letters and reports the progress."""

    def __init__(self, action: str) -> None:
        self._action = action
        self.done = 0
        self._reported_at = self._started_at = time.monotonic()

    def report(self) -> None:
        """Write a progress line to standard error, at most once per PROGRESS_SECONDS."""
        now = time.monotonic()
        if now - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            echo(f"{self._action} {self.done}, {now - self._started_at:.0f} s", err=True)


@contextmanager
def _progress(action: str, selection: _Selection) -> Iterator[_Progress]:
    """Yield the progress. At the end, print the result, even if the command was interrupted."""
    progress = _Progress(action)
    try:
        yield progress
    finally:
        missing = f"; {selection.missing} {_ALREADY_REMOVED}" if selection.missing else ""
        echo(f"{action} {_count_text(progress.done)}{missing}")


def _report_skipped(target: Target, store: DeadLetterStore) -> None:
    for dead_letter_id in store.too_large:
        entry = f"entry {dead_letter_id} of {target.dead_letter_stream!r}"
        echo(f"skipped {entry}: larger than {MAX_ENTRY_BYTES} bytes; delete it with XDEL", err=True)
    if store.skipped:
        entry = "1 entry that is not a dead letter"
        entries = entry if store.skipped == 1 else f"{store.skipped} entries that are not dead letters"
        echo(f"skipped {entries} of group {target.group!r} of stream {target.stream!r}", err=True)


def _count_text(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _now() -> datetime:
    return datetime.now(UTC)
