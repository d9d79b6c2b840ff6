"""Children that a handler forks, for example with `multiprocessing`: a child keeps neither the signal handling nor the
sockets of this process, and ends when it leaves the handler.

Without these rules, a signal to a child would also reach this process, because both share the socket that wakes the
event loop. A child would keep the connections of a dead process open, so that other consumers would regard that process
as alive. A child that leaves the handler would continue as a second consumer with the same name. Programs that are
started with `exec`, which includes the start methods `spawn` and `forkserver`, inherit nothing.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_sockets: WeakKeyDictionary[Any, Callable[[Any], Any]] = WeakKeyDictionary()
"""Function that returns the socket of each object, or None if no socket is open."""

_tables: WeakSet[Any] = WeakSet()
"""In-flight tables of this process."""

_fork_count = 0
"""Number of children that this process has forked."""

_masks = threading.local()
"""Signal mask of the thread that forks, before the fork."""


def close_socket_in_children(owner: Any, find_socket: Callable[[Any], Any]) -> None:
    """Close a socket in each child that this process forks later. `find_socket` returns the current socket of `owner`,
    or None if no socket is open."""
    _sockets[owner] = find_socket


def fork_count() -> int:
    """Return the number of children that this process has forked. A child that was forked while a connection was being
    opened may have inherited its socket."""
    return _fork_count


def start_nothing_in_children(table: Any) -> None:
    """Register an in-flight table. Each child closes its copy of the table, so that a child that has left its handler
    starts no other message before it ends."""
    _tables.add(table)


@cache
def reset_signals_in_children() -> None:
    """Give SIGTERM and SIGINT their default actions in each child.

    Signals wait while the process forks, because a signal that reaches the child earlier would wake the event loop of
    this process."""
    os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_signals)


def end_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End the current process if it is a child of `pid`, the process that called the handler.

    `error` is the error with which the child left the handler. The child exits with the exit code that Python uses for
    this exception."""
    if os.getpid() == pid:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    elif error is not None:
        log.error("child of the handler failed", exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed by the handler
            stream.flush()
    os._exit(code & 0xFF)


def _block_signals() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _unblock_signals()


def _count_fork() -> None:
    global _fork_count  # noqa: PLW0603 - forks concern the whole process
    _fork_count += 1


def _detach() -> None:
    for table in list(_tables):
        table.is_closed = True  # `close()` would wake tasks of the event loop
    _close_sockets()


def _close_sockets() -> None:
    """Replace each inherited socket by /dev/null.

    The number of each closed file descriptor stays reserved. An object in the child may close this number later, and
    must not close another file."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for owner, find_socket in list(_sockets.items()):
        with suppress(Exception):  # closed meanwhile
            opened = find_socket(owner)
            if opened is not None and opened.fileno() >= 0:
                os.dup2(null, opened.fileno(), inheritable=False)
    os.close(null)


os.register_at_fork(after_in_parent=_count_fork, after_in_child=_detach)
