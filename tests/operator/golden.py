"""The golden files: the manifests of each StreamConsumer in golden/, so that reviews show every change.

golden/<case>/consumer.yaml is the resource of a user, and desired.yaml has the manifests that the operator applies.
After an intended change, `python -m tests.operator.golden` rewrites every desired.yaml. `git diff` then shows the
change for users.
"""

from pathlib import Path

import yaml

from streamconsumer.cli.manifest_files import to_yaml
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.settings import OperatorSettings

FOLDER = Path(__file__).parent / "golden"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/consumer.yaml"))

SETTINGS = OperatorSettings(
    processor_image="streamconsumer-processor:golden", telemetry_endpoint="http://otel.example:4318"
)
"""The settings of the operator. They contain no version, so that a release changes no golden file."""


def desired_file(case: str) -> Path:
    """Return the path of the golden file."""
    return FOLDER / case / "desired.yaml"


def render_desired(case: str) -> str:
    """Return the current manifests of the case as YAML."""
    manifest = yaml.safe_load((FOLDER / case / "consumer.yaml").read_text())
    return to_yaml(desired(StreamConsumer.parse(manifest), SETTINGS))


def main() -> None:
    """Write the golden file of every case whose manifests have changed."""
    for case in CASES:
        if not desired_file(case).exists() or desired_file(case).read_text() != render_desired(case):
            desired_file(case).write_text(render_desired(case))
            print(f"written: {desired_file(case)}")


if __name__ == "__main__":
    main()
