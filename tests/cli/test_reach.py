import pytest

from streamconsumer.cli.tcp_check import connect_error
from tests.cluster.processes import free_port


@pytest.mark.parametrize("url", ["http://collector:99999", "http://[collector", "http://a..b"])
async def test_a_url_that_leads_nowhere_is_told_as_one_that_is_not_reached(url: str) -> None:
    """A manifest may say it, and `dev` and `doctor` go on."""
    assert (await connect_error(url, 5)).startswith("connection failed: ")


async def test_where_nobody_listens_the_system_says_why() -> None:
    assert await connect_error(f"http://127.0.0.1:{free_port()}", 5) != ""
