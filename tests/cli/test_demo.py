"""`make demo`, with fewer orders."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from examples.demo import Backlog, Result
from tests.cli.dev.dev_process import SOURCES

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_demo_shows_a_retry_and_a_complete_trace_and_loses_nothing(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)}
    environment["HTTP_PROXY"] = "http://127.0.0.1:9"  # a proxy that cannot reach the servers of the demo
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--count", "100"]
    demo = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    lines = [line.split() for line in demo.stdout.splitlines()]
    whole = next(number for number, line in enumerate(lines) if line[:1] == ["trace"])
    assert lines[whole + 1][:3] == ["send", "orders", "✓"]
    assert lines[whole + 2][:4] == ["├─", "process", "orders", "✗"]
    assert lines[whole + 3][:4] == ["└─", "process", "orders", "✓"]
    assert ["│", "acknowledged", "│", "100", "│"] in lines
    assert ["│", "handled", "twice", "│", "0", "│"] in lines
    [again] = [line for line in lines if line[1:3] == ["failed", "and"]]
    assert again[5:7] == ["2,", "after"]
    assert float(again[9]) < 2 + 1, "the example's backoff, with 1 s added for a slow machine"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("published", "acknowledged", "backlog", "is_complete"),
    [
        (100, 100, Backlog(100, pending=0, lag=0), True),
        (100, 99, Backlog(100, pending=0, lag=0), False),
        (99, 99, Backlog(99, pending=0, lag=0), False),
        (100, 100, Backlog(100, pending=1, lag=0), False),
        (100, 100, Backlog(100, pending=0, lag=None), False),
    ],
)
def test_demo_succeeds_only_if_no_order_is_lost_or_stuck(
    published: int, acknowledged: int, backlog: Backlog, *, is_complete: bool
) -> None:
    assert Result(100, published, backlog, Counter(acknowledged=acknowledged), []).is_complete is is_complete
