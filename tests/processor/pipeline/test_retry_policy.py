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
    ],
)
def test_one_error_of_a_group_decides(errors: list[Exception], expected: Exception) -> None:
    assert main_error(ExceptionGroup("tasks failed", errors), POLICY) is expected


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


async def test_batch_failed_of_a_task_group_names_the_failed_messages(group: Group) -> None:
    async def handle(batch: list[dict[str, str]]) -> None:
        failures = {index: Reject("odd") for index, data in enumerate(batch) if int(data["n"]) % 2}
        raise ExceptionGroup("tasks failed", [BatchFailed(failures)])

    await group.add(4)
    processor = await group.start(handle, settings={"batch": True})
    await eventually(lambda: processor.metrics.dead_lettered == 2)
    await group.wait_settled()
    assert [each["n"] for each in await group.dead_letters()] == ["1", "3"]
