"""Handler that takes payment for orders. Every 50th order fails on its first attempt, as if the payment timed out."""

import asyncio
from typing import Any

from streamconsumer.processor import current_message


async def handle(order: dict[str, Any]) -> None:
    number, amount = int(order["id"]), int(order["amount"])
    if amount <= 0:
        raise ValueError(f"order {number}: amount is {amount}; must be positive")
    await asyncio.sleep(0.003)  # call the payment service
    if number % 50 == 7 and current_message().deliveries == 1:
        raise TimeoutError(f"order {number}: the payment service did not answer")
