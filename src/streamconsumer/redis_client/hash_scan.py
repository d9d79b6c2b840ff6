"""Bounded reads of hashes that any program may write to."""

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Execute

PAGE_FIELDS = 1000
"""Approximate number of fields that one command reads. Redis needs 1 ms for such a command."""

MAX_PAGES = 10
"""Maximum number of commands for one hash. The fields after the last page are not read."""


async def scan_numbers(execute: Execute, key: str) -> dict[str, int]:
    """Return the fields of a hash whose values are numbers, up to about PAGE_FIELDS * MAX_PAGES fields.

    A hash with fewer than PAGE_FIELDS fields needs a single command.
    """
    found: dict[str, int] = {}
    cursor = "0"
    for _ in range(MAX_PAGES):
        reply = await execute("HSCAN", key, cursor, "COUNT", PAGE_FIELDS)
        next_cursor, flat = replies.array(reply, "HSCAN", 2)
        found |= replies.numbers(flat, "HSCAN")
        cursor = replies.text(next_cursor, "HSCAN")
        if cursor == "0":
            break
    return found
