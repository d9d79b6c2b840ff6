"""Replaces the pods of the previous version by pods of this version under load, and checks the ledger."""

import io
import random
import signal
import subprocess
import tarfile
import time
from pathlib import Path

from tests.cluster.errors import MissingTool
from tests.reliability.acceptance.group import STREAM, Group
from tests.reliability.fork_server import ROOT, ForkServer
from tests.reliability.ledger import GROUP
from tests.reliability.traffic import Producer

PREVIOUS = "72d12c1"
"""Commit before the entries got one protocol."""
PODS = 3
SETTLE_TIMEOUT_SECONDS = 120.0
SETTINGS = {
    "DELIVERY_MIN_IDLE": "3s",
    "DELIVERY_BACKOFF_MIN_DELAY": "50ms",
    "DELIVERY_BACKOFF_MAX_DELAY": "500ms",
    "CONCURRENCY": "4",
}


def measure_rollout(seconds: float, folder: Path) -> tuple[str, bool]:
    """Roll out this version, and use `seconds` for each step. Returns the report, and True if nothing was lost.

    In each step, a new pod starts and an old pod ends by SIGTERM. The second old pod is killed instead while the group
    is destroyed, so that pods of both versions restore the group.
    """
    old_source = extract(PREVIOUS, folder / "previous")
    rng = random.Random()
    with ForkServer(old_source) as old, ForkServer() as new, Group(new, folder / "rollout", **SETTINGS) as group:
        for number in range(PODS):
            group.start_pod(f"old-{number}", fork_server=old)
        with Producer(group.ledger, lambda: group.client, rng):
            for number in range(PODS):
                _wait_for_progress(group)
                time.sleep(seconds)
                group.start_pod(f"new-{number}")
                _wait_for_progress(group)
                group.pods[f"old-{number}"].signal(signal.SIGKILL if number == 1 else signal.SIGTERM)
                if number == 1:
                    group.ledger.destroy_group(group.client)
            _wait_for_progress(group)
            time.sleep(seconds)
        try:
            account = group.ledger.wait_settled(group.client, SETTLE_TIMEOUT_SECONDS, group.logs)
        except AssertionError as error:
            return f"roll-out from {PREVIOUS} under load: {error}", False
        consumers = sorted(each["name"] for each in group.client.xinfo_consumers(STREAM, GROUP))
    return f"roll-out from {PREVIOUS} under load: {account}; consumers at the end: {', '.join(consumers)}", True


def extract(commit: str, folder: Path) -> Path:
    """Write the files of a commit into a folder. Raises MissingTool if the repository does not contain the commit."""
    try:
        archive = subprocess.run(["git", "archive", commit, "src", "tests"], cwd=ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise MissingTool(f"git: found no commit {commit}; clone the repository with its history") from None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def _wait_for_progress(group: Group, count: int = 100) -> None:
    """Wait until `count` more messages have been handled."""
    target = len(group.ledger.lines("done")) + count
    group.wait(lambda: len(group.ledger.lines("done")) >= target, "the pods handle no messages")
