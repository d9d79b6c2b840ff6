"""StreamConsumer as a complete pod: configured by its environment, with all guarantees, probes and metrics."""

import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.contenders.harness import CONSUMER, Harness
from benchmarks.pods import environment
from streamconsumer.processor import main

handle: Callable[[Any], Coroutine[Any, Any, None]]
"""Handler that the environment names. Set to the handler of the harness before the pod loads it."""


def run(harness: Harness) -> None:
    job = harness.job
    global handle  # noqa: PLW0603 - a pod loads its handler by module and name
    handle = harness.handle
    os.environ |= environment(
        job.url,
        stream=job.stream,
        consumer_group=job.group,
        consumer_name=CONSUMER,
        handler_python=f"{__name__}:handle",
        batch_count=str(job.batch),
        concurrency=str(job.concurrency),
    )
    harness.on_all_handled = threading.Thread(target=_finish, args=(harness,), daemon=True).start
    if main.run():
        raise SystemExit("the pod failed to start; see its log")


def _finish(harness: Harness) -> None:
    harness.wait_until_settled()
    os.kill(os.getpid(), signal.SIGTERM)
