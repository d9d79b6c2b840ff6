"""Retry policy for exception groups, which a TaskGroup raises: one error of the group decides."""

from datetime import timedelta

import pytest

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import BatchFailed, Defer, Reject, Retry
from streamconsumer.processor.pipeline.retry_policy import main_error, process_exit
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder, fail_every_delivery

POLICY = Delivery(terminal_errors=["LookupError"])
REJECT, DEFER, RETRY = Reject("no"), Defer(timedelta(hours=1)), Retry(after=timedelta(minutes=5))
TERMINAL, FAILURE = KeyError("x"), ValueError("y")


def _nested(error: Exception, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("inner", [error])
    return error


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([FAILURE], FAILURE),
        ([FAILURE, REJECT], REJECT),
        ([DEFER, TERMINAL, FAILURE], TERMINAL),
        ([DEFER, FAILURE, RETRY], RETRY),
        ([DEFER, FAILURE], FAILURE),
        ([DEFER], DEFER),
        ([FAILURE, ExceptionGroup("inner", [DEFER, REJECT])], REJECT),
        ([_nested(REJECT, 5000), FAILURE], REJECT),
    ],
)
def test_one_error_of_a_group_decides(errors: list[Exception], expected: Exception) -> None:
    assert main_error(ExceptionGroup("tasks failed", errors), POLICY) is expected


@pytest.mark.parametrize("name", ["ExceptionGroup", "BaseExceptionGroup"])
def test_terminal_error_can_name_an_exception_group(name: str) -> None:
    policy = Delivery(terminal_errors=[name])
    inner = ExceptionGroup("inner", [FAILURE])
    assert isinstance(main_error(ExceptionGroup("tasks failed", [FAILURE, inner]), policy), ExceptionGroup)


def test_terminal_error_that_names_every_error_decides_by_an_error_in_the_group() -> None:
    policy = Delivery(terminal_errors=["Exception"])
    assert main_error(ExceptionGroup("tasks failed", [FAILURE]), policy) is FAILURE


def test_keyboard_interrupt_in_a_group_ends_the_process() -> None:
    interrupt = KeyboardInterrupt()
    assert process_exit(BaseExceptionGroup("tasks failed", [FAILURE, interrupt])) is interrupt
    assert process_exit(ExceptionGroup("tasks failed", [FAILURE])) is None
    assert process_exit(SystemExit(1)) is None


async def test_reject_of_a_task_group_becomes_a_dead_letter_that_names_the_cause(any_group: Group) -> None:
    handler = Recorder(fail_every_delivery(ExceptionGroup("tasks failed", [Reject("no such customer")])))
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_received(1)
    await any_group.wait_settled()
    [dead_letter] = await any_group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "Rejected"
    assert dead_letter["streamconsumer.error-message"] == "no such customer"
    assert len(handler.received) == 1


async def test_dead_letter_and_log_name_all_errors_of_nested_groups(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    inner = ExceptionGroup("inner", [Defer(timedelta(hours=1)), Reject("no such customer")])
    errors = [ValueError("odd total"), _nested(inner, 3)]
    handler = Recorder(fail_every_delivery(ExceptionGroup("tasks failed", errors)))
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_received(1)
    await any_group.wait_settled()
    [dead_letter] = await any_group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "Rejected"
    assert dead_letter["streamconsumer.error-type"].endswith("Reject")
    assert dead_letter["streamconsumer.error-message"] == "no such customer; also ValueError: odd total; Defer"
    [failure] = [record for record in caplog.records if record.message == "message failed; dead-lettering"]
    assert "ValueError: odd total; Defer; Reject: no such customer" in vars(failure)["error"]


async def test_batch_failures_of_several_tasks_are_merged(group: Group) -> None:
    async def handle(batch: list[dict[str, str]]) -> None:
        if len(batch) == 4:
            parts = [BatchFailed({0: Retry()}), BatchFailed({1: Reject("odd")}), BatchFailed({0: Reject("zero")})]
            raise ExceptionGroup("tasks failed", [_nested(part, 2) for part in parts])

    await group.add(4)
    processor = await group.start(handle, settings={"batch": True})
    await eventually(lambda: processor.metrics.dead_lettered == 2)
    await group.wait_settled()
    assert [each["n"] for each in await group.dead_letters()] == ["0", "1"]
    assert processor.metrics.acknowledged == 2


async def test_batch_failed_of_a_task_group_names_the_failed_messages(group: Group) -> None:
    async def handle(batch: list[dict[str, str]]) -> None:
        failures = {index: Reject("odd") for index, data in enumerate(batch) if int(data["n"]) % 2}
        raise ExceptionGroup("tasks failed", [BatchFailed(failures)])

    await group.add(4)
    processor = await group.start(handle, settings={"batch": True})
    await eventually(lambda: processor.metrics.dead_lettered == 2)
    await group.wait_settled()
    assert [each["n"] for each in await group.dead_letters()] == ["1", "3"]
