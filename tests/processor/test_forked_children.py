"""Child processes that handlers start: with fork, forkserver and spawn, in pools, and in the process group of a pod."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod

METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@METHODS
@pytest.mark.parametrize("handler", ["terminate_child", "terminate_child_in_loop"])
async def test_signal_to_a_child_ends_only_the_child(group: Group, new_pod: NewPod, handler: str, method: str) -> None:
    await group.add(2, {"method": method})
    pod = new_pod(f"forking_handlers:{handler}").start(new_interpreter=True)
    ended = await pod.wait_for_log("child ended", times=2)
    assert [line["code"] for line in ended] == [-signal.SIGTERM] * 2
    await group.wait_settled()
    assert not pod.find_log("draining: no new messages start")
    await _stop(pod)


@METHODS
@pytest.mark.parametrize("handler", ["use_pool", "use_executor"])
async def test_pool_ends_without_an_effect_on_the_pod(group: Group, new_pod: NewPod, handler: str, method: str) -> None:
    await group.add(2, {"method": method})
    pod = new_pod(f"forking_handlers:{handler}").start(new_interpreter=True)
    ended = await pod.wait_for_log("pool ended", times=2)
    assert [line["results"] for line in ended] == [[2, 4, 6]] * 2
    await group.wait_settled()
    assert not pod.find_log("draining: no new messages start")
    await _stop(pod)


@METHODS
async def test_signal_to_the_process_group_does_not_cut_the_drain(group: Group, new_pod: NewPod, method: str) -> None:
    await group.add(1, {"method": method, "seconds": "2"})
    pod = new_pod("forking_handlers:keep_child").start(new_interpreter=True)
    await pod.wait_for_log("child started")
    assert pod.process
    os.killpg(pod.process.pid, signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    [handled] = pod.find_log("handled")
    assert not handled["is_child_alive"]
    assert len(pod.find_log("received signal SIGTERM")) == 1
    assert await group.pending() == 0


@METHODS
async def test_child_inherits_no_socket_of_the_pod(group: Group, new_pod: NewPod, method: str) -> None:
    await group.add(1, {"method": method, "seconds": "3600"})
    pod = new_pod("forking_handlers:keep_child", drain_timeout="1s").start(new_interpreter=True)
    [line] = await pod.wait_for_log("child started")
    assert pod.process
    assert _tcp_sockets(pod.process.pid), "the pod has connections and listens for probes"
    assert _tcp_sockets(int(line["child"])) == set()
    await _stop(pod)


@pytest.mark.parametrize("handler", ["leave_fork", "leave_fork_in_loop", "leave_fork_in_batch"])
@pytest.mark.parametrize(("leaves_by", "code"), [("return", 0), ("effects", 0), ("sys.exit", 3), ("error", 1)])
async def test_child_that_leaves_the_handler_ends(
    group: Group, new_pod: NewPod, handler: str, leaves_by: str, code: int
) -> None:
    """Without this rule the child would go on as a second consumer with the same name."""
    await group.add(3, {"leaves_by": leaves_by})
    is_batch = "true" if "batch" in handler else "false"
    pod = new_pod(f"forking_handlers:{handler}", batch_count="1", handler_batch=is_batch).start(new_interpreter=True)
    ended = await pod.wait_for_log("child ended", times=3)
    assert [line["code"] for line in ended] == [code] * 3
    await group.wait_settled()
    assert not pod.find_log("message failed; will retry")
    assert not await group.client.exists("handled")
    await _stop(pod)


async def _stop(pod: Pod) -> None:
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0


def _tcp_sockets(pid: int) -> set[str]:
    """Return the inodes of the TCP sockets that a process has open."""
    tables = "".join(Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    inodes = {fields[9] for line in tables.splitlines() if len(fields := line.split()) > 9}
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[8:-1] for link in links if link.startswith("socket:[")} & inodes


async def test_connection_during_whose_start_a_child_was_forked_is_replaced(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = group.manager()
    original: Any = manager._connection_class.connect
    opened: list[Any] = []

    async def connect(connection: Any) -> None:
        await original(connection)
        opened.append(connection)
        if len(opened) == 1:
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)  # noqa: ASYNC222 - the child ends immediately

    monkeypatch.setattr(manager._connection_class, "connect", connect)
    connection = await manager.connect()
    try:
        assert opened[1:] == [connection]
        assert not opened[0].is_connected
    finally:
        await connection.disconnect()
