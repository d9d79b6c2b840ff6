"""Commands with which another program or an administrator disturbs a group, without taking entries from it."""

import random
from collections.abc import Callable
from typing import Any

from redis import Redis

from streamconsumer.redis_client.keys import group_key
from tests.reliability.clusters import execute
from tests.reliability.ledger import GROUP

EXPENDABLE_KEYS = ("consumers", "registrations", "claimed", "claimed-before")
"""Companion keys whose loss loses no message. The schedule is not among them: if the group is destroyed before a pod
has repaired the schedule, postponed messages are lost."""

ForeignCommand = Callable[[Redis, str, random.Random], object]


def claim_as_stranger(client: Redis, stream: str, rng: random.Random) -> None:
    """Claim a few pending entries for a consumer that does not exist any longer."""
    pending: Any = client.xpending_range(stream, GROUP, "-", "+", 20)
    if pending:
        chosen = rng.sample(pending, min(3, len(pending)))
        client.xclaim(stream, GROUP, f"stranger-{rng.random()}", 0, [each["message_id"] for each in chosen])


def create_odd_consumer(client: Redis, stream: str, rng: random.Random) -> None:
    """Create a consumer whose name is not UTF-8."""
    execute(client, "XGROUP", "CREATECONSUMER", stream, GROUP, b"\xff\xfe" + rng.randbytes(2))


def delete_companion_key(client: Redis, stream: str, rng: random.Random) -> None:
    client.delete(group_key(stream, GROUP, rng.choice(EXPENDABLE_KEYS)))


def write_to_companion_key(client: Redis, stream: str, rng: random.Random) -> None:
    """Write fields and members that no pod would write."""
    client.hset(group_key(stream, GROUP, "registrations"), rng.randbytes(8), rng.randbytes(8))
    client.zadd(group_key(stream, GROUP, "postponed"), {"no id": rng.random()})


def rename_away_and_back(client: Redis, stream: str, _rng: random.Random) -> None:
    """Rename the stream and undo it. Blocked reads end with an error."""
    other = group_key(stream, GROUP, "renamed")
    transaction = client.pipeline()
    transaction.rename(stream, other)
    transaction.rename(other, stream)
    transaction.execute()


def flush_scripts(client: Redis, _stream: str, _rng: random.Random) -> None:
    client.script_flush()


def kill_clients(client: Redis, _stream: str, _rng: random.Random) -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def create_and_destroy_group(client: Redis, stream: str, rng: random.Random) -> None:
    """Create another group, read with it, and destroy it."""
    other = f"other-{rng.random()}"
    client.xgroup_create(stream, other, "0")
    client.xreadgroup(other, "stranger", {stream: ">"}, 5)
    client.xgroup_destroy(stream, other)


FOREIGN_COMMANDS: tuple[ForeignCommand, ...] = (
    claim_as_stranger,
    create_odd_consumer,
    delete_companion_key,
    write_to_companion_key,
    rename_away_and_back,
    flush_scripts,
    kill_clients,
    create_and_destroy_group,
)
