"""Every output of untrusted text: logs, conditions, Events, commands, manifests and `dev`."""

import ast
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import kopf
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from streamconsumer.cli import main
from streamconsumer.cli.console import echo_json, echo_lines
from streamconsumer.cli.dead_letters import output
from streamconsumer.cli.dev import log_lines
from streamconsumer.cli.dev.terminal import Terminal
from streamconsumer.cli.dev.trace_trees import Span
from streamconsumer.cli.doctor.facts import CheckResult, Diagnosis, PassedCheck, PodCheckResult
from streamconsumer.cli.doctor.run import lines as doctor_lines
from streamconsumer.cli.manifest_files import to_yaml
from streamconsumer.cli.status import completion, screen
from streamconsumer.cli.status.facts import ConsumerFacts, Facts, Finding, Pod, RedisView
from streamconsumer.errors import BackendUnavailable
from streamconsumer.log_formatter import MAX_FIELD_LENGTH, MAX_STACK_LENGTH, PrintableFormatter
from streamconsumer.model.status import ConditionState, Readiness, Reason, StreamReason, build_conditions
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.processor import logs
from streamconsumer.processor.dead_letters.record import DeadLetter, DeadLetterReason, FailureDetails
from streamconsumer.processor.error_logging import format_error
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.text import json_printable
from tests.hostile_texts import HOSTILE_TEXTS, hidden_characters
from tests.model.examples import manifest

SOURCE = Path(__file__).parents[1] / "src" / "streamconsumer"
HOSTILE = "¦".join(HOSTILE_TEXTS)
NOW = datetime(2026, 11, 30, tzinfo=UTC)
STYLES = re.compile(r"\x1b\[(0|1|2|3[0-7]|9[0-7]|1;3[0-7])m")


def printed(*lines: Any) -> str:
    """Return what a command prints for these lines, on a terminal."""
    with redirect_stdout(io.StringIO()) as stdout:
        echo_lines(lines)
    return stdout.getvalue()


def assert_printable(text: str, *, lines: int | None = None) -> None:
    assert hidden_characters(text) <= {"\n"}
    if lines is not None:
        assert text.count("\n") == lines


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger. Its records are not formatted by pytest, which would format them without limits."""
    instance = logging.getLogger("tests.untrusted_output")
    instance.propagate = False
    yield instance
    instance.propagate = True
    instance.handlers.clear()


def log_to(logger: logging.Logger, formatter: logging.Formatter) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.handlers[:] = [handler]
    logger.setLevel("DEBUG")
    return stream


def processor_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter of a pod."""
    formatter = logs.build_handler(log_format).formatter
    assert formatter
    return formatter


def operator_formatter() -> logging.Formatter:
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        kopf.configure(log_format=kopf.LogFormat.JSON)
        [handler] = [each for each in logging.root.handlers if each not in handlers]
        assert handler.formatter
        return PrintableFormatter(handler.formatter, json_printable)
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


class HostileError(Exception):
    """An exception whose text is hostile."""


class BrokenError(Exception):
    """An exception whose `__str__` fails."""

    def __str__(self) -> str:
        raise RuntimeError(HOSTILE)


def fail(error: Exception) -> None:
    raise error from BrokenError()


@pytest.mark.parametrize("log_format", ["json", "operator"])
def test_json_log_of_hostile_texts_is_one_printable_line(logger: logging.Logger, log_format: str) -> None:
    stream = log_to(logger, operator_formatter() if log_format == "operator" else processor_formatter(log_format))
    try:
        fail(HostileError(HOSTILE))
    except HostileError:
        logger.exception("failed %s", HOSTILE, extra={"error": HOSTILE, "nested": {HOSTILE: [HOSTILE]}, "name_": "ü"})
    assert_printable(stream.getvalue(), lines=1)
    record = json.loads(stream.getvalue())
    assert record["message"].startswith(f"failed {HOSTILE[:100]}")
    assert record["name_"] == "ü"
    assert max(len(str(value)) for value in record.values()) <= MAX_STACK_LENGTH + 10
    assert len(record["error"]) == MAX_FIELD_LENGTH
    assert "HostileError" in record["exc_info"]


def test_text_log_of_hostile_texts_begins_each_record_with_its_level(logger: logging.Logger) -> None:
    stream = log_to(logger, processor_formatter("text"))
    logger.error("failed %s", HOSTILE, extra={"value": HOSTILE})
    assert_printable(stream.getvalue(), lines=1)
    try:
        fail(HostileError(HOSTILE))
    except HostileError:
        logger.exception("failed")
    _, first, *stack = stream.getvalue().splitlines()
    assert_printable(stream.getvalue())
    assert first == "ERROR failed"
    assert all(line.startswith("  ") for line in stack)
    assert len(stream.getvalue()) < 2 * MAX_STACK_LENGTH


