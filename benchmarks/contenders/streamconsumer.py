"""StreamConsumer as a whole pod: told by its environment, with all its guarantees, probes and figures on."""

import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.contenders.course import CONSUMER, Harness
from benchmarks.pods import environment
from streamconsumer.processor import main

handle: Callable[[Any], Coroutine[Any, Any, None]]
"""What the environment names: the course's own, put here before the pod looks for it."""


def run(course: Harness) -> None:
    job = course.job
    global handle  # noqa: PLW0603 - a pod finds its handler by a name in a module
    handle = course.handle
    os.environ |= environment(
        job.url,
        stream=job.stream,
        consumer_group=job.group,
        consumer_name=CONSUMER,
        handler_python=f"{__name__}:handle",
        batch_count=str(job.batch),
        concurrency=str(job.concurrency),
    )
    course.on_all_handled = threading.Thread(target=_finish, args=(course,), daemon=True).start
    if main.run():
        raise SystemExit("the pod could not begin; its log says why")


def _finish(course: Harness) -> None:
    course.wait_until_settled()
    os.kill(os.getpid(), signal.SIGTERM)
