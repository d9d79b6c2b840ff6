"""Environment of a container as the kubelet computes it."""

from pathlib import Path

import pytest

from streamconsumer.cli.dev.kubelet_env import ConfigObjects, expand, host_env, resolve
from streamconsumer.errors import InvalidSettings

FIELDS = {"metadata.name": "orders-x", "metadata.namespace": "default"}
NO_OBJECTS = ConfigObjects({})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("a $(POD) b", "a orders-x b"),
        ("$(POD)$(POD)", "orders-xorders-x"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(POD)", "$(POD)"),
        ("$$$(POD)", "$orders-x"),
        ("$POD ${POD} $", "$POD ${POD} $"),
        ("$(POD", "$(POD"),
    ],
)
def test_references_are_expanded_as_in_kubernetes(text: str, expanded: str) -> None:
    assert expand(text, {"POD": "orders-x"}) == expanded


def test_variable_can_reference_only_preceding_variables() -> None:
    entries = [
        {"name": "EARLY", "value": "$(LATE)"},
        {"name": "LATE", "value": "late"},
        {"name": "LAST", "value": "$(LATE)"},
    ]
    variables = resolve({"env": entries}, FIELDS, NO_OBJECTS)
    assert variables == {"EARLY": "$(LATE)", "LATE": "late", "LAST": "late"}


def test_field_reference_returns_the_value_of_the_pod() -> None:
    entry = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert resolve({"env": [entry]}, FIELDS, NO_OBJECTS) == {"POD": "orders-x"}


def test_unsupported_source_is_an_error() -> None:
    entry = {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
    with pytest.raises(InvalidSettings, match="CPU"):
        resolve({"env": [entry]}, FIELDS, NO_OBJECTS)


def test_pod_inherits_only_required_variables_of_the_shell() -> None:
    shell = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "OTEL_SDK_DISABLED": "true", "PYTHONPATH": "lib"}
    variables = host_env(shell, [Path("/orders")])
    assert variables["PATH"] == "/bin"
    assert not {"AWS_SECRET_ACCESS_KEY", "OTEL_SDK_DISABLED"} & variables.keys()
    assert variables["PYTHONPATH"] == f"/orders:{Path('lib').absolute()}"
