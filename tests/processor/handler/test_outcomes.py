"""Outcomes that a handler raises: `Defer`, `Retry` and the errors in `terminalErrors`."""

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Defer, Effects, Retry
from streamconsumer.processor.handler.terminal_errors import import_terminal_errors
from streamconsumer.processor.pipeline.retry_policy import ToDeadLetter, decide
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import BatchRecorder, Recorder, fail_every_delivery
from tests.processor.user_manager import UserManager

HOUR = timedelta(hours=1)


class ForgetfulDefer(Defer):
    """A subclass that does not call the constructor of its base."""

    def __init__(self) -> None:
        Exception.__init__(self, "later")


# -- constructors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [5, 0, 2.5, True, "5s", None])
def test_defer_requires_a_timedelta(after: Any) -> None:
    with pytest.raises(TypeError, match="expected a timedelta"):
        Defer(after)


@pytest.mark.parametrize("after", [5, 0, 2.5, True, "5s"])
def test_retry_requires_a_timedelta(after: Any) -> None:
    with pytest.raises(TypeError, match="expected a timedelta"):
        Retry(after=after)


@pytest.mark.parametrize("outcome", [Defer, lambda after: Retry(after=after)])
def test_delay_must_not_be_negative(outcome: Callable[[timedelta], Exception]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        outcome(timedelta(seconds=-1))
    outcome(timedelta())


async def test_invalid_delay_is_a_failure_that_ends_as_a_dead_letter(group: Group) -> None:
    async def handle(_: dict[str, str]) -> None:
        raise Defer(5)  # type: ignore[arg-type]

    group.delivery = Delivery(max_deliveries=1)
    await group.add()
    await group.start(handle)
    await eventually(group.dead_letters)
    [dead_letter] = await group.dead_letters()
    assert dead_letter["streamconsumer.error-type"] == "TypeError"


def test_subclass_without_a_delay_is_a_failure() -> None:
    assert isinstance(decide(ForgetfulDefer(), 1, Delivery(max_deliveries=1), jitter=0.5), ToDeadLetter)


# -- deferred messages -----------------------------------------------------------------------------------------------


async def test_deferred_message_has_neither_failed_nor_been_retried(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamconsumer")
    [message_id] = await group.add()
    processor = await group.start(Recorder(fail_every_delivery(Defer(HOUR, "before office hours"))))
    await eventually(lambda: processor.metrics.deferred)
    await eventually(lambda: not processor._pipeline.in_flight.ids())
    assert _counts(processor) == (0, 0, 1)
    [record] = [each for each in caplog.records if each.message == "message deferred"]
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert vars(record)["message_id"] == message_id
    assert vars(record)["after_seconds"] == 3600
    assert vars(record)["reason"] == "Defer: before office hours"
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_deferred_batch_is_one_line(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamconsumer")
    await group.add(4)
    handler = BatchRecorder(lambda _: Defer(HOUR))
    processor = await group.start(handler, settings={"batch": True})
    await eventually(lambda: processor.metrics.deferred == 4)
    assert _counts(processor) == (0, 0, 4)
    assert len([each for each in caplog.records if each.message == "batch deferred"]) == len(
        [batch for batch in handler.batches if len(batch) > 1]
    )
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_deferred_message_of_a_users_own_manager_stays_pending(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamconsumer")
    await group.add()
    manager = UserManager(group.url)
    processor = await group.start(Recorder(fail_every_delivery(Defer(HOUR))), manager=manager)
    await eventually(lambda: processor.metrics.deferred)
    assert _counts(processor) == (0, 0, 1)
    assert [each for each in caplog.records if each.message == "message deferred; it stays pending"]
    await processor.stop_listening()
    await manager.client.aclose()


# -- acknowledged messages -------------------------------------------------------------------------------------------


async def test_effects_count_as_acknowledged(any_group: Group) -> None:
    async def handle(_: dict[str, str]) -> Effects:
        return Effects().increment("handled")

    await any_group.add(3)
    processor = await any_group.start(handle)
    await eventually(lambda: processor.metrics.acknowledged == 3)
    await any_group.wait_settled()


async def test_messages_of_a_users_own_manager_count_as_acknowledged(group: Group) -> None:
    await group.add(3)
    manager = UserManager(group.url)
    processor = await group.start(Recorder(), manager=manager)
    await eventually(lambda: processor.metrics.acknowledged == 3)
    await processor.stop_listening()
    await manager.client.aclose()


# -- terminal errors -------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that no module has imported yet, whose error has an alias."""
    package = tmp_path / "terminal_shop"
    package.mkdir()
    (package / "__init__.py").write_text("from terminal_shop.errors import Unknown\n")
    (package / "errors.py").write_text("class Unknown(Exception):\n    class Inner(Exception): ...\nnot_a_class = 1\n")
    (package / "broken.py").write_text("raise SystemExit('no database')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "terminal_shop"


@pytest.mark.parametrize(
    ("name", "own_name"),
    [
        ("ValueError", "builtins.ValueError"),
        ("builtins.ValueError", "builtins.ValueError"),
        ("json.JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("asyncio.TimeoutError", "builtins.TimeoutError"),
        ("terminal_shop.Unknown", "terminal_shop.errors.Unknown"),
        ("terminal_shop.errors.Unknown", "terminal_shop.errors.Unknown"),
        ("terminal_shop.errors.Unknown.Inner", "terminal_shop.errors.Unknown.Inner"),
    ],
)
def test_terminal_error_is_imported_at_start(
    shop: str, name: str, own_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = import_terminal_errors(Delivery(terminal_errors=[name]))
    assert own_name in delivery.terminal_errors
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ValueErrorr", "no loaded module defines this exception"),
        ("terminal_shop.errors.Unknwon", "module 'terminal_shop.errors' has no 'Unknwon'"),
        ("terminal_shop.errors.not_a_class", "is int; expected an exception class"),
        ("terminal_shop.broken.Unknown", "import failed: SystemExit: no database"),
        ("no_such_shop.errors.Unknown", "module 'no_such_shop' not found"),
    ],
)
def test_unknown_terminal_error_is_reported_at_start(
    shop: str, name: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery(terminal_errors=[name, "ValueError"])
    assert import_terminal_errors(delivery).terminal_errors == [name, "ValueError", "builtins.ValueError"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert vars(record)["found"] == name
    assert problem in vars(record)["error"]


async def test_alias_of_a_terminal_error_makes_a_dead_letter(group: Group) -> None:
    group.delivery = Delivery(terminal_errors=["json.JSONDecodeError"])
    await group.add()
    handler = Recorder(fail_every_delivery(json.JSONDecodeError("odd", "{", 0)))
    await group.start(handler)
    await eventually(group.dead_letters)
    [dead_letter] = await group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "TerminalError"
    assert len(handler.received) == 1


def _counts(processor: Any) -> tuple[int, int, int]:
    metrics = processor.metrics
    return metrics.failed, metrics.retried, metrics.deferred
