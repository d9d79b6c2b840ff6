"""The processor of a pod: one consumer of one consumer group.

`main` starts the process, and `processor` runs the consume loop. `consumer` reads and acknowledges entries over
redis-py. `pipeline` handles each message from its read to its settlement. `handler`, `dead_letters`, `telemetry`,
`metrics`, `health` and `logs` each have one task, which their name describes.
"""

from streamconsumer.processor.consumer import StreamManager
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.outcomes import BatchFailed, Defer, Reject, Retry
from streamconsumer.processor.message import Message, current_message, current_messages
from streamconsumer.processor.processor import RedisStreamProcessor
from streamconsumer.processor.telemetry import TracerProviderTracing, inject, sending

__all__ = [
    "BatchFailed",
    "Defer",
    "Effects",
    "Message",
    "RedisStreamProcessor",
    "Reject",
    "Retry",
    "StreamManager",
    "TracerProviderTracing",
    "current_message",
    "current_messages",
    "inject",
    "sending",
]
