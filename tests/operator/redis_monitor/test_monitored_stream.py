"""Poll targets when a user has edited the status."""

import pytest

from streamconsumer.operator.redis_monitor.monitored_stream import PollTarget
from tests.model.examples import consumer


@pytest.mark.parametrize("message_id", ["yesterday", "18446744073709551616-0", "1-0\n", "-", ""])
def test_invalid_id_in_the_status_is_ignored(message_id: str) -> None:
    assert PollTarget.from_consumer(consumer(), frozenset(), message_id).last_delivered_id is None
