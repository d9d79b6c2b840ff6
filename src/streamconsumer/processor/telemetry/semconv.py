"""Names of all attributes that are sent to a collector.

Names follow version 1.44 of the semantic conventions for messaging. All of these conventions are still in development.
Attributes that the conventions do not define start with `streamconsumer.`.
"""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "streamconsumer"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
CONSUMER_GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CLIENT_ID = "messaging.client.id"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
BATCH_COUNT = "messaging.batch.message_count"

DELIVERY_COUNT = "streamconsumer.delivery.count"
"""Delivery count of the message. The attribute is set only if the count is more than 1."""

CLAIMED_FROM = "streamconsumer.claimed_from"
"""Consumer from which the entry was claimed."""

TIME_IN_STREAM = "streamconsumer.queue.stream_time"
"""Seconds from XADD until this process received the entry, by the server's clock. For a retry, the value includes the
delay before the retry."""

TIME_IN_BUFFER = "streamconsumer.queue.buffer_time"
"""Seconds from the receipt of the entry until the call of the handler."""

OUTCOME = "streamconsumer.outcome"
"""Outcome of an attempt: `ack`, `effects` (acknowledged together with its effects), `retry`, `defer`, `dead_letter` or
`released`. `released` means that the attempt was cancelled, because another consumer claimed the entry or because the
drain ended."""

EXCEPTION_EVENT = "messaging.process.exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACK = "exception.stacktrace"

OUTCOMES = ("ack", "effects", "retry", "defer", "dead_letter", "released")

LINK = "streamconsumer.link"
"""Kind of a link: `previous_attempt`, `claim`, `dead_letter`, `attempt`, `reconcile` or `pod_start`. The link to the
producer does not have this attribute."""
