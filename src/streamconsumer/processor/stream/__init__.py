"""The only room that speaks to Redis: the StreamManager that users name (manager), and behind it one consumer's side
of a group (intake), with its acknowledgements on their way and the Lua that must be one step (scripts).

The bargains, each measured on Redis 6.2, 7.0 and Valkey:
- The outcome of a failed read is unknown: entries may have been delivered to a reply that was lost. The reader's
  connection therefore never retries by itself (redis-py 8 would, and strand them), and after any error the own
  pending entries are read again from the start.
- A blocked read is never cancelled, which could strand entries too: CLIENT UNBLOCK ends it with an empty reply.
- XACK of the last batch and XREADGROUP of the next travel together, without MULTI, which would not block and which
  Redis 7.0 refuses at maxmemory: one round trip a batch.
- XACK answers 0, not an error, when the group is gone or another consumer acknowledged: the replies are counted.
"""

from streamconsumer.processor.stream.intake import RedisIntake
from streamconsumer.processor.stream.manager import StreamManager, without_credentials

__all__ = ["RedisIntake", "StreamManager", "without_credentials"]
