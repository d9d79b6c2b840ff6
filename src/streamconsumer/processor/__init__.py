"""What runs in a pod: one consumer of one consumer group.

processor (the loop) asks an intake for entries; stream (the only user of redis) is the intake of a Redis, polling
that of a user's own manager. handler, telemetry, metrics, health and logs are one concern each; main wires them.
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
