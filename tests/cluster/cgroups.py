"""The control groups of a node's pods: one tree for each node, named like the node's run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CPU_PERIOD_MICROSECONDS = 100_000


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
    group, is_v2 = _create_controlled(name, "memory")
    (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
    return group / "cgroup.procs"


def limit_cpu(name: str, share: float) -> Path:
    """Create a group with a share of one CPU. Returns the file to which a process writes its id to join the group."""
    group, is_v2 = _create_controlled(name, "cpu")
    quota, period = round(share * CPU_PERIOD_MICROSECONDS), CPU_PERIOD_MICROSECONDS
    if is_v2:
        (group / "cpu.max").write_text(f"{quota} {period}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    return group / "cgroup.procs"


def root_of(controller: str) -> Path:
    """Return the root of the hierarchy with this controller."""
    return next(each for each in hierarchies() if each == ROOT or controller in each.name.split(","))


def _create_controlled(name: str, controller: str) -> tuple[Path, bool]:
    """Create a group with a controller. Returns its folder, and True if the hierarchy has version 2."""
    create(name)
    root = root_of(controller)
    if root == ROOT:
        (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    return root / name, root == ROOT


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
