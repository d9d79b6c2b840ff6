"""Handler of the pods in `test_producer`: appends the id of each message to a file."""

import os
from typing import Any

from streamconsumer.processor import current_message


async def record(data: dict[str, Any]) -> None:
    with open(os.environ["HANDLED_FILE"], "a") as file:  # noqa: ASYNC230, PTH123 - a short write
        file.write(current_message().message_id + "\n")
