"""HTTP handler: sends each message to a Service in a POST request, as a CloudEvent in binary mode.

The application behind the Service can be written in any language. The status of the response decides how the message is
settled (see `outcome_for_status`). The handler neither follows redirects nor uses a proxy, so that a message is sent
only to the URL in the StreamConsumer. The HTTP client is imported only if the HTTP handler is used.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from streamconsumer.processor.handler.outcomes import Defer, Outcome, Reject, Retry
from streamconsumer.processor.message import Message, current_message
from streamconsumer.processor.telemetry import current_traceparent

DEFAULT_TIMEOUT = timedelta(seconds=60)
"""Timeout of a request if `delivery.timeout` is not set, so that an unresponsive Service cannot block a slot."""

KEEPALIVE_SECONDS = 4.0
"""Time after which an idle connection is closed. Many servers close idle connections after 5 s, and a request that is
sent when the server closes the connection can be lost."""

MAX_BODY_IN_ERROR = 500
"""Maximum number of characters of the response body that the error quotes. The error is written to the dead letter and
the log."""

MAX_DEFERRAL = timedelta(hours=24)
"""Longest delay that a `Retry-After` header can request."""

RETRYABLE_4XX = (408, 425, 429)
"""4xx statuses for which the message is retried, because the cause is temporary."""

EVENT_TYPE = "dev.streamconsumer.entry"
_REQUIRED_ATTRIBUTES = {"specversion", "id", "source", "type"}
_ATTRIBUTE_NAME = re.compile("[a-z0-9]{1,64}")
_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class HttpHandler:
    """Handler that sends messages to `url`, over at most `concurrency` connections."""

    def __init__(self, url: str, concurrency: int, timeout: timedelta | None) -> None:
        import aiohttp  # noqa: PLC0415 - imported only if used

        self._aiohttp, self._url, self._concurrency = aiohttp, url, concurrency
        # If delivery.timeout is set, the client has no timeout. The processor then cancels the call, and its error
        # names the setting.
        self._timeout = aiohttp.ClientTimeout(total=None if timeout else DEFAULT_TIMEOUT.total_seconds())
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, data: dict[str, str]) -> None:
        """Send a message. Returns nothing if the status of the response is 2xx, and raises the outcome for any other
        status."""
        headers, body = build_request(current_message(), data)
        try:
            async with self._open_session().post(
                self._url, headers=headers, data=body, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    return
                body_start = (await response.content.read(4 * MAX_BODY_IN_ERROR)).decode(errors="replace")
        except TimeoutError:
            raise Retry(f"{self._url} did not respond in time") from None
        except self._aiohttp.ClientError as error:
            raise Retry(f"{self._url}: {type(error).__name__}: {error}") from error
        reason = " ".join(f"{self._url} responded {response.status}: {body_start[:MAX_BODY_IN_ERROR]}".split())
        raise outcome_for_status(response.status, response.headers.get("Retry-After", ""), reason, datetime.now(UTC))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    def _open_session(self) -> Any:
        if self._session is None:
            connector = self._aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEPALIVE_SECONDS)
            self._session = self._aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=self._aiohttp.DummyCookieJar()
            )
        return self._session


def outcome_for_status(status: int, retry_after: str, reason: str, now: datetime) -> Outcome:
    """Return the outcome for a response whose status is not 2xx. The caller passes the current time as `now`."""
    wait = _parse_retry_after(retry_after, now)
    if status in (429, 503) and wait is not None:
        return Defer(wait, reason)
    if 400 <= status < 500 and status not in RETRYABLE_4XX:
        return Reject(reason)
    return Retry(reason)


def build_request(message: Message, data: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of the request for a message. Reads the trace context from the current span."""
    event, body = _pass_through_event(data) if data.keys() >= _REQUIRED_ATTRIBUTES else _wrap_as_event(message, data)
    trace = current_traceparent() or data.get("traceparent", "")
    return {
        **event,
        "Streamconsumer-Message-Id": message.message_id,
        "Streamconsumer-Stream": _encode_header(message.stream),
        "Streamconsumer-Consumer-Group": _encode_header(message.consumer_group),
        "Streamconsumer-Deliveries": str(message.deliveries),
        **({"traceparent": trace} if _TRACEPARENT.fullmatch(trace) else {}),
    }, body


def _pass_through_event(data: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Convert an entry whose fields form a CloudEvent: attributes become headers, and `data` becomes the body."""
    attributes = data.keys() - {"data", "datacontenttype"}
    headers = {
        f"ce-{name}": _encode_header(data[name]) for name in sorted(attributes) if _ATTRIBUTE_NAME.fullmatch(name)
    }
    kind = _encode_header(data.get("datacontenttype", "application/json")).replace("%22", '"').replace("%20", " ")
    return {**headers, "Content-Type": kind}, data.get("data", "").encode()


def _wrap_as_event(message: Message, data: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Convert an entry that is not a CloudEvent into an event of type `EVENT_TYPE`. The body is a JSON object."""
    milliseconds = int(message.message_id.partition("-")[0])
    headers = {
        "ce-specversion": "1.0",
        "ce-id": message.message_id,
        "ce-source": f"/redis/streams/{quote(message.stream, safe='')}",
        "ce-type": EVENT_TYPE,
        **_time_header(milliseconds),
        "Content-Type": "application/json",
    }
    return headers, json.dumps(data, ensure_ascii=False).encode()


def _time_header(milliseconds: int) -> dict[str, str]:
    """Return a header with the time at which the entry was added. Returns no header if the entry id contains no valid
    time."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return {}
    return {"ce-time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def _parse_retry_after(retry_after: str, now: datetime) -> timedelta | None:
    """Parse a `Retry-After` header, which contains seconds or a date. Returns None if the value is invalid."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return min(timedelta(seconds=int(retry_after)), MAX_DEFERRAL)
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    wait = date.replace(tzinfo=date.tzinfo or UTC) - now
    return min(max(wait, timedelta()), MAX_DEFERRAL)


def _encode_header(value: str) -> str:
    """Percent-encode space, `"`, `%` and everything except printable ASCII, as CloudEvents requires for headers."""
    return quote(value, safe="!#$&'()*+,/:;<=>?@[\\]^`{|}")
