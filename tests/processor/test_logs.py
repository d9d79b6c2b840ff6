"""Logs of a pod whose handler configures the logging of the process."""

import signal

import pytest

from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod


@pytest.mark.parametrize("late", [{}, {"LATE": "1"}], ids=["import", "first message"])
@pytest.mark.parametrize(
    "configuration", ["dict", "dict of other loggers", "file", "basic", "basic to a file", "no handlers"]
)
async def test_configuration_of_the_handler_does_not_silence_the_processor(
    group: Group, new_pod: NewPod, configuration: str, late: dict[str, str]
) -> None:
    await group.add()
    pod = new_pod("logging_handlers:handle").start(environment={"CONFIGURATION": configuration, **late})
    [failure] = await pod.wait_for_log("message failed; will retry")
    assert failure["level"] == "ERROR"
    assert failure["logger"] == "streamconsumer.processor.pipeline.settlement"
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert len(pod.find_log("processor started")) == 1
    assert len(pod.find_log("processor stopped")) == 1
    texts = [line["text"] for line in pod.log_lines if "text" in line]
    assert not [text for text in texts if "message" in text], "each line of the processor appears once, as JSON"


async def test_configuration_that_names_the_processor_formats_its_lines(group: Group, new_pod: NewPod) -> None:
    await group.add()
    pod = new_pod("logging_handlers:handle").start(environment={"CONFIGURATION": "dict that names streamconsumer"})
    line = {"text": "user: streamconsumer.processor.pipeline.settlement message failed; will retry"}
    await eventually(lambda: line in pod.log_lines)
    assert pod.log_lines.count(line) == 1
