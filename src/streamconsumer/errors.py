"""Exception tree: every error that this package raises deliberately. The class of an error shows how the caller can
respond.

StreamConsumerError
├── InvalidSettings       settings cannot be used; retrying has no effect until the settings change
│   ├── InvalidResource   the operator cannot act on a StreamConsumer
│   └── HandlerUnusable   the handler cannot be imported or called
├── UndecodableEntry      the bytes of one entry do not match `encoding`; only this entry fails
├── EffectsRejected       a handler's effects cannot be applied; none was applied and the message has failed
├── ConsumerNameInUse     another process uses the consumer name of this process
├── NameConflict          an object that has another owner already uses the name of a child object
├── ChildRejected         the API server rejects a child object
├── PermissionDenied      the operator lacks a permission that it does not strictly need
├── HostNotResolved       a host name has no address, or the name servers do not answer
├── DestinationNotAllowed the operator does not connect to this address on behalf of a StreamConsumer
├── ApiThrottled          the API server asks the operator to retry after a given time
└── BackendUnavailable    Redis or the Kubernetes API does not respond to a CLI command, or rejects the request

A child object is an object that the operator creates for a StreamConsumer, such as its Deployment.

The message of an error names the object, the value found, the value expected and the remedy.
"""

from datetime import timedelta


class StreamConsumerError(Exception):
    """Base class. Catch this class to handle every error of this package and no other errors."""


class InvalidSettings(StreamConsumerError):
    """Settings cannot be used. Retrying has no effect until the settings change."""


class InvalidResource(InvalidSettings):
    """The API server accepted a StreamConsumer, but the operator cannot act on it."""


class HandlerUnusable(InvalidSettings):
    """The handler's module cannot be imported, or its function is missing or cannot be called."""


class UndecodableEntry(StreamConsumerError):
    """A field of an entry is not valid text although `encoding` is utf-8."""


class EffectsRejected(StreamConsumerError):
    """A handler's effects conflict with the data in Redis or with each other. None of the effects was applied."""


class ConsumerNameInUse(StreamConsumerError):
    """Another process uses the consumer name of this process. This process waits until the other process has ended."""


class NameConflict(StreamConsumerError):
    """An object that has another owner already uses the name of a child object.

    The operator never takes over an object that has another owner.
    """


class ChildRejected(StreamConsumerError):
    """The API server, a quota or an admission policy rejected a child object.

    Retrying has no effect until the spec, the quota or the policy changes.
    """


class PermissionDenied(StreamConsumerError):
    """The API server denied a request that the operator does not strictly need.

    The operator continues without the response and reports the consequence.
    """


class HostNotResolved(StreamConsumerError):
    """A host name has no address, or the name servers do not answer."""


class DestinationNotAllowed(StreamConsumerError):
    """The operator refuses to connect to an address on behalf of a StreamConsumer."""


class ApiThrottled(StreamConsumerError):
    """The API server refused a request with a Retry-After header. No part of the request was executed.

    `retry_after` is the requested delay.
    """

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendUnavailable(StreamConsumerError):
    """A CLI command cannot use Redis or the Kubernetes API.

    The server does not respond or rejects the request, or `dev` cannot start its embedded Valkey.
    """
