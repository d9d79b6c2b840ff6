"""The process of a pod: start-up errors, signals, kills, probes and logs."""

import asyncio
import os
import re
import shutil
import signal
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod

# -- shutdown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_pod_exits_without_waiting_for_its_read(
    group: Group, new_pod: NewPod, number: signal.Signals
) -> None:
    pod = new_pod("pod_handlers:log_handled", poll_interval="1m").start(new_interpreter=True)
    await pod.wait_for_log("processor started")
    await eventually(group.group_exists)
    started_at = time.monotonic()
    pod.signal(number)
    assert await pod.wait_for_exit() == 0
    assert time.monotonic() - started_at < TIMEOUT_SECONDS
    assert await group.consumers() == set()


async def test_busy_pod_finishes_its_message_and_releases_the_others(group: Group, new_pod: NewPod) -> None:
    running, *others = await group.add(5, {"seconds": "1"})
    pod = new_pod("pod_handlers:slow").start()
    await pod.wait_for_log("started")
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert [line["message_id"] for line in pod.find_log("handled")] == [running]
    pending = await group.entries()
    assert [entry.message_id for entry in pending] == others
    assert {entry.consumer for entry in pending} == {POSTPONED_CONSUMER}


@pytest.mark.parametrize("handler", ["slow", "slow_thread", "stubborn"])
async def test_pod_exits_at_the_drain_timeout_whatever_the_handler_does(
    group: Group, new_pod: NewPod, handler: str
) -> None:
    await group.add(1, {"seconds": "30"})
    pod = new_pod(f"pod_handlers:{handler}", drain_timeout="1s").start(new_interpreter=True)
    await pod.wait_for_log("started")
    started_at = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert 0.9 < time.monotonic() - started_at < TIMEOUT_SECONDS
    assert await group.pending() == 1


