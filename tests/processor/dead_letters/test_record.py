"""Record format of dead letters: every original can be restored unchanged."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.processor.dead_letters.record import (
    MAX_MESSAGE_LENGTH,
    DeadLetter,
    DeadLetterReason,
    FailureDetails,
    from_fields,
    is_replay_for_other_group,
    replay_fields,
    strip_replay_marks,
    to_fields,
)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
ids = st.builds("{}-{}".format, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
OURS = [
    "streamconsumer.reason",
    "streamconsumer.origin-id",
    "streamconsumer.replays",
    "streamconsumer.replayed-for",
    "streamconsumer.deliveries",
]
names = st.binary(max_size=20) | st.sampled_from([name.encode() for name in OURS])
values = names | st.sampled_from([b"1-1", b"7", b"Rejected"])
originals = st.lists(st.tuples(names, values), min_size=1, max_size=12).map(
    lambda pairs: [part for pair in pairs for part in pair]
)
failures = st.builds(
    FailureDetails,
    reason=st.sampled_from(DeadLetterReason),
    stream=texts,
    consumer_group=texts,
    consumer=texts,
    message_id=ids,
    deliveries=st.integers(0, 10**9 - 1),
    error_type=texts,
    error_message=texts,
    at=texts,
    traceparent=texts,
)


@given(originals, failures, ids)
def test_dead_letter_is_parsed_as_it_was_written_for_any_field_names(
    original: list[bytes], failure: FailureDetails, dead_letter_id: str
) -> None:
    written = to_fields(original, failure)
    stripped = list(strip_replay_marks(original))
    assert written[: len(stripped)] == stripped
    record = from_fields(dead_letter_id, written)
    assert record
    assert (record.dead_letter_id, record.fields, record.failure) == (dead_letter_id, stripped, failure)


@given(originals, failures, ids, st.integers(1, 5))
def test_origin_and_number_of_replays_are_kept_through_every_replay(
    original: list[bytes], failure: FailureDetails, dead_letter_id: str, rounds: int
) -> None:
    first = record = parse(dead_letter_id, to_fields(original, failure))
    for number in range(1, rounds + 1):
        entry = replay_fields(record)
        assert strip_replay_marks(entry) == first.fields
        again = FailureDetails.from_error(
            ValueError(),
            reason=DeadLetterReason.REJECTED,
            stream="s",
            consumer_group="g",
            consumer="c",
            message_id="9-9",
            deliveries=1,
        )
        record = parse("10-0", to_fields(entry, again))
        assert record.replays == first.replays + number
        assert (record.origin_id, record.failure.message_id) == (first.origin_id, "9-9")
        assert record.fields == first.fields


@given(originals, failures, failures)
def test_dead_letter_of_a_dead_letter_contains_the_inner_one(
    original: list[bytes], inner: FailureDetails, outer: FailureDetails
) -> None:
    written = to_fields(original, inner)
    assert parse("2-0", to_fields(written, outer)).fields == written
    again = replay_fields(parse("2-0", to_fields(written, outer)))
    assert parse("3-0", again) == parse("3-0", written), "a replay into the dead-letter stream is a dead letter too"


@given(originals)
def test_entry_without_a_reason_is_not_a_dead_letter(original: list[bytes]) -> None:
    assert (from_fields("1-0", original) is None) == (b"streamconsumer.reason" not in strip_replay_marks(original)[::2])


def test_foreign_marks_are_ordinary_fields() -> None:
    for origin, replays in [(b"yesterday", b"1"), (b"1-1", b"often"), (b"1-1", b"9" * 5000)]:
        marks = [b"streamconsumer.origin-id", origin, b"streamconsumer.replays", replays]
        entry = [b"n", b"1", *marks, b"streamconsumer.replayed-for", b"billing"]
        assert strip_replay_marks(entry) is entry
        assert not is_replay_for_other_group(entry, b"shipping")


def test_replay_is_for_its_own_group_only() -> None:
    record = parse("2-0", to_fields([b"n", b"1"], failure(ValueError("x"))))
    assert is_replay_for_other_group(replay_fields(record), b"shipping")
    assert not is_replay_for_other_group(replay_fields(record), b"billing")
    assert not is_replay_for_other_group([b"n", b"1"], b"shipping")


def test_failure_contains_type_text_and_location_of_the_exception() -> None:
    details = failure(catch(UnicodeError, "no\nsuch \ud800 letter"))
    assert details.error_type == "UnicodeError"
    assert details.error_message == "no\nsuch \\ud800 letter"
    assert details.at.startswith("test_record.py:")
    assert details.at.endswith(" in fail")


def test_an_exception_is_named_as_terminal_errors_name_it() -> None:
    assert failure(pytest.UsageError()).error_type == f"{pytest.UsageError.__module__}.UsageError"


def test_long_texts_are_truncated() -> None:
    details = failure(ValueError("ä" * 100_000))
    assert len(details.error_message) == MAX_MESSAGE_LENGTH
    assert details.error_message.endswith("ä…")


def test_exception_without_a_usable_text_still_has_failure_details() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Mute" in failure(Mute()).error_type
    assert to_fields([b"n", b"1"], failure(Mute()))


def test_times_are_parsed_from_ids_and_none_if_an_id_is_not_a_time() -> None:
    record = parse("1000000000250-0", to_fields([b"n", b"1"], failure(ValueError(), message_id=f"{2**64 - 1}-0")))
    assert record.dead_lettered_at == datetime(2001, 9, 9, 1, 46, 40, 250_000, UTC)
    assert record.added_at is None


def failure(error: BaseException, message_id: str = "1-0") -> FailureDetails:
    return FailureDetails.from_error(
        error,
        reason=DeadLetterReason.REJECTED,
        stream="orders",
        consumer_group="billing",
        consumer="pod-a",
        message_id=message_id,
        deliveries=3,
    )


def parse(dead_letter_id: str, entry_fields: list[bytes]) -> DeadLetter:
    record = from_fields(dead_letter_id, entry_fields)
    assert record
    return record


def catch(kind: type[Exception], text: str) -> BaseException:
    with pytest.raises(kind) as caught:
        fail(kind(text))
    return caught.value


def fail(error: Exception) -> None:
    raise error
