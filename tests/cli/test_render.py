"""The commands `render` and `crd`, and the output of errors."""

from pathlib import Path

import yaml
from click.testing import CliRunner

from streamconsumer.cli import main
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.settings import OperatorSettings
from tests.cli.manifests import consumer, write_documents


def test_render_prints_the_manifests_that_the_operator_applies(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer())
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 0
    expected = desired(StreamConsumer.parse(consumer()), OperatorSettings())
    assert list(yaml.safe_load_all(result.stdout)) == expected


def test_render_reads_standard_input() -> None:
    result = CliRunner().invoke(main, ["render", "-"], input=yaml.safe_dump(consumer()))
    assert result.exit_code == 0
    assert "kind: Deployment" in result.stdout


def test_render_rejects_an_invalid_resource_and_prints_the_others(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer(), consumer("greedy", batchCount=0))
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 2
    assert "rejected: default/greedy: spec.batchCount is 0: must be greater than or equal to 1" in result.stderr
    assert "name: orders-consumer" in result.stdout
    assert "greedy" not in result.stdout


def test_render_fails_if_files_contain_no_streamconsumer(tmp_path: Path) -> None:
    file = write_documents(tmp_path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 2
    assert "no streamconsumer.dev/v1alpha1 StreamConsumer" in result.stderr


def test_render_uses_the_settings_of_the_operator(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer())
    environment = {"STREAMCONSUMER_OPERATOR_PROCESSOR_IMAGE": "mine:7"}
    result = CliRunner().invoke(main, ["render", str(file)], env=environment)
    assert "image: mine:7" in result.stdout


def test_crd_prints_the_definition_as_yaml() -> None:
    result = CliRunner().invoke(main, ["crd"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == custom_resource_definition()


def test_streamconsumer_error_is_printed_on_one_line_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["render", str(tmp_path / "nothing.yaml")])
    assert result.exit_code == 2
    assert result.stderr.startswith("streamconsumer: InvalidSettings: ")
    assert "cannot be read: No such file or directory" in result.stderr
