"""Runs `streamconsumer group delete`. The result is written to standard output, and all other text to
standard error."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from streamconsumer.cli.console import confirm, echo, echo_json
from streamconsumer.cli.group.deletion import DeletionResult, delete_group
from streamconsumer.cli.target import Options, Target, open_manager, open_target
from streamconsumer.errors import InvalidSettings
from streamconsumer.model.fields import format_duration
from streamconsumer.model.status import StreamStats
from streamconsumer.operator.redis_monitor.probe import GroupRef, parse_probe, probe_commands
from streamconsumer.processor.consumer import StreamManager
from streamconsumer.processor.consumer.liveness import ABSENT_AFTER
from streamconsumer.redis_client.pipeline_client import classify_errors

REMEDY = (
    "suspend or delete the StreamConsumer, or stop the consumers; then repeat the command. A consumer is considered "
    f"alive for {format_duration(ABSENT_AFTER)} after its last registration, and until its idle time reaches "
    "delivery.minIdle"
)


def run(options: Options) -> int:
    """Run the command and return its exit code. Raises InvalidSettings and BackendUnavailable."""
    return asyncio.run(_delete(options))


async def _delete(options: Options) -> int:
    async with open_target(options, os.environ) as target:
        group_label = f"group {target.group!r} of stream {target.stream!r}"
        if target.consumer and not target.consumer.spec.suspend:
            return _reject(f"{group_label} is not deleted: StreamConsumer {target.consumer.name} is not suspended")
        async with open_manager(target, group_label) as manager:
            summary = _summary(target, await _read_stats(manager, target))
            if not options["yes"] and not _confirm(summary):
                return 1
            result = await delete_group(manager, target)
    if result.live_consumers:
        consumers = ", ".join(map(repr, sorted(result.live_consumers)))
        return _reject(f"{group_label} is not deleted: found the live consumers {consumers}, expected none")
    if not result.group_existed and not result.companion_keys:
        raise InvalidSettings(
            f"{group_label} at {target.server} does not exist and has no companion keys; "
            "check the name of the group, the name of the stream and the database number"
        )
    _print_result(group_label, summary, result, options)
    return 0


def _reject(reason: str) -> int:
    echo(f"streamconsumer: {reason}; {REMEDY}", err=True)
    return 1


async def _read_stats(manager: StreamManager, target: Target) -> StreamStats:
    group = GroupRef(target.stream, target.group, target.dead_letter_stream)
    replies = await manager.execute_pipeline(probe_commands(group))
    return parse_probe(group, [classify_errors(reply, "") for reply in replies]).stats or StreamStats()


def _summary(target: Target, stats: StreamStats) -> dict[str, Any]:
    return {
        "stream": target.stream,
        "consumerGroup": target.group,
        "server": target.server,
        "pending": stats.pending,
        "lag": stats.lag,
        "deadLetterStream": target.dead_letter_stream,
        "deadLetters": stats.dead_letters,
    }


def _confirm(summary: Mapping[str, Any]) -> bool:
    for name, value in summary.items():
        echo(f"{name}: {'unknown' if value is None else repr(value)}", err=True)
    question = "Delete the group, its pending entries and its companion keys? The dead letters stay."
    return confirm(question)


def _print_result(group_label: str, summary: Mapping[str, Any], result: DeletionResult, options: Options) -> None:
    if options["output"] == "json":
        deleted = {"groupDeleted": result.group_existed, "companionKeysDeleted": result.companion_keys}
        return echo_json({**summary, **deleted})
    outcome = "deleted" if result.group_existed else "did not exist"
    echo(f"{group_label} {outcome}; companion keys deleted: {result.companion_keys}")
    return None
