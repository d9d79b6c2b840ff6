"""The values of `attacks` in the model: a value that the model accepts can also be used."""

from pathlib import Path

from streamconsumer.errors import InvalidResource
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.env import environment
from streamconsumer.operator.settings import OperatorSettings
from tests.hostile.attacks import Attack, Canaries, fields, sample
from tests.model.examples import stored

CANARIES = Canaries("victim", "payroll", Path("/tmp/canary.pem"), Path("/tmp/canary.sock"), "10.96.0.1:443")
ATTACKS = sample(CANARIES, "redis:6379", 30)


def accepted(attack: Attack) -> StreamConsumer | None:
    try:
        return StreamConsumer.parse(stored(attack.manifest("orders", "redis://redis:6379/0")))
    except InvalidResource:
        return None


def test_every_text_field_is_attacked() -> None:
    assert {attack.path for attack in ATTACKS} == set(fields())


def test_pods_can_be_built_from_every_value_that_the_model_accepts() -> None:
    settings, failed = OperatorSettings(), list[str]()
    for attack in ATTACKS:
        if consumer := accepted(attack):
            try:
                environment(consumer, settings)
            except ValueError as error:
                failed.append(f"{attack}: {error}")
    assert failed == []


def test_no_reference_contains_a_path() -> None:
    references = [attack for attack in ATTACKS if attack.path[-1] == "name" and "Ref" in attack.path[-2]]
    assert references
    assert [
        attack for attack in references if accepted(attack) and {"/", "%", "\\", "?", "#"} & set(attack.value)
    ] == []
