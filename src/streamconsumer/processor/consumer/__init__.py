"""What a pod says to Redis; how it gets there is the affair of `streamconsumer.redis_client`.

manager is the StreamManager that users name. Behind it, one consumer's side of a group: intake reads and acknowledges
over a wire of its own; acknowledgements are those on their way; ownership, with its Lua in scripts, is what may be done
with an entry only by whom it belongs to; pending looks into the pending entries list; watch says who is dead, claims
takes over, heart shows that this one lives. dead_letters, effects and retention are one concern each; checks
asks what the server and its user lack.

The bargains, each measured on Redis 6.2, 7.0 and Valkey:
- The outcome of a failed read is unknown: entries may have been delivered to a reply that was lost. The reader's
  connection therefore never retries by itself (redis-py 8 would, and strand them), and after any error the own
  pending entries are looked at again.
- A blocked read is never cancelled, which could strand entries too: CLIENT UNBLOCK ends it with an empty reply.
- XACK of the last batch and XREADGROUP of the next travel together, without MULTI, which would not block and which
  Redis 7.0 refuses at maxmemory: one round trip a batch.
- XACK answers 0, not an error, when the group is gone or another consumer acknowledged: the replies are counted.
- Nothing but a handler's beginning raises a delivery count: XREADGROUP from `0` and XCLAIM would raise it for entries
  that were only moved, and a message that kills its process would take its whole batch to the dead letters.
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


def build_consumer(  # noqa: PLR0917 - what a processor has
    manager: StreamManagerProtocol,
    consumer_id: ConsumerId,
    poll_interval_seconds: float,
    in_flight_ids: Callable[[], Collection[str]],
    metrics: Metrics,
    telemetry: MessageTracing | None,
) -> Consumer:
    """Return the intake for the manager. `who`: stream, group and consumer; `held` returns the ids in flight."""
    if not isinstance(manager, StreamManager):
        return PollingConsumer(manager, *consumer_id)
    block = timedelta(seconds=poll_interval_seconds)
    intake = RedisConsumer(manager, *consumer_id, block=block, metrics=metrics, in_flight_ids=in_flight_ids)
    intake.claimer = PendingClaimer(intake, metrics)
    if telemetry is not None:
        intake.ack_buffer.on_sent = telemetry.on_acknowledged
        telemetry.dead_letter_stream = intake.dead_letter_stream
    return intake
