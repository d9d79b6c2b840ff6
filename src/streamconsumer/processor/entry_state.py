"""State of an entry in this process: one of six values, and the named transitions between them.

```
            start              decide, expire             finish
  queued ──────────→ running ─────────────────→ settling ────────→ done
    ↑ │                 │ interrupt                │ wait
    │ │ wait            ↓                          │
    │ └──────────→ waiting ←───────────────────────┘
    └──────────────────┘ requeue
```

Each state before `done` can become `lost`. An entry that has been released from the process is `done`.
"""

from enum import Enum
from typing import NamedTuple


class EntryState(Enum):
    """State of an entry between its admission and its removal from the in-flight table."""

    QUEUED = "queued"
    """The entry waits for a slot, or for an earlier entry with the same ordering key."""

    RUNNING = "running"
    """The entry has a slot. The result of its handler decides how the entry is settled."""

    WAITING = "waiting"
    """The entry waits for its next attempt, or for the next attempt to settle it in Redis."""

    SETTLING = "settling"
    """The attempt is decided: the handler has returned or failed, or its timeout has expired. The decision is applied
    in Redis."""

    DONE = "done"
    """The process has settled or released the entry."""

    LOST = "lost"
    """The process has given the entry up: another consumer owns the entry, or the drain timed out. The result of the
    handler has no effect."""


class Transition(NamedTuple):
    """Change of the state from one of `sources` to `target`."""

    name: str
    sources: frozenset[EntryState]
    target: EntryState


QUEUED, RUNNING, WAITING, SETTLING, DONE, LOST = EntryState

START = Transition("start", frozenset({QUEUED}), RUNNING)
DECIDE = Transition("decide", frozenset({RUNNING, SETTLING}), SETTLING)
EXPIRE = Transition("expire", frozenset({RUNNING}), SETTLING)
WAIT = Transition("wait", frozenset({RUNNING, SETTLING}), WAITING)
REQUEUE = Transition("requeue", frozenset({WAITING}), QUEUED)
FINISH = Transition("finish", frozenset({RUNNING, SETTLING}), DONE)
RELEASE = Transition("release", frozenset({QUEUED, WAITING}), DONE)
LOSE = Transition("lose", frozenset({QUEUED, RUNNING, WAITING, SETTLING}), LOST)
