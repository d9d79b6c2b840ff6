"""Checks that the address of a URL accepts TCP connections. The check sends no request, because a request may have
effects."""

import asyncio
from urllib.parse import urlsplit


async def connect_error(url: str, timeout_seconds: float) -> str:
    """Return the reason why the connection fails. The reason is empty if the connection succeeds."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except TimeoutError:
        return f"no answer within {timeout_seconds:.0f} s"
    except (OSError, ValueError) as error:  # an invalid port or host name raises ValueError
        return f"connection failed: {getattr(error, 'strerror', None) or error}"
    writer.close()
    return ""
