"""A memory limit for a process, as the kubelet sets it for a container: a control group of version 1 or 2."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.cluster import cgroups
from tests.cluster.errors import MissingTool


class MemoryLimit:
    """A control group with a memory limit for the duration of a context. Requires root."""

    def __init__(self, mebibytes: int) -> None:
        self._bytes = mebibytes << 20
        self._name = f"streamconsumer-test-{uuid.uuid4().hex[:8]}"
        self._folder = Path()

    @property
    def command_prefix(self) -> Sequence[str]:
        """A command that runs another command in the group."""
        return ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh")

    def kills(self) -> int:
        """Return the number of processes that the kernel has killed because of the limit."""
        for name in ("memory.events", "memory.oom_control"):
            if (file := self._folder / name).exists():
                values = dict(line.split() for line in file.read_text().splitlines())
                return int(values["oom_kill"])
        raise AssertionError(f"no event counter in {self._folder}")

    def peak_mebibytes(self) -> float:
        files = [self._folder / name for name in ("memory.peak", "memory.max_usage_in_bytes")]
        return next(int(file.read_text()) for file in files if file.exists()) / 2**20

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise MissingTool("root is needed for a control group with a memory limit")
        cgroups.create(self._name)
        is_version_2 = (cgroups.ROOT / "cgroup.controllers").exists()
        self._folder = cgroups.ROOT / self._name if is_version_2 else cgroups.ROOT / "memory" / self._name
        limit = "memory.max" if is_version_2 else "memory.limit_in_bytes"
        (self._folder / limit).write_text(str(self._bytes))
        return self

    def __exit__(self, *raised: object) -> None:
        cgroups.remove(self._name)
