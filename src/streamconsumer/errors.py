"""Every error that this package raises on purpose. The class says what to do about it.

StreamConsumerError
├── InvalidSettings       what we were told cannot be used; nothing changes until somebody edits it
│   ├── InvalidResource   a StreamConsumer that the operator cannot act on
│   └── HandlerUnusable   the handler cannot be imported or called
├── UndecodableEntry      one entry's bytes are not what `encoding` promised; only this entry fails
├── EffectsRejected        what a handler returned cannot be done as it is; none of it was, and the message has failed
├── NameConflict             a child's name belongs to an object that is not ours
├── ChildRejected          the API server does not want a child as it is
├── PermissionDenied            the operator lacks a right, and can do without
├── ApiThrottled            the API server says after how long it wants to be asked again
└── BackendUnavailable     Redis or the Kubernetes API does not answer a command line tool, or refuses what it asks for

A message names the object, what was found, what was expected and what to do.
"""

from datetime import timedelta


class StreamConsumerError(Exception):
    """The root: catch it to catch all of ours and nothing else."""


class InvalidSettings(StreamConsumerError):
    """Settings that cannot be used; retrying without an edit is pointless."""


class InvalidResource(InvalidSettings):
    """A StreamConsumer that got past the API server and still cannot be acted on."""


class HandlerUnusable(InvalidSettings):
    """The handler's module or function is missing, or is not something to call."""


class UndecodableEntry(StreamConsumerError):
    """An entry's field is not text although `encoding` is utf-8."""


class EffectsRejected(StreamConsumerError):
    """A handler's effects do not fit what is in Redis, or do not fit together. Nothing of them was applied."""


class NameConflict(StreamConsumerError):
    """An object of the child's name exists and belongs to somebody else: it is never adopted."""


class ChildRejected(StreamConsumerError):
    """The API server, a quota or an admission policy refused a child: nothing changes until somebody edits."""


class PermissionDenied(StreamConsumerError):
    """The API server does not let the operator do what it can do without, at a price that it tells."""


class ApiThrottled(StreamConsumerError):
    """The API server refused a request for now, with a Retry-After: nothing of it was done."""

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendUnavailable(StreamConsumerError):
    """Redis does not answer and none can be started, or it or the Kubernetes API refuses what a command line tool asks
    for."""
