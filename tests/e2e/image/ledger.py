"""The orders handler with a ledger: every message that was handled is counted in Redis, so that none can be missed
and those handled twice can be told."""

import os
from typing import Any

import orders
from redis.asyncio import Redis

from streamconsumer.processor import current_message

LEDGER = "handled"

_redis = Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])


async def handle(order: dict[str, Any]) -> None:
    """Handle the order, then write it down."""
    await orders.handle(order)
    await _redis.hincrby(LEDGER, current_message().message_id, 1)
