"""Consumer of a Redis Streams consumer group. The package `streamconsumer.redis_client` connects to the server.

`manager` provides the public StreamManager. `redis_consumer` reads and acknowledges over a `raw_connection`, and
`ack_buffer` contains the acknowledgements that Redis has not confirmed. `leases` changes entries that the consumer
owns, `pending_entries` lists and claims entries, and `replay` reads the consumer's own pending entries again after a
lost reply. `read_size` adapts the size of reads and claims to `memory_limit` and to the sizes of received entries, and
`large_entries` handles entries that are too large. `registration` announces the connections of this process, `observer`
checks the connections and the silence of other consumers, `liveness` decides which consumers are dead, and `claimer`
claims their entries. `heartbeat` renews the leases of the entries in flight. `dedicated_connection` keeps one
connection for one purpose. `group_snapshot` restores a lost group. `effects_commit` applies a handler's effects, and
`retention` trims the stream. `preflight` checks the permissions and settings of the server. `blocking_reads` chooses
how long reads block, and detects a server that ignores BLOCK. `polling_consumer` uses a custom stream manager instead
of a `StreamManager`.

The following design decisions are based on measurements with Redis 6.2, 7.0 and Valkey.

The outcome of a failed read is unknown, because Redis may have delivered entries in the lost reply. The reading
connection therefore never retries by itself. A retry by redis-py 8 would leave the entries in the lost reply pending.
After any error, the consumer reads its own pending entries again.

A blocked read is never cancelled, because Redis may already have sent entries, and these entries would stay pending. To
end a blocked read, the consumer sends CLIENT UNBLOCK, and the reply to the read is empty. If CLIENT UNBLOCK is not
available, the consumer drops the connection, and reads its own pending entries over the next one.

XACK for the last batch and XREADGROUP for the next batch share one round trip. MULTI is not used, because a read inside
MULTI does not block, and Redis 7.0 rejects MULTI at maxmemory.

XACK returns 0, not an error, if the group is gone or another consumer acknowledged the entry. The consumer therefore
compares the number in the reply with the number of ids that it sent.

Each reply that contains entries has a size limit, derived from the memory limit of the container. The size of an entry
is unknown before the entry is received. The reading connection therefore counts received bytes, and is closed if the
number exceeds the limit. A script then claims the entries in the dropped reply. The script measures each entry, and
returns the values only of entries below the limit. A read whose reply is below the limit needs no additional command.

The consumer increments the delivery count of an entry only when the handler starts. XREADGROUP from `0` and XCLAIM
would also increment the counts of entries whose handling has not started. If these counts were incremented, one message
that crashes its process would turn all messages of its batch into dead letters.
"""

from collections.abc import Callable, Collection
from datetime import timedelta

from streamconsumer.model.redis_url import redact_url
from streamconsumer.processor.consumer.claimer import ClaimPage, PendingClaimer
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.polling_consumer import PollingConsumer
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.registration import registered_pod_uid, unique_consumer_name
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import Runtime
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
    "registered_pod_uid",
    "unique_consumer_name",
]

Consumer = RedisConsumer | PollingConsumer
"""Consumer of a processor: RedisConsumer for a StreamManager, PollingConsumer for a custom stream manager."""


def build_consumer(  # noqa: PLR0917 - what a processor has
    manager: StreamManagerProtocol,
    consumer_id: ConsumerId,
    poll_interval_seconds: float,
    in_flight_ids: Callable[[], Collection[str]],
    metrics: Metrics,
    telemetry: MessageTracing | None,
    runtime: Runtime,
) -> Consumer:
    """Return the consumer for a manager. `in_flight_ids` returns the ids of the entries in flight."""
    if not isinstance(manager, StreamManager):
        return PollingConsumer(manager, *consumer_id, metrics)
    block = timedelta(seconds=poll_interval_seconds)
    consumer = RedisConsumer(
        manager, *consumer_id, block=block, metrics=metrics, in_flight_ids=in_flight_ids, runtime=runtime
    )
    consumer.claimer = PendingClaimer(consumer, metrics, runtime)
    if telemetry is not None:
        consumer.ack_buffer.on_sent = telemetry.on_acknowledged
        telemetry.dead_letter_stream = consumer.dead_letter_stream
    return consumer
