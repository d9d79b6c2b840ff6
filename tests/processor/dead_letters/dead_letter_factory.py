"""Dead letters for tests: failed messages, dead-lettered as a processor does it."""

from collections.abc import Sequence
from typing import Any

from streamconsumer.processor.dead_letters.record import DeadLetterReason, FailureDetails, to_fields
from streamconsumer.processor.dead_letters.store import DeadLetterStore
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.outcome import Outcome
from tests.processor.group import GROUP, STREAM, Group

KEY = group_key(STREAM, GROUP, "dead-letters")
FIELDS = (b"n", b"\xff\x00", b"n", b"twice", b"traceparent", b"00-aa-bb-01")


def failure_details(
    message_id: str, reason: DeadLetterReason = DeadLetterReason.MAX_DELIVERIES, **overrides: Any
) -> FailureDetails:
    defaults = {"stream": STREAM, "consumer_group": GROUP, "consumer": "pod-a", "deliveries": 10}
    error = overrides.pop("error", ValueError("no such customer"))
    return FailureDetails.from_error(error, reason=reason, message_id=message_id, **{**defaults, **overrides})


def dead_letter_writer(group: Group, key: str = KEY, max_length: int = 100_000) -> DeadLetterWriter:
    return DeadLetterWriter(group.manager().execute_pipeline, STREAM, GROUP, key, max_length)


async def write_dead_letter(writer: DeadLetterWriter, message_id: str, fields_and_failure: Sequence[bytes]) -> Outcome:
    """Dead-letter one entry of the consumer `pod-a`. Raises the error of the server."""
    [answer] = await writer.write_many("pod-a", [(message_id, fields_and_failure)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def dead_letter_store(group: Group, key: str = KEY) -> DeadLetterStore:
    return DeadLetterStore(group.manager().execute, STREAM, GROUP, key)


async def add_pending_message(group: Group, original: Sequence[bytes] = FIELDS, consumer: str = "pod-a") -> str:
    """Add a message that is pending with the consumer. Returns its id."""
    message_id = str(await command(group, "XADD", STREAM, "*", *original))
    await read_as(group, consumer)
    return message_id


async def read_as(group: Group, consumer: str) -> list[str]:
    """Read the group's own pending entries, which need not be text."""
    reply = await _raw(group, "XREADGROUP", "GROUP", GROUP, consumer, "STREAMS", STREAM, ">")
    return [message_id.decode() for message_id, _ in reply[0][1]] if reply else []


async def write_dead_letters(group: Group, count: int, key: str = KEY, **overrides: Any) -> list[str]:
    """Dead-letter messages `{"n": "0"}` and so on, in one round trip. Returns the ids of the dead letters."""
    pipeline = group.client.pipeline(transaction=False)
    for number in range(count):
        original = [b"n", str(number).encode()]
        pipeline.execute_command(
            "XADD", key, "*", *to_fields(original, failure_details(f"{number + 1}-0", **overrides))
        )
    return [str(each) for each in await pipeline.execute()]


async def raw(group: Group, key: str) -> list[tuple[str, list[bytes]]]:
    """Return the stream's entries, with their fields in order and as bytes."""
    return [(message_id.decode(), entry) for message_id, entry in await _raw(group, "XRANGE", key, "-", "+")]


async def _raw(group: Group, *words: Any) -> Any:
    return await group.manager(group.server.url).execute(*words)


async def command(group: Group, *words: Any) -> Any:
    return await group.client.execute_command(*words)  # type: ignore[no-untyped-call] # ships no types


async def restrict(group: Group, *rights: str, keys: Sequence[str] = (f"~{STREAM}", f"~{{{STREAM}}}:*")) -> None:
    """Grant the group's managers only these permissions from now on."""
    await command(group, "ACL", "SETUSER", "shop", "on", ">pw", *keys, "-@all", *rights)
    group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"
