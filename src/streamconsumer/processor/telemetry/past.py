"""What a span tells of what happened before it: waiting, attempts, take-over, a dead letter."""

from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry import encode, names
from streamconsumer.processor.telemetry.context import Remote
from streamconsumer.processor.telemetry.ids import Ids
from streamconsumer.processor.telemetry.spans import RecordedSpan
from streamconsumer.processor.telemetry.subject import Subject

EARLIEST_NS = 1_000_000_000 * 1_000_000_000
"""An entry id below is no time."""

ABOUT = {each: encode.attributes({names.LINK: each}, b"\x22") for each in names.LINKS}
_in_stream, _in_buffer = encode.number_attribute(names.TIME_IN_STREAM), encode.number_attribute(names.TIME_IN_BUFFER)


class Past:
    """`batches`: attempts are batches' attempts, whose spans are nobody's to guess."""

    def __init__(self, ids: Ids, *, batches: bool) -> None:
        self._ids, self._batches = ids, batches

    def attempt(self, entry: Entry, subject: Subject, number: int) -> Remote | None:
        """The span of an attempt that another process made, if it can be known."""
        if self._batches or number < 1:
            return None
        return Remote(subject.trace_id, self._ids.attempt(entry.message_id, number), subject.flags)

    def note_queue(self, span: RecordedSpan, entry: Entry, clock_offset_ns: int) -> None:
        milliseconds = entry.message_id.partition("-")[0]
        added_ns = int(milliseconds) * 1_000_000 if milliseconds.isdecimal() else 0
        if added_ns > EARLIEST_NS:
            span.parts.append(_in_stream(max(0, entry.taken_ns + clock_offset_ns - added_ns) / 1e9))
        span.parts.append(_in_buffer(max(0, span.start_ns - entry.taken_ns) / 1e9))

    def note(self, span: RecordedSpan, entry: Entry, subject: Subject) -> None:
        parts, before = span.parts, entry.attempted
        if entry.deliveries > 1:
            parts.append(encode.attributes({names.DELIVERY_COUNT: entry.deliveries}))
            before = before or self.attempt(entry, subject, entry.deliveries - 1)
        if before is not None:
            parts.append(encode.link(before.ids, ABOUT["previous_attempt"]))
        if entry.claim is not None:
            parts.append(encode.attributes({names.CLAIMED_FROM: entry.claimed_from}))
            parts.append(encode.link(entry.claim.ids, ABOUT["claim"]))
        if subject.replays:
            letter = self._ids.dead_letter(subject.origin, subject.replays - 1)
            parts.append(encode.link((subject.trace_id, letter, subject.flags), ABOUT["dead_letter"]))


def links_of_one(entry: Entry, subject: Subject | None) -> list[bytes]:
    """Of one message of a batch, with what differs between them."""
    links = []
    about: dict[str, Any] = {names.MESSAGE_ID: entry.message_id}
    if entry.deliveries > 1:
        about[names.DELIVERY_COUNT] = entry.deliveries
    if subject is not None and subject.producer is not None:
        links.append(encode.link(subject.producer.ids, encode.attributes(about, b"\x22")))
    for told, before in (("previous_attempt", entry.attempted), ("claim", entry.claim)):
        if before is not None:
            links.append(encode.link(before.ids, encode.attributes({**about, names.LINK: told}, b"\x22")))
    return links
