"""Whether something takes connections where a URL points. It is not asked anything: that would have it do something."""

import asyncio
from urllib.parse import urlsplit


async def connect_error(url: str, timeout_seconds: float) -> str:
    """Why it cannot be reached, or nothing."""
    try:
        place = urlsplit(url)
        port = place.port or (443 if place.scheme == "https" else 80)
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(place.hostname, port)
    except TimeoutError:
        return f"no answer within {timeout_seconds:.0f} s"
    except (OSError, ValueError) as error:  # a port or a name that cannot be one is a ValueError
        return f"it cannot be reached: {getattr(error, 'strerror', None) or error}"
    writer.close()
    return ""
