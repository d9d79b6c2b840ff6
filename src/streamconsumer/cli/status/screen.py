"""Formats facts and findings as text.

Most texts are untrusted, so unprintable characters are escaped here, before columns are aligned and lines are wrapped.
"""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from streamconsumer.cli.console import Line, StyledLine
from streamconsumer.cli.status.facts import Facts, Finding, RedisView
from streamconsumer.text import printable

MIN_WIDTH, MAX_WIDTH = 40, 120
MAX_CELL_LENGTH, MAX_TEXT_LENGTH = 1000, 8192
"""Maximum number of characters in a table cell, and in a text that is wrapped."""

_SEVERITY_COLORS = {"error": "red", "warning": "yellow"}


def clamp_width(width: int) -> int:
    """Return the maximum length of a line for a terminal with `width` columns."""
    return min(max(width, MIN_WIDTH), MAX_WIDTH)


def lines(facts: Facts, findings: Sequence[Finding], now: datetime, width: int) -> Iterator[Line]:
    """Format the state and the problems of one StreamConsumer."""
    width = clamp_width(width)
    yield from _heading_lines(facts, width)
    for name, text in _stats_rows(facts, now).items():
        yield from wrap(f"  {name:<14}", text, width)
    yield from _pod_lines(facts, width)
    yield from _consumer_lines(facts, width)
    yield ""
    if not findings:
        yield "No problems found."
    for finding in findings:
        yield from finding_lines(finding, width)


def finding_lines(finding: Finding, width: int) -> Iterator[Line]:
    """Format a problem: the object, the observed state, the expected state and the remedy."""
    first, *others = wrap(" " * 9, f"{finding.object}: {finding.found}", width)
    yield StyledLine(f"{finding.severity.upper():<9}", first[9:], _SEVERITY_COLORS[finding.severity])
    yield from others
    yield from wrap(" " * 9 + "expected: ", finding.expected, width)
    yield from wrap(" " * 9 + "remedy: ", finding.advice, width)
    if finding.command:  # in one line, so that the command can be copied
        yield " " * 9 + "command: " + printable(finding.command)


def summary_row(facts: Facts, findings: Sequence[Finding]) -> list[str]:
    """Return the cells of one StreamConsumer's row in the table."""
    status, stats = facts.status, facts.redis.stats
    problem = findings[0].found if findings else ""
    if status is None and facts.redis.problem:
        problem = facts.redis.problem
    return [
        facts.namespace,
        facts.name,
        f"{status.ready_replicas}/{status.desired_replicas}" if status else "?",
        _number_or_unknown(stats and stats.lag),
        _number_or_unknown(stats and stats.pending),
        _number_or_unknown(stats and stats.dead_letters),
        facts.redis.source,
        problem or "-",
    ]


TABLE_HEADER = ("NAMESPACE", "NAME", "READY", "LAG", "PENDING", "DEAD-LETTERS", "SOURCE", "PROBLEM")


def table(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Format rows with aligned columns. If `width` is not None, lines are truncated to `width` characters."""
    cells = [[printable(cell, MAX_CELL_LENGTH) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        yield line if width is None or len(line) <= width else line[: width - 1] + "…"


def _heading_lines(facts: Facts, width: int) -> Iterator[Line]:
    ready = facts.conditions.get("Ready")
    state = f"{'ready' if ready.status == 'True' else 'not ready'}, {ready.reason}" if ready else "no status yet"
    text = f"{facts.namespace}/{facts.name}: {state}"
    yield StyledLine(textwrap.shorten(printable(text), width))
    yield from wrap(
        "  ", f"reads stream {facts.stream!r} in group {facts.consumer_group!r}; {_source_text(facts.redis)}", width
    )


def _source_text(redis: RedisView) -> str:
    if redis.source == "redis":
        return "values read from Redis now"
    reason = f" (Redis not read: {redis.problem})" if redis.problem else ""
    source = "last values of the operator" if redis.source == "operator" else "no values from Redis"
    return f"{source}{reason}"


def _stats_rows(facts: Facts, now: datetime) -> dict[str, str]:
    status, stats = facts.status, facts.redis.stats
    rows = {}
    if status:
        ready = f"{status.replicas} current, {status.ready_replicas} ready"
        rows["replicas"] = f"{status.desired_replicas} desired, {ready}"
    if stats:
        lower_bound = "" if stats.lag_known or stats.lag is None else " or more"
        rows["lag"] = _number_or_unknown(stats.lag) + lower_bound
        rows["pending"] = _number_or_unknown(stats.pending)
        if stats.oldest_pending_time:
            rows["pending"] += f", oldest added {_age_of(stats.oldest_pending_time, now)} ago"
        rows["dead letters"] = _number_or_unknown(stats.dead_letters)
    if (decision := facts.autoscaling) is not None:
        age = _age_of(decision.decision_time, now)
        rows["last decision"] = f"{decision.desired_replicas} pods, {decision.reason}, {age} ago: {decision.message}"
    return rows


def _pod_lines(facts: Facts, width: int) -> Iterator[str]:
    if facts.pods:
        yield ""
        rows = [(each.name, each.phase, "yes" if each.ready else "no", str(each.restarts)) for each in facts.pods]
        yield from ("  " + line for line in table([("POD", "PHASE", "READY", "RESTARTS"), *rows], width - 2))


def _consumer_lines(facts: Facts, width: int) -> Iterator[str]:
    if facts.redis.consumers:
        yield ""
        rows = [
            (each.name, str(each.pending), f"{each.idle_seconds} s", "yes" if each.is_pod else "no")
            for each in facts.redis.consumers
        ]
        yield from ("  " + line for line in table([("CONSUMER", "PENDING", "IDLE", "POD"), *rows], width - 2))


def wrap(label: str, text: str, width: int) -> list[str]:
    """Wrap the text and put the label before the text. Lines do not break at hyphens, so that commands and names can be
    copied."""
    indent = " " * len(label)
    text = printable(text, MAX_TEXT_LENGTH)
    return textwrap.wrap(text, width, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False) or [label]


def _number_or_unknown(value: Any) -> str:
    return "?" if value is None else str(value)


def _age_of(timestamp: str, now: datetime) -> str:
    """Format the time since a timestamp in the status. Returns `?` for an invalid timestamp, because a user with
    permission to write the status can store any text."""
    try:
        return format_age(datetime.fromisoformat(timestamp), now)
    except (ValueError, TypeError, OverflowError):  # TypeError: the timestamp has no time zone
        return "?"


def format_age(since: datetime, now: datetime) -> str:
    """Format the time from `since` to `now` in one unit, such as `90s`, `5m`, `3h` or `2d`."""
    seconds = max(0, (now - since) // timedelta(seconds=1))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
