"""State of an entry in this process: one of six values, and the named transitions between them.

```
            start            decide, expire              finish
  queued ──────────→ running ───────────────→ settling ─────────→ done
    ↑                   │ wait                   │ wait
    └───── waiting ←────┴────────────────────────┘
   requeue
```

If the acknowledgement of a running entry needs no separate command, the entry goes directly from `running` to `done`.
An entry that the process releases during a drain becomes `done`. Each state before `done` can become `lost`.
"""

from enum import Enum
from typing import Literal


class EntryState(Enum):
    """State of an entry between its admission and its removal from the in-flight table."""

    QUEUED = "queued"
    """The entry waits for a slot, or for an earlier entry with the same ordering key."""

    RUNNING = "running"
    """The entry has a slot. The result of its handler decides how the entry is settled."""

    WAITING = "waiting"
    """The entry waits until its handler is called again, or until the process tries again to settle the entry in
    Redis."""

    SETTLING = "settling"
    """The attempt is decided: the handler has returned or failed, or its timeout has expired. The decision is applied
    in Redis."""

    DONE = "done"
    """The process has settled or released the entry."""

    LOST = "lost"
    """The process has given the entry up: another consumer owns the entry, or the drain timed out. The result of the
    handler has no effect."""


QUEUED, RUNNING, WAITING, SETTLING, DONE, LOST = EntryState

Transition = Literal["start", "decide", "expire", "wait", "requeue", "finish", "release", "lose"]

TRANSITIONS: dict[Transition, tuple[tuple[EntryState, ...], EntryState]] = {
    "start": ((QUEUED,), RUNNING),
    "expire": ((RUNNING,), SETTLING),
    "decide": ((RUNNING, SETTLING), SETTLING),
    "wait": ((RUNNING, SETTLING), WAITING),
    "requeue": ((WAITING,), QUEUED),
    "finish": ((RUNNING, SETTLING), DONE),
    "release": ((QUEUED, WAITING), DONE),
    "lose": ((QUEUED, RUNNING, WAITING, SETTLING), LOST),
}
"""States in which each transition may occur, and the state after the transition."""