async def test_second_signal_ends_the_drain(group: Group, new_pod: NewPod) -> None:
    await group.add(1, {"seconds": "30"})
    pod = new_pod("pod_handlers:slow").start()
    await pod.wait_for_log("started")
    pod.signal(signal.SIGTERM)
    await pod.wait_for_log("draining: no new messages start")
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert await group.pending() == 1


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may make a PID namespace")
@pytest.mark.parametrize("moment", ["importing", "idle", "busy"])
async def test_pod_exits_on_sigterm_as_process_1(group: Group, new_pod: NewPod, moment: str) -> None:
    """The kernel gives process 1 no default actions: a signal without a handler has no effect."""
    pod = new_pod(
        {"busy": "pod_handlers:slow", "importing": "slow_import:handle"}.get(moment, "pod_handlers:log_handled")
    )
    (pod.folder / "slow_import.py").write_text("print('importing', flush=True)\nimport time; time.sleep(60)\n")
    await group.add(1, {"seconds": "1", "n": "1"})
    pod.start(command_prefix=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    if moment == "importing":
        await eventually(lambda: {"text": "importing"} in pod.log_lines)
    else:
        await pod.wait_for_log("started" if moment == "busy" else "handled")
    pod.signal(signal.SIGTERM, pod.child_pid)
    assert await pod.wait_for_exit() == 0
    if moment != "importing":
        assert await group.pending() == 0


async def test_pod_that_never_reached_its_server_exits_in_time(new_pod: NewPod, group: Group) -> None:
    group.server.pause()
    pod = new_pod("pod_handlers:log_handled").start(new_interpreter=True)
    await pod.wait_for_log("processor started")
    started_at = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert time.monotonic() - started_at < TIMEOUT_SECONDS
    group.server.resume()


async def test_restarted_pod_handles_every_message_after_kills(group: Group, new_pod: NewPod) -> None:
    ids = await group.add(300, {"seconds": "0.005"})
    pod = new_pod("pod_handlers:slow", concurrency="4")
    for kills in range(3):
        pod.start()
        await pod.wait_for_log("handled", times=40 * (kills + 1))
        pod.signal(signal.SIGKILL)
        assert await pod.wait_for_exit() == -signal.SIGKILL
    pod.start()
    await eventually(lambda: {line["message_id"] for line in pod.find_log("handled")} == set(ids))
    await group.wait_settled()
    repeated = len(pod.find_log("handled")) - len(ids)
    assert repeated <= 3 * (4 + 10), "a kill repeats at most running and unacknowledged messages"


# -- start-up errors ------------------------------------------------------------------------------------------------

BROKEN_MODULES = {
    "raises.py": "raise RuntimeError('no\\nlicence')",
    "exits.py": "import sys; sys.exit(3)",
    "syntax.py": "def handle(data)\n",
    "inner.py": "import not_installed",
    "shop.py": """
import functools
number = 7
def nothing(): ...
def two(data, more): ...
def generator(data): yield
async def async_generator(data): yield
def keyword(*, data): ...
class Generator:
    def __call__(self, data): yield
generator_object = Generator()
""",
}


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("nowhere:handle", "module 'nowhere' not found"),
        ("nowhere.deep.er:handle", "module 'nowhere' not found"),
        ("inner:handle", "module 'not_installed' not found"),
        ("raises:handle", "import failed: RuntimeError: no licence"),
        ("exits:handle", "import failed: SystemExit: 3"),
        ("syntax:handle", "import failed: SyntaxError"),
        ("shop:missing", "module 'shop' has no 'missing'; found nothing, two, generator"),
        ("shop:number", "is int; expected a function that takes one dict"),
        ("shop:nothing", "takes (); expected one argument, the message's data"),
        ("shop:two", "takes (data, more); expected one argument"),
        ("shop:keyword", "takes (*, data); expected one argument"),
        ("shop:generator", "is a generator function: calling it does not run its body"),
        ("shop:async_generator", "is a generator function: calling it does not run its body"),
        ("shop:generator_object", "is a generator function: calling it does not run its body"),
        ("not a path", "STREAMCONSUMER_HANDLER_PYTHON is 'not a path'"),
    ],
)
async def test_unusable_handler_is_reported_in_one_line(new_pod: NewPod, handler: str, expected: str) -> None:
    pod = new_pod(handler)
    for name, text in BROKEN_MODULES.items():
        (pod.folder / name).write_text(text)
    assert await pod.start().wait_for_exit() == 78
    [line] = pod.log_lines
    assert expected in line["message"]
    assert line["level"] == "CRITICAL"
    assert pod.termination_log.read_text() == line["message"]
    assert "\n" not in line["message"]


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("pod_handlers:cancel_all_tasks", "the processor failed with CancelledError"),
        ("pod_handlers:stop_event_loop", "the processor failed with RuntimeError"),
    ],
)
async def test_reason_of_an_unexpected_end_is_reported(
    group: Group, new_pod: NewPod, handler: str, expected: str
) -> None:
    """The operator copies the reason from the termination log to the StreamConsumer's condition."""
    await group.add()
    pod = new_pod(handler).start(new_interpreter=True)
    assert await pod.wait_for_exit() == 1
    [line] = [line for line in pod.log_lines if line.get("level") == "CRITICAL"]
    assert line["message"] == pod.termination_log.read_text() == expected
    assert "Traceback" in line["exc_info"], line
    assert not [line for line in pod.log_lines if "text" in line], "each line is JSON"
    assert await group.pending() == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"STREAMCONSUMER_STREAM": None}, ["STREAMCONSUMER_STREAM is missing; it is required"]),
        (
            {"STREAMCONSUMER_STREAM": None, "STREAMCONSUMER_REDIS_URL": None},
            ["STREAMCONSUMER_STREAM is missing", "STREAMCONSUMER_REDIS: set either STREAMCONSUMER_REDIS_URL or"],
        ),
        ({"STREAMCONSUMER_BATCH_COUNT": "many"}, ["STREAMCONSUMER_BATCH_COUNT is 'many'"]),
        ({"STREAMCONSUMER_POLL_INTERVAL": "1 day"}, ["STREAMCONSUMER_POLL_INTERVAL is '1 day'"]),
        ({"STREAMCONSUMER_REDIS_URL": "http://:s3cret@redis"}, ["STREAMCONSUMER_REDIS_URL"]),
        ({"STREAMCONSUMER_REDIS_URL": "redis://:s3cret/x@redis:6379/0"}, ["STREAMCONSUMER_REDIS_URL"]),
        ({"STREAMCONSUMER_REDIS_URL": "redis://:s3cret@redis:port/0"}, ["STREAMCONSUMER_REDIS_URL"]),
        ({"STREAMCONSUMER_HTTP_PORT": "99999"}, ["STREAMCONSUMER_HTTP_PORT is '99999'"]),
    ],
)
async def test_missing_or_invalid_variables_are_reported_in_one_line(
    new_pod: NewPod, environment: dict[str, str | None], expected: list[str]
) -> None:
    pod = new_pod("pod_handlers:log_handled")
    for name, value in environment.items():
        pod.environment.pop(name, None)
        if value is not None:
            pod.environment[name] = value
    assert await pod.start().wait_for_exit() == 78
    [line] = pod.log_lines
    assert all(text in line["message"] for text in expected)
    assert "s3cret" not in pod.output.read_text() + pod.termination_log.read_text()


