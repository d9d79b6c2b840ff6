"""Consumer of a Redis Streams consumer group. The package `streamconsumer.redis_client` connects to the server.

manager provides the public StreamManager. redis_consumer reads and acknowledges over a raw_connection; ack_buffer
holds the acknowledgements that Redis has not confirmed. leases changes entries that the consumer owns, and
pending_entries lists and claims entries. liveness detects dead consumers, claimer claims their entries, and heartbeat
renews the consumer's own. reader_registry wakes an idle consumer. group_snapshot restores a lost group. effects_commit
and retention have one task each. preflight checks the permissions and settings of the server. polling_consumer serves
a user's own manager.

Design decisions, each measured on Redis 6.2, 7.0 and Valkey:
- The outcome of a failed read is unknown, because Redis may have delivered entries in the lost reply. The reading
  connection therefore never retries by itself (redis-py 8 would, and strand such entries). After any error, the
  consumer reads its own pending entries again.
- A blocked read is never cancelled, because that could strand entries too: CLIENT UNBLOCK ends it with an empty reply.
- XACK of the last batch and XREADGROUP of the next share one round trip per batch. MULTI is not used: reads would not
  block in it, and Redis 7.0 rejects it at maxmemory.
- XACK returns 0, not an error, if the group is gone or another consumer acknowledged the entry: replies are counted.
- Only the start of a handler increments a delivery count. XREADGROUP from `0` and XCLAIM would increment it for entries
  that were only moved. A message that crashes its process would then dead-letter its whole batch.
"""

from collections.abc import Callable, Collection
from datetime import timedelta

from streamconsumer.processor.consumer.claimer import ClaimPage, PendingClaimer
from streamconsumer.processor.consumer.manager import StreamManager, redact_url
from streamconsumer.processor.consumer.polling_consumer import PollingConsumer
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import MessageTracing

__all__ = [
    "ClaimPage",
    "Consumer",
    "PendingClaimer",
    "PollingConsumer",
    "RedisConsumer",
    "StreamManager",
    "StreamManagerProtocol",
    "build_consumer",
    "redact_url",
]

Consumer = RedisConsumer | PollingConsumer
"""Consumer of a processor, by the kind of its manager."""


def build_consumer(  # noqa: PLR0917 - what a processor has
    manager: StreamManagerProtocol,
    consumer_id: ConsumerId,
    poll_interval_seconds: float,
    in_flight_ids: Callable[[], Collection[str]],
    metrics: Metrics,
    telemetry: MessageTracing | None,
) -> Consumer:
    """Return the consumer for a manager. `in_flight_ids` returns the ids of the entries in flight."""
    if not isinstance(manager, StreamManager):
        return PollingConsumer(manager, *consumer_id)
    block = timedelta(seconds=poll_interval_seconds)
    consumer = RedisConsumer(manager, *consumer_id, block=block, metrics=metrics, in_flight_ids=in_flight_ids)
    consumer.claimer = PendingClaimer(consumer, metrics)
    if telemetry is not None:
        consumer.ack_buffer.on_sent = telemetry.on_acknowledged
        telemetry.dead_letter_stream = consumer.dead_letter_stream
    return consumer
