"""Runs `streamconsumer group delete`. The result is written to standard output, all other text to standard error."""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import click

from streamconsumer.cli.group.deletion import Outcome, delete
from streamconsumer.cli.target import Options, Target, connected, located
from streamconsumer.errors import InvalidSettings
from streamconsumer.model.fields import format_duration
from streamconsumer.model.status import StreamFigures
from streamconsumer.operator.redis_monitor.probe import Place, questions, sight
from streamconsumer.processor.consumer import StreamManager
from streamconsumer.processor.consumer.liveness import ABSENT
from streamconsumer.redis_client.errors_table import fault

REMEDY = (
    "suspend or delete the StreamConsumer, or stop the consumers; then repeat the command. A consumer counts as alive "
    f"for {format_duration(ABSENT)} after its registration, and until it is idle for delivery.minIdle"
)


def run(options: Options) -> int:
    """Return the exit code. Raises InvalidSettings and ServerUnavailable."""
    return asyncio.run(_delete(options))


async def _delete(options: Options) -> int:
    async with located(options, os.environ) as target:
        whose = f"group {target.group!r} of stream {target.stream!r}"
        if target.consumer and not target.consumer.spec.suspend:
            return _refused(f"{whose} is not deleted: StreamConsumer {target.consumer.name} is not suspended")
        async with connected(target, whose) as manager:
            figures = _shown(target, await _figures(manager, target))
            if not options["yes"] and not _confirmed(figures):
                return 1
            outcome = await delete(manager, target)
    if outcome.alive:
        alive = ", ".join(map(repr, sorted(outcome.alive)))
        return _refused(f"{whose} is not deleted: found the live consumers {alive}, expected none")
    if not outcome.existed and not outcome.companion_keys:
        raise InvalidSettings(
            f"{whose} at {target.server} does not exist and has no companion keys; check the names and the database"
        )
    click.echo(_result(whose, figures, outcome, options))
    return 0


def _refused(why: str) -> int:
    click.echo(f"streamconsumer: {why}; {REMEDY}", err=True)
    return 1


async def _figures(manager: StreamManager, target: Target) -> StreamFigures:
    place = Place(target.stream, target.group, target.dead_letters)
    answers = await manager.ask_together(questions(place))
    faults = [fault(each, "") if isinstance(each, Exception) else each for each in answers]
    return sight(place, faults).figures or StreamFigures()


def _shown(target: Target, figures: StreamFigures) -> dict[str, Any]:
    return {
        "stream": target.stream,
        "consumerGroup": target.group,
        "server": target.server,
        "pending": figures.pending,
        "lag": figures.lag,
        "deadLetterStream": target.dead_letters,
        "deadLetters": figures.dead_letters,
    }


def _confirmed(figures: Mapping[str, Any]) -> bool:
    for name, value in figures.items():
        click.echo(f"{name}: {'unknown' if value is None else repr(value)}", err=True)
    question = "Delete the group, its pending entries and its companion keys? The dead letters stay."
    return click.confirm(question, err=True)


def _result(whose: str, figures: Mapping[str, Any], outcome: Outcome, options: Options) -> str:
    if options["output"] == "json":
        deleted = {"groupDeleted": outcome.existed, "companionKeysDeleted": outcome.companion_keys}
        return json.dumps({**figures, **deleted}, ensure_ascii=False, indent=2)
    done = "deleted" if outcome.existed else "did not exist"
    return f"{whose} {done}; companion keys deleted: {outcome.companion_keys}"