@pytest.mark.parametrize("log_format", ["json", "text", "operator"])
def test_record_that_cannot_be_formatted_is_logged_without_its_arguments(
    logger: logging.Logger, log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = log_to(logger, operator_formatter() if log_format == "operator" else processor_formatter(log_format))
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    logger.info("%d", HOSTILE)
    logger.info(
        "value", extra={"big": 10**5000, "cyclic": cyclic, "deep": deep, "broken": BrokenError(), "key": {(): 1}}
    )
    assert_printable(stream.getvalue(), lines=2)
    assert capfd.readouterr().err == ""
    while deep:
        deep = deep.pop()


def test_log_of_a_100_mb_exception_is_short(logger: logging.Logger) -> None:
    stream = log_to(logger, processor_formatter("json"))
    try:
        fail(HostileError("x" * 100_000_000))
    except HostileError as error:
        logger.exception("failed", extra={"error": format_error(error)})
    assert len(stream.getvalue()) < 2 * MAX_STACK_LENGTH
    assert "in fail" in stream.getvalue()


@pytest.mark.parametrize("place", ["main thread", "other thread"])
def test_uncaught_exception_is_printed_in_printable_form(place: str) -> None:
    code = f"""
import threading
from streamconsumer.log_formatter import print_uncaught_exceptions
print_uncaught_exceptions()
def fail():
    raise ValueError({HOSTILE[:500]!a})
if {place == "main thread"}:
    fail()
threading.Thread(target=fail).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError" in done.stderr
    assert_printable(done.stderr)


# -- the operator ------------------------------------------------------------------------------------------------------


def test_condition_with_a_hostile_message_is_one_printable_line() -> None:
    readiness = Readiness(ready=False, reason=Reason.POD_CRASHING, message=HOSTILE)
    stream = ConditionState(type="RedisReachable", status="False", reason=StreamReason.UNREACHABLE, message=HOSTILE)
    for condition in build_conditions(readiness, 1, [], NOW, [stream]):
        assert_printable(condition.message, lines=0)


async def test_event_with_a_hostile_message_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []

    async def record(_self: KubeClient, *_: Any, body: dict[str, Any]) -> None:
        bodies.append(body)

    monkeypatch.setattr(KubeClient, "_request", record)
    client = KubeClient.__new__(KubeClient)
    await client.create_event(manifest(), reason="PodCrashing", message=HOSTILE, warning=True, at=NOW)
    assert_printable(bodies[0]["note"], lines=0)
    assert len(bodies[0]["note"].encode()) <= 1024


def test_redis_error_with_a_hostile_text_is_one_printable_line_of_limited_length() -> None:
    message = classify_error(RuntimeError(HOSTILE), "stream 'orders'").message
    assert_printable(message, lines=0)
    assert len(message) < 10_000


# -- commands ----------------------------------------------------------------------------------------------------------


def hostile_facts() -> Facts:
    redis = RedisView(
        source="unknown",
        problem=HOSTILE,
        consumers=[ConsumerFacts(name=HOSTILE, pending=1, idle_seconds=1, is_pod=False)],
    )
    pods = [Pod(name=HOSTILE, phase=HOSTILE, ready=False, restarts=1, exit_message=HOSTILE)]
    names = {"namespace": HOSTILE, "name": HOSTILE, "stream": HOSTILE, "consumer_group": HOSTILE}
    return Facts(**names, generation=1, suspended=False, pods=pods, redis=redis)


FINDING = Finding(severity="error", object=HOSTILE, found=HOSTILE, expected=HOSTILE, advice=HOSTILE)


def test_status_of_hostile_texts_is_printable_and_has_limited_lines() -> None:
    table = screen.table([screen.TABLE_HEADER, screen.summary_row(hostile_facts(), [FINDING])], None)
    shown = STYLES.sub("", printed(*screen.lines(hostile_facts(), [FINDING], NOW, 80), *table))
    assert_printable(shown)
    assert max(map(len, shown.splitlines())) < 10_000


def test_doctor_of_hostile_texts_is_printable() -> None:
    passed = [PassedCheck(object=HOSTILE, found=HOSTILE)]
    pod = PodCheckResult(name=HOSTILE, passed=passed, findings=[FINDING])
    diagnosis = Diagnosis(cluster=CheckResult(passed=passed, findings=[FINDING]), pod=pod)
    assert_printable(STYLES.sub("", printed(*doctor_lines(diagnosis, 80))))


def hostile_dead_letter() -> DeadLetter:
    error = HostileError(HOSTILE)
    details = {"stream": HOSTILE, "consumer_group": HOSTILE, "consumer": HOSTILE, "message_id": HOSTILE}
    failure = FailureDetails.from_error(
        error, reason=DeadLetterReason.CRASHED, deliveries=1, traceparent=HOSTILE, **details
    )
    fields = [HOSTILE.encode(errors="replace"), HOSTILE.encode(errors="replace")]
    return DeadLetter("1-0", fields, replace(failure, reason=HOSTILE, at=HOSTILE, error_type=HOSTILE), HOSTILE)


def test_dead_letter_of_hostile_texts_is_one_printable_line_of_limited_length() -> None:
    row = printed(output.row(hostile_dead_letter(), NOW, None))
    assert_printable(row, lines=1)
    assert len(row) < 2000


def test_details_of_a_hostile_dead_letter_are_printable() -> None:
    assert_printable(printed(*output.details(hostile_dead_letter(), NOW)))


def test_json_output_of_hostile_texts_is_printable_and_exact() -> None:
    document = {"facts": hostile_facts().model_dump(), "letter": output.as_json(hostile_dead_letter())}
    with redirect_stdout(io.StringIO()) as stdout:
        echo_json(document)
    assert_printable(stdout.getvalue())
    assert json.loads(stdout.getvalue()) == document


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: ascii(text)[:20])
def test_yaml_of_hostile_texts_is_printable_and_exact(text: str) -> None:
    documents = [{text: {"list": [text, f"line\n{text}\n"]}}]
    shown = to_yaml(documents)
    assert_printable(shown)
    if "\ud800" not in text:  # PyYAML cannot read a lone surrogate back on all platforms
        assert list(yaml.safe_load_all(shown)) == documents


@pytest.mark.parametrize(
    "error",
    [BackendUnavailable(HOSTILE), click.UsageError(HOSTILE), click.BadParameter(HOSTILE)],
    ids=lambda error: type(error).__name__,
)
def test_error_of_a_command_is_printable(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("streamconsumer.model.crd.custom_resource_definition", lambda: fail(error))
    result = CliRunner().invoke(main, ["crd"])
    assert result.exit_code in (2, 3)
    assert_printable(result.stderr)


def test_completions_are_valid_names_in_one_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def names(*_: Any) -> list[dict[str, Any]]:
        return [
            {"metadata": {"name": name}} for name in ("orders", "orders\tx", "orders\nrm", "orders\x1b[2J", HOSTILE)
        ]

    class Client:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    monkeypatch.setattr(completion, "list_consumers", names)
    monkeypatch.setattr(completion, "kube_client", lambda _: Client())
    completion.print_for_kubectl(main, ["status", "-n", "shop", "ord"])
    assert capsys.readouterr().out == "orders\n:4\n"


# -- dev ---------------------------------------------------------------------------------------------------------------


def test_dev_shows_hostile_log_lines_and_traces_in_printable_form_and_without_markup() -> None:
    stream = io.StringIO()
    terminal = Terminal(Console(file=stream, highlight=False, soft_wrap=True, color_system=None))
    terminal.set_pods([HOSTILE[:100]])
    record = {"message": HOSTILE, "level": "ERROR", "error": HOSTILE, HOSTILE[:50]: HOSTILE, "exc_info": HOSTILE}
    for text in (json.dumps(record), json.dumps({**record, "error": ""}), HOSTILE):
        terminal.print_log_line(HOSTILE[:100], log_lines.parse(text), [])
    attributes = {"messaging.message.id": HOSTILE}
    span = Span(
        "1" * 32, "2" * 16, "", HOSTILE, 1, 2, is_failed=True, error=HOSTILE, attributes=attributes, pod=HOSTILE
    )
    terminal.print_trace([span])
    terminal.print_message(HOSTILE)
    assert_printable(stream.getvalue())
    assert "[red]markup[/red] [link=http://attacker.example]link[/link]" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) < 100_000


# -- all commands print through one module -----------------------------------------------------------------------------


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_only_the_console_and_the_protocol_of_completion_print() -> None:
    printing = {
        "print",
        "click.echo",
        "click.secho",
        "click.style",
        "click.confirm",
        "click.prompt",
        "sys.stdout.write",
    }
    modules = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if printing & set(calls(path))}
    assert modules == {"cli/console.py", "cli/status/completion.py"}
