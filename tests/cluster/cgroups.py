"""The control groups that a node's pods run in, one tree a node, named like its run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The root of each hierarchy: one for version 2, one a controller for version 1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [entry for entry in sorted(ROOT.glob("*")) if entry.is_dir() and not entry.is_symlink()]


def create(name: str) -> None:
    """Make the tree, since the kubelet only works below a root that is already there."""
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def remove(name: str, timeout: float = 5.0) -> None:
    """Remove the tree; the kernel lets a group go a moment after its last process has gone."""
    deadline = time.monotonic() + timeout
    while not _try_remove(name) and time.monotonic() < deadline:
        time.sleep(0.02)


def _try_remove(name: str) -> bool:
    for hierarchy in hierarchies():
        for group in sorted((hierarchy / name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
    return not any((hierarchy / name).exists() for hierarchy in hierarchies())
