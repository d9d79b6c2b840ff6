"""Connection check of a URL: the reasons for failures."""

import pytest

from streamconsumer.cli.tcp_check import connect_error
from tests.cluster.processes import free_port


@pytest.mark.parametrize("url", ["http://collector:99999", "http://[collector", "http://a..b"])
async def test_unusable_url_is_reported_as_a_failed_connection(url: str) -> None:
    """A manifest may contain such a URL, and `doctor` must continue."""
    assert (await connect_error(url, 5)).startswith("connection failed: ")


async def test_closed_port_is_reported_with_the_reason_of_the_system() -> None:
    assert await connect_error(f"http://127.0.0.1:{free_port()}", 5) != ""
