"""Facts and findings as a person reads them. Pure; colours are the terminal's affair, and fall away in a pipe."""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from streamconsumer.cli.status.facts import Facts, Finding, RedisView

MIN_WIDTH, MAX_WIDTH = 40, 120
_SEVERITY_COLORS = {"error": "red", "warning": "yellow"}


def clamp_width(width: int) -> int:
    """How wide lines are at a terminal of this width."""
    return min(max(width, MIN_WIDTH), MAX_WIDTH)


def lines(facts: Facts, findings: Sequence[Finding], now: datetime, width: int) -> Iterator[str]:
    """One StreamConsumer on one screen."""
    width = clamp_width(width)
    yield from _heading_lines(facts, width)
    for name, text in _stats_rows(facts, now).items():
        yield from wrap(f"  {name:<14}", text, width)
    yield from _pod_lines(facts, width)
    yield from _consumer_lines(facts, width)
    yield ""
    if not findings:
        yield "Nothing is wrong."
    for finding in findings:
        yield from finding_lines(finding, width)


def finding_lines(finding: Finding, width: int) -> Iterator[str]:
    """What was found where, what was expected, what to do."""
    mark = click.style(f"{finding.severity.upper():<9}", fg=_SEVERITY_COLORS[finding.severity], bold=True)
    first, *more = wrap(" " * 9, f"{finding.object}: {escape_unprintable(finding.found)}", width)
    yield mark + first[9:]
    yield from more
    yield from wrap(" " * 9 + "expected: ", finding.expected, width)
    yield from wrap(" " * 9 + "do: ", finding.advice, width)


def summary_row(facts: Facts, findings: Sequence[Finding]) -> list[str]:
    """The cells of one line of many."""
    status, figures = facts.status, facts.redis.figures
    worst = findings[0].found if findings else ""
    return [
        facts.namespace,
        facts.name,
        f"{status.ready_replicas}/{status.desired_replicas}" if status else "?",
        _number_or_unknown(figures and figures.lag),
        _number_or_unknown(figures and figures.pending),
        _number_or_unknown(figures and figures.dead_letters),
        facts.redis.by,
        escape_unprintable(worst) or "-",
    ]


TABLE_HEADER = ("NAMESPACE", "NAME", "READY", "LAG", "PENDING", "DEAD", "SEEN BY", "WRONG")


def table(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Columns as wide as they must be, cut where the terminal ends."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        yield line if width is None or len(line) <= width else line[: width - 1] + "…"


def _heading_lines(facts: Facts, width: int) -> Iterator[str]:
    ready = facts.conditions.get("Ready")
    state = f"{'ready' if ready.status == 'True' else 'not ready'}, {ready.reason}" if ready else "no status yet"
    text = f"{facts.namespace}/{facts.name}: {state}"
    yield click.style(textwrap.shorten(text, width), bold=True)
    yield from wrap("  ", f"reads {facts.stream!r} as {facts.consumer_group!r}; {_source_text(facts.redis)}", width)


def _source_text(redis: RedisView) -> str:
    if redis.by == "redis":
        return "figures asked of Redis just now"
    why = f" (Redis from here: {escape_unprintable(redis.problem)})" if redis.problem else ""
    whose = "figures as the operator last saw them" if redis.by == "operator" else "nobody has seen Redis"
    return f"{whose}{why}"


def _stats_rows(facts: Facts, now: datetime) -> dict[str, str]:
    status, figures = facts.status, facts.redis.figures
    told = {}
    if status:
        told["replicas"] = f"{status.desired_replicas} wanted, {status.replicas} there, {status.ready_replicas} ready"
    if figures:
        known = "" if figures.lag_known or figures.lag is None else " or more"
        told["lag"] = _number_or_unknown(figures.lag) + known
        told["pending"] = _number_or_unknown(figures.pending)
        if figures.oldest_pending_time:
            told["pending"] += (
                f", the oldest added {format_age(datetime.fromisoformat(figures.oldest_pending_time), now)} ago"
            )
        told["dead letters"] = _number_or_unknown(figures.dead_letters)
    if (decision := facts.autoscaling) is not None:
        when = format_age(datetime.fromisoformat(decision.decision_time), now)
        told["last decision"] = f"{decision.desired_replicas} pods, {decision.reason}, {when} ago: {decision.message}"
    return told


def _pod_lines(facts: Facts, width: int) -> Iterator[str]:
    if facts.pods:
        yield ""
        rows = [(each.name, each.phase, "yes" if each.ready else "no", str(each.restarts)) for each in facts.pods]
        yield from ("  " + line for line in table([("POD", "PHASE", "READY", "RESTARTS"), *rows], width - 2))


def _consumer_lines(facts: Facts, width: int) -> Iterator[str]:
    if facts.redis.consumers:
        yield ""
        rows = [
            (escape_unprintable(each.name), str(each.pending), f"{each.idle_seconds} s", "yes" if each.is_pod else "no")
            for each in facts.redis.consumers
        ]
        yield from ("  " + line for line in table([("CONSUMER", "HOLDS", "IDLE", "IS A POD"), *rows], width - 2))


def wrap(label: str, text: str, width: int) -> list[str]:
    """Commands and names are not torn apart at their hyphens: people copy them."""
    indent = " " * len(label)
    text = escape_unprintable(text)
    return textwrap.wrap(text, width, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False) or [label]


def _number_or_unknown(value: Any) -> str:
    return "?" if value is None else str(value)


def format_age(since: datetime, now: datetime) -> str:
    seconds = max(0, (now - since) // timedelta(seconds=1))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def escape_unprintable(text: str) -> str:
    """On one line, and nothing in it that a terminal would obey: messages of handlers and names of consumers are
    anybody's."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
