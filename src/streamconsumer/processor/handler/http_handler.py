"""HTTP handler: sends each message to a Service by POST, as a CloudEvent in binary mode.

The Service can be written in any language. The status of its response decides how the message is settled, see
`outcome_for_status`. Redirects are not followed and no proxy is used: a message goes only to the URL in the resource.
The HTTP client is imported only if it is used.
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
"""Time limit of a request if `delivery.timeout` is not set. Otherwise a hanging Service would occupy a slot forever."""

KEEPALIVE_SECONDS = 4.0
"""Time until an idle connection is closed. Many servers close it after 5 s and lose a request sent at that moment."""

MAX_BODY_IN_ERROR = 500
"""Maximum length of a response body in the error, which goes into the dead letter and the log."""

MAX_DEFERRAL = timedelta(hours=24)
"""Longest wait that a `Retry-After` header can request."""
RETRYABLE_4XX = (408, 425, 429)
"""4xx statuses that describe a temporary state, not an invalid message."""

EVENT_TYPE = "dev.streamconsumer.entry"
_REQUIRED_ATTRIBUTES = {"specversion", "id", "source", "type"}
_ATTRIBUTE_NAME = re.compile("[a-z0-9]{1,64}")
_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class HttpHandler:
    """Handler that sends messages to `url`, at most `concurrency` at the same time, each over its own connection."""

    def __init__(self, url: str, concurrency: int, timeout: timedelta | None) -> None:
        import aiohttp  # noqa: PLC0415 - imported only if used

        self._aiohttp, self._url, self._concurrency = aiohttp, url, concurrency
        # With delivery.timeout the processor cancels the call, and its error names that field.
        self._timeout = aiohttp.ClientTimeout(total=None if timeout else DEFAULT_TIMEOUT.total_seconds())
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, data: dict[str, str]) -> None:
        """Send a message. Returns if the response is 2xx; otherwise raises the outcome."""
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
    """Return the outcome for a response that is not 2xx. Pure."""
    wait = _parse_retry_after(retry_after, now)
    if status in (429, 503) and wait is not None:
        return Defer(wait, reason)
    if 400 <= status < 500 and status not in RETRYABLE_4XX:
        return Reject(reason)
    return Retry(reason)


def build_request(message: Message, data: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Return headers and body for one message. Pure except that it reads the current span."""
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
    """Convert an entry with the fields of a CloudEvent: attributes become headers and `data` becomes the body."""
    attributes = data.keys() - {"data", "datacontenttype"}
    headers = {
        f"ce-{name}": _encode_header(data[name]) for name in sorted(attributes) if _ATTRIBUTE_NAME.fullmatch(name)
    }
    kind = _encode_header(data.get("datacontenttype", "application/json")).replace("%22", '"').replace("%20", " ")
    return {**headers, "Content-Type": kind}, data.get("data", "").encode()


def _wrap_as_event(message: Message, data: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Convert any other entry into an event of type `EVENT_TYPE` with the fields as a JSON object."""
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
    """Return the header with the time of XADD, or no header if a producer chose an id that is not a time."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return {}
    return {"ce-time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def _parse_retry_after(retry_after: str, now: datetime) -> timedelta | None:
    """Parse `Retry-After`, which is seconds or a date. Returns None if it is neither."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return min(timedelta(seconds=int(retry_after)), MAX_DEFERRAL)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    wait = date.replace(tzinfo=date.tzinfo or UTC) - now
    return min(max(wait, timedelta()), MAX_DEFERRAL)


def _encode_header(value: str) -> str:
    """Percent-encode `"`, `%` and all but printable ASCII, as CloudEvents requires for an attribute in a header."""
    return quote(value, safe="!#$&'()*+,/:;<=>?@[\\]^`{|}")
