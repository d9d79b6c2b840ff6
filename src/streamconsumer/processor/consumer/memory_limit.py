"""Limits of the memory that entries may occupy, derived from the memory limit of the container.

A reply occupies up to 6 times its size in memory. A text with a single emoji needs 4 bytes for each of its characters.
While hiredis decodes a text, the received bytes and a copy of these bytes also occupy memory. A small value occupies up
to 140 bytes as an object and in the dict for the handler. VALUE_BYTES is added for each value, so that the factor 6
also covers small values. The limits leave half of the memory to the interpreter, the handler and the entries in flight.
"""

import os
import resource
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MAX_READ_BYTES = 32 * 1024 * 1024
"""Approximate size limit of the reply to one read. If entries are large, a read requests fewer entries."""

VALUE_BYTES = 16
"""Overhead in bytes that is added to the size of each field name and each value."""

_PROC, _CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits in bytes. The sizes of reads and replies include VALUE_BYTES for each value."""

    read_bytes: int
    """Approximate size of the entries that one read or one claim requests."""

    reply_bytes: int
    """Maximum size of one reply, and of one entry. An entry above this size becomes a dead letter without its
    values."""

    in_flight_bytes: int
    """Memory that large entries in flight may occupy. Above this limit, the processor reads no further entries."""


def memory_limits(max_entry_bytes: int, memory_bytes: int | None = None) -> MemoryLimits:
    """Return the limits of a process. `memory_bytes` is by default the memory that this process may use."""
    memory = memory_bytes or available_memory()
    reply_bytes = min(memory // 12, max(MAX_READ_BYTES, 2 * max_entry_bytes))
    return MemoryLimits(min(MAX_READ_BYTES, memory // 16, reply_bytes), reply_bytes, memory // 8)


@cache
def available_memory() -> int:
    """Return the memory in bytes that this process may use: the smallest of the limits of the container, the process
    and the machine."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits(_PROC, _CGROUP)]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*limits, address_space] if address_space != resource.RLIM_INFINITY else limits)


def _cgroup_limits(membership: Path, root: Path) -> list[int]:
    """Return the memory limits of this process's control group and of all groups that contain it.

    Reads cgroup versions 1 and 2. In a container, the root of the cgroup file system is often the container's own
    group."""
    limits: list[int] = []
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            hierarchy, name = root / "memory", "memory.limit_in_bytes"
        elif not controllers:
            hierarchy, name = root, "memory.max"
        else:
            continue
        group = hierarchy / path.lstrip("/")
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(hierarchy)]
        limits += [limit for folder in folders if (limit := _read_number(folder / name))]
    return limits


def _read_number(path: Path) -> int:
    """Return the number in a file. Returns 0 if the file does not exist or contains a word, such as `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
