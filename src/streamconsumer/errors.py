"""Exception tree: every error that this package raises deliberately. The class determines how to respond.

StreamConsumerError
├── InvalidSettings       settings cannot be used; retrying has no effect until they are edited
│   ├── InvalidResource   the operator cannot act on a StreamConsumer
│   └── HandlerUnusable   the handler cannot be imported or called
├── UndecodableEntry      the bytes of one entry do not match `encoding`; only this entry fails
├── EffectsRejected       a handler's effects cannot be applied; none was applied and the message has failed
├── NameConflict          an object of another owner already has the name of a child
├── ChildRejected         the API server rejects a child
├── PermissionDenied      the operator is missing an optional permission
├── ApiThrottled          the API server asks the operator to retry after a given time
└── BackendUnavailable    Redis or the Kubernetes API does not respond to a CLI command, or rejects its request

A message names the object, the value found, the value expected and the remedy.
"""

from datetime import timedelta


class StreamConsumerError(Exception):
    """Base class. Catch it to handle every error of this package and no other."""


class InvalidSettings(StreamConsumerError):
    """Settings cannot be used. Retrying has no effect until they are edited."""


class InvalidResource(InvalidSettings):
    """The API server accepted a StreamConsumer, but the operator cannot act on it."""


class HandlerUnusable(InvalidSettings):
    """The handler's module or function is missing, or is not callable."""


class UndecodableEntry(StreamConsumerError):
    """A field of an entry is not valid text although `encoding` is utf-8."""


class EffectsRejected(StreamConsumerError):
    """A handler's effects conflict with the data in Redis or with each other. None of them was applied."""


class NameConflict(StreamConsumerError):
    """An object with the child's name exists and has another owner. The operator never adopts it."""


class ChildRejected(StreamConsumerError):
    """The API server, a quota or an admission policy rejected a child. Retrying has no effect until it is edited."""


class PermissionDenied(StreamConsumerError):
    """The API server denied an optional request. The operator continues without it and reports the consequence."""


class ApiThrottled(StreamConsumerError):
    """The API server refused a request with a Retry-After header. No part of the request was executed.

    `retry_after` is the requested delay.
    """

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendUnavailable(StreamConsumerError):
    """A CLI command cannot use Redis or the Kubernetes API.

    Redis does not respond and none can be started, or Redis or the Kubernetes API rejects the request.
    """
