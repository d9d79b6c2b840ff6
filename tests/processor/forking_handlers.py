"""Handlers that start child processes, for `test_forked_children.py`."""

import asyncio
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Event
from typing import Any

from streamconsumer.processor import Effects

log = logging.getLogger("shop")


def wait_forever(started: Event) -> None:
    started.set()
    time.sleep(3600)


def double(number: int) -> int:
    return 2 * number


def start_child(method: str) -> multiprocessing.process.BaseProcess:
    """Start a child that waits, and wait until it runs."""
    context: Any = multiprocessing.get_context(method)
    started = context.Event()
    child = context.Process(target=wait_forever, args=(started,), daemon=True)
    child.start()
    assert started.wait(60)
    log.info("child started", extra={"child": child.pid})
    return child  # type: ignore[no-any-return] # the context is untyped


def terminate_child(data: Mapping[str, str]) -> None:
    child = start_child(data["method"])
    child.terminate()
    child.join()
    log.info("child ended", extra={"code": child.exitcode})


async def terminate_child_in_loop(data: Mapping[str, str]) -> None:
    terminate_child(data)


def use_pool(data: Mapping[str, str]) -> None:
    with multiprocessing.get_context(data["method"]).Pool(2) as pool:  # ends with SIGTERM to the workers
        log.info("pool ended", extra={"results": pool.map(double, [1, 2, 3])})


def use_executor(data: Mapping[str, str]) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context(data["method"])) as pool:
        log.info("pool ended", extra={"results": list(pool.map(double, [1, 2, 3]))})


async def keep_child(data: Mapping[str, str]) -> None:
    child = start_child(data["method"])
    await asyncio.sleep(float(data["seconds"]))
    log.info("handled", extra={"is_child_alive": child.is_alive()})


def leave_fork(data: Mapping[str, str]) -> Any:
    """Fork, and leave the handler in the child: by `return`, by `sys.exit` or by an error."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        log.info("child ended", extra={"code": os.waitstatus_to_exitcode(status)})
        return None
    if data["leaves_by"] == "sys.exit":
        sys.exit(3)
    if data["leaves_by"] == "error":
        raise ConnectionResetError("the bank hung up")
    return Effects().increment("handled") if data["leaves_by"] == "effects" else None


async def leave_fork_in_loop(data: Mapping[str, str]) -> Any:
    return leave_fork(data)


async def leave_fork_in_batch(batch: list[Mapping[str, str]]) -> None:
    leave_fork(batch[0])
