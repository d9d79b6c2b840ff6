"""The orders handler with a ledger in Redis.

The ledger counts how often each message was handled, so that lost and repeated messages are visible.
"""

import os
from typing import Any

import orders
from redis.asyncio import Redis

from streamconsumer.processor import current_message

LEDGER = "handled"

_redis = Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])


async def handle(order: dict[str, Any]) -> None:
    """Handle the order, then count it in the ledger."""
    await orders.handle(order)
    await _redis.hincrby(LEDGER, current_message().message_id, 1)