async def test_port_in_use_is_reported_in_one_line(new_pod: NewPod, group: Group) -> None:
    pod = new_pod("pod_handlers:log_handled", http_port=str(group.server.port))
    assert await pod.start(new_interpreter=True).wait_for_exit() == 78
    [line] = pod.log_lines
    assert f"STREAMCONSUMER_HTTP_PORT is {group.server.port}" in line["message"]
    assert "in use" in line["message"]


@pytest.mark.parametrize("is_valid", [True, False])
async def test_unknown_variable_is_reported_at_start(new_pod: NewPod, is_valid: bool) -> None:
    pod = new_pod("pod_handlers:log_handled", concurency="4", log_level="WARNING")
    if not is_valid:
        pod.environment["STREAMCONSUMER_REDIS_URI"] = pod.environment.pop("STREAMCONSUMER_REDIS_URL")
    pod.start()
    lines = await pod.wait_for_log("unknown environment variable", times=1 if is_valid else 2)
    assert lines[0]["level"] == "WARNING"
    assert lines[0]["found"] == "STREAMCONSUMER_CONCURENCY"
    assert lines[0]["remedy"] == "did you mean STREAMCONSUMER_CONCURRENCY?"
    if is_valid:
        pod.signal(signal.SIGTERM)
    else:
        assert lines[1]["remedy"] == "did you mean STREAMCONSUMER_REDIS_URL?"
    assert await pod.wait_for_exit() == (0 if is_valid else 78)


async def test_password_is_never_logged(new_pod: NewPod, group: Group) -> None:
    pod = new_pod("pod_handlers:log_handled", redis_password="s3cret", log_level="DEBUG")
    pod.environment["STREAMCONSUMER_REDIS_URL"] = f"redis://:s3cret@127.0.0.1:{group.server.port}/0?password=s3cret"
    pod.start()
    port = await pod.http_port()
    await eventually(lambda: any("password" in str(line.get("message")) for line in pod.log_lines))
    await asyncio.sleep(0.2)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert port
    assert "s3cret" not in pod.output.read_text()


async def test_disabled_tls_verification_is_reported(new_pod: NewPod, group: Group) -> None:
    pod = new_pod("pod_handlers:log_handled")
    pod.environment["STREAMCONSUMER_REDIS_URL"] = f"rediss://127.0.0.1:{group.server.port}/0?ssl_cert_reqs=none"
    pod.start()
    await pod.wait_for_log("TLS certificate verification is disabled; the connection can be intercepted")
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0


# -- running --------------------------------------------------------------------------------------------------------


async def test_pod_serves_probes_and_metrics_and_logs_json(group: Group, new_pod: NewPod) -> None:
    ids = await group.add(3)
    pod = new_pod("pod_handlers:log_handled").start(new_interpreter=True)
    await pod.wait_for_log("handled", times=3)
    await group.wait_settled()
    port = await pod.http_port()

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())

    assert await asyncio.to_thread(get, "/livez") == "ok\n"
    assert await asyncio.to_thread(get, "/readyz") == "ok\n"
    families = text_string_to_metric_families(await asyncio.to_thread(get, "/metrics"))
    samples = {sample.name: sample for family in families for sample in family.samples}
    assert samples["streamconsumer_acknowledged_total"].value == 3
    assert samples["streamconsumer_delivered_total"].labels == {"stream": "orders", "consumer_group": "billing"}
    assert [line["message_id"] for line in pod.find_log("handled")] == ids
    assert {(line["level"], line["logger"], line["n"]) for line in pod.find_log("handled")} == {
        ("INFO", "shop", str(number)) for number in range(3)
    }
    assert all("time" in line for line in pod.log_lines)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0


async def test_text_log_has_one_line_per_failure(group: Group, new_pod: NewPod) -> None:
    [message_id] = await group.add()
    pod = new_pod("pod_handlers:fail", log_format="text").start()
    failure_line = re.compile(
        f"message_id={message_id} stream=orders deliveries=1 retry_after_seconds=[0-9.]+ "
        "error=ConnectionResetError: the bank hung up"
    )
    await eventually(lambda: failure_line.search(pod.output.read_text()))
    assert "Traceback" not in pod.output.read_text()


async def test_telemetry_sdk_and_operator_are_not_loaded_without_an_endpoint(group: Group, new_pod: NewPod) -> None:
    await group.add()
    pod = new_pod("pod_handlers:log_loaded_modules").start(new_interpreter=True)
    [line] = await pod.wait_for_log("loaded")
    assert line["heavy"] == [], "redis-py loads only the SDK's metrics, if they are installed"
    assert "trace_id" not in line
