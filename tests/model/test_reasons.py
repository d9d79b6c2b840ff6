from streamconsumer.model.reasons import CONDITION_MEANINGS, CONDITIONS_OF_REASONS, DEFAULT_ACTION, REASONS, action_for
from streamconsumer.model.status import CONDITIONS, Reason, StreamReason


def test_every_condition_type_has_a_meaning() -> None:
    assert tuple(CONDITION_MEANINGS) == CONDITIONS


def test_every_reason_has_a_meaning() -> None:
    assert set(REASONS) == {reason for reasons, _ in CONDITIONS_OF_REASONS for reason in reasons}


def test_every_condition_type_belongs_to_one_enum_of_reasons() -> None:
    assert sorted(name for _, types in CONDITIONS_OF_REASONS for name in types) == sorted(CONDITIONS)


def test_the_action_names_the_streamconsumer() -> None:
    action = action_for(StreamReason.DEAD_LETTERS_GROWING, "--name orders -n shop")
    assert action.endswith("dead-letters list --name orders -n shop")


def test_the_action_for_an_unknown_reason_is_to_wait() -> None:
    assert action_for("ReasonOfANewerOperator") == DEFAULT_ACTION.replace("`", "")


def test_the_action_is_plain_text() -> None:
    assert "`" not in action_for(Reason.IMAGE_UNAVAILABLE)
