"""The control groups of a node's pods: one tree for each node, named like the node's run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """Return the root of each hierarchy: a single one for version 2, one for each controller for version 1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [entry for entry in sorted(ROOT.glob("*")) if entry.is_dir() and not entry.is_symlink()]


def create(name: str) -> None:
    """Create the tree, because the kubelet requires an existing root."""
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def limit_memory(name: str, limit_bytes: int) -> Path:
    """Create a group with a memory limit. Returns the file to which a process writes its id to join the group."""
    create(name)
    root = next(hierarchy for hierarchy in hierarchies() if hierarchy in (ROOT, ROOT / "memory"))
    if root == ROOT:
        (ROOT / "cgroup.subtree_control").write_text("+memory")
    file = root / name / ("memory.max" if root == ROOT else "memory.limit_in_bytes")
    file.write_text(str(limit_bytes))
    return root / name / "cgroup.procs"


def remove(name: str, timeout: float = 5.0) -> None:
    """Remove the tree. Retries, because the kernel frees a group only after its last process is reaped."""
    deadline = time.monotonic() + timeout
    while not _try_remove(name) and time.monotonic() < deadline:
        time.sleep(0.02)


def _try_remove(name: str) -> bool:
    for hierarchy in hierarchies():
        for group in sorted((hierarchy / name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
    return not any((hierarchy / name).exists() for hierarchy in hierarchies())
