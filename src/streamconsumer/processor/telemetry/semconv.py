"""Every name that goes to a collector.

Names follow the semantic conventions for messaging 1.44 (all still in development there). What the conventions do not
know is under `streamconsumer.`.
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
"""How often the message was begun, where it is more than once."""

CLAIMED_FROM = "streamconsumer.claimed_from"
"""The consumer that had the entry before it was taken over."""

TIME_IN_STREAM = "streamconsumer.queue.stream_time"
"""Seconds from being added until this process had it, by the server's clock; of a retry, the waiting included."""

TIME_IN_BUFFER = "streamconsumer.queue.buffer_time"
"""Seconds from there until the handler was called."""

OUTCOME = "streamconsumer.outcome"
"""`ack`, `effects` (acknowledged together with them), `retry`, `dead_letter`; `released` where the attempt was
cancelled: for another consumer, or at the end of a drain."""

EXCEPTION_EVENT = "messaging.process.exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACK = "exception.stacktrace"

OUTCOMES = ("ack", "effects", "retry", "dead_letter", "released")

LINK = "streamconsumer.link"
"""On a link: `previous_attempt`, `claim`, `dead_letter`, `attempt`, `reconcile` or `pod_start`. The link to the
producer has no such attribute."""
