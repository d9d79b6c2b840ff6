"""The form of dead letters: whatever the original holds, it comes back as it was."""

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
evidences = st.builds(
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


@given(originals, evidences, ids)
def test_a_dead_letter_is_read_as_it_was_written_whatever_its_fields_are_called(
    original: list[bytes], evidence: FailureDetails, dead_letter_id: str
) -> None:
    written = to_fields(original, evidence)
    kept = list(strip_replay_marks(original))
    assert written[: len(kept)] == kept
    found = from_fields(dead_letter_id, written)
    assert found
    assert (found.dead_letter_id, found.fields, found.failure) == (dead_letter_id, kept, evidence)


@given(originals, evidences, ids, st.integers(1, 5))
def test_the_origin_and_the_number_of_replays_are_kept_through_every_replay(
    original: list[bytes], evidence: FailureDetails, dead_letter_id: str, rounds: int
) -> None:
    first = letter = parsed(dead_letter_id, to_fields(original, evidence))
    for number in range(1, rounds + 1):
        entry = replay_fields(letter)
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
        letter = parsed("10-0", to_fields(entry, again))
        assert letter.replays == first.replays + number
        assert (letter.origin_id, letter.failure.message_id) == (first.origin_id, "9-9")
        assert letter.fields == first.fields


@given(originals, evidences, evidences)
def test_the_dead_letter_of_a_dead_letter_holds_the_inner_one(
    original: list[bytes], inner: FailureDetails, outer: FailureDetails
) -> None:
    written = to_fields(original, inner)
    assert parsed("2-0", to_fields(written, outer)).fields == written
    again = replay_fields(parsed("2-0", to_fields(written, outer)))
    assert parsed("3-0", again) == parsed("3-0", written), "replayed into the stream of dead letters it is one of them"


@given(originals)
def test_what_has_no_reason_is_no_dead_letter(original: list[bytes]) -> None:
    assert (from_fields("1-0", original) is None) == (b"streamconsumer.reason" not in strip_replay_marks(original)[::2])


def test_marks_that_nobody_here_wrote_are_fields_like_any_other() -> None:
    for origin, replays in [(b"yesterday", b"1"), (b"1-1", b"often"), (b"1-1", b"9" * 5000)]:
        marks = [b"streamconsumer.origin-id", origin, b"streamconsumer.replays", replays]
        entry = [b"n", b"1", *marks, b"streamconsumer.replayed-for", b"billing"]
        assert strip_replay_marks(entry) is entry
        assert not is_replay_for_other_group(entry, b"shipping")


def test_a_replay_is_for_its_own_group_only() -> None:
    letter = parsed("2-0", to_fields([b"n", b"1"], evidence(ValueError("x"))))
    assert is_replay_for_other_group(replay_fields(letter), b"shipping")
    assert not is_replay_for_other_group(replay_fields(letter), b"billing")
    assert not is_replay_for_other_group([b"n", b"1"], b"shipping")


def test_the_evidence_tells_type_text_and_place_of_the_exception() -> None:
    found = evidence(raised(UnicodeError, "no\nsuch \ud800 letter"))
    assert found.error_type == "UnicodeError"
    assert found.error_message == "no\nsuch \\ud800 letter"
    assert found.at.startswith("test_record.py:")
    assert found.at.endswith(" in fail")


def test_an_exception_is_named_as_terminal_errors_name_it() -> None:
    assert evidence(pytest.UsageError()).error_type == f"{pytest.UsageError.__module__}.UsageError"


def test_long_texts_are_cut() -> None:
    found = evidence(ValueError("ä" * 100_000))
    assert len(found.error_message) == MAX_MESSAGE_LENGTH
    assert found.error_message.endswith("ä…")


def test_an_exception_that_cannot_tell_what_it_is_leaves_evidence_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Mute" in evidence(Mute()).error_type
    assert to_fields([b"n", b"1"], evidence(Mute()))


def test_times_stand_in_the_ids_and_an_id_may_be_no_time() -> None:
    letter = parsed("1000000000250-0", to_fields([b"n", b"1"], evidence(ValueError(), message_id=f"{2**64 - 1}-0")))
    assert letter.dead_lettered_at == datetime(2001, 9, 9, 1, 46, 40, 250_000, UTC)
    assert letter.added_at is None


def evidence(error: BaseException, message_id: str = "1-0") -> FailureDetails:
    return FailureDetails.from_error(
        error,
        reason=DeadLetterReason.REJECTED,
        stream="orders",
        consumer_group="billing",
        consumer="pod-a",
        message_id=message_id,
        deliveries=3,
    )


def parsed(dead_letter_id: str, found: list[bytes]) -> DeadLetter:
    letter = from_fields(dead_letter_id, found)
    assert letter
    return letter


def raised(kind: type[Exception], text: str) -> BaseException:
    with pytest.raises(kind) as caught:
        fail(kind(text))
    return caught.value


def fail(error: Exception) -> None:
    raise error
