"""`make demo`, with fewer orders."""

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.dev_process import SOURCES

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demo_shows_a_retry_and_one_whole_trace_and_loses_nothing(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)}
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
    assert not list(tmp_path.iterdir())
