"""`streamconsumer render` and `crd`."""

from pathlib import Path

import yaml
from click.testing import CliRunner

from streamconsumer.cli import main
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.settings import OperatorSettings
from tests.cli.manifests import consumer, write_documents


def test_render_prints_exactly_what_the_operator_would_apply(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer())
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 0
    wanted = desired(StreamConsumer.parse(consumer()), OperatorSettings())
    assert list(yaml.safe_load_all(result.stdout)) == wanted


def test_render_reads_standard_input() -> None:
    result = CliRunner().invoke(main, ["render", "-"], input=yaml.safe_dump(consumer()))
    assert result.exit_code == 0
    assert "kind: Deployment" in result.stdout


def test_render_refuses_with_the_reason_and_prints_the_others(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer(), consumer("greedy", batchCount=0))
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 2
    assert "rejected: default/greedy: spec.batchCount is 0: must be greater than or equal to 1" in result.stderr
    assert "name: orders-consumer" in result.stdout
    assert "greedy" not in result.stdout


def test_render_of_files_without_a_streamconsumer_says_so(tmp_path: Path) -> None:
    file = write_documents(tmp_path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})
    result = CliRunner().invoke(main, ["render", str(file)])
    assert result.exit_code == 2
    assert "no streamconsumer.dev/v1alpha1 StreamConsumer" in result.stderr


def test_render_respects_the_operators_own_settings(tmp_path: Path) -> None:
    file = write_documents(tmp_path, consumer())
    environment = {"STREAMCONSUMER_OPERATOR_PROCESSOR_IMAGE": "mine:7"}
    result = CliRunner().invoke(main, ["render", str(file)], env=environment)
    assert "image: mine:7" in result.stdout


def test_crd_prints_the_definition_as_yaml() -> None:
    result = CliRunner().invoke(main, ["crd"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == custom_resource_definition()


def test_an_error_of_ours_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["render", str(tmp_path / "nothing.yaml")])
    assert result.exit_code == 2
    assert result.stderr.startswith("streamconsumer: InvalidSettings: ")
    assert "cannot be read: No such file or directory" in result.stderr
