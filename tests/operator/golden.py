"""What each StreamConsumer in golden/ becomes, written down so that a change is seen in review.

golden/<case>/consumer.yaml is what a user wrote, desired.yaml what the operator would apply. After a change
that is meant, `python -m tests.operator.golden` rewrites every desired.yaml; `git diff` then shows what users
will see.
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
"""What the operator was told: no version in it, so a release changes nothing here."""


def desired_file(case: str) -> Path:
    """Where it is written down."""
    return FOLDER / case / "desired.yaml"


def render_desired(case: str) -> str:
    """What the StreamConsumer of this case becomes now."""
    given = yaml.safe_load((FOLDER / case / "consumer.yaml").read_text())
    return to_yaml(desired(StreamConsumer.parse(given), SETTINGS))


def main() -> None:
    """Write down what every case becomes now."""
    for case in CASES:
        if not desired_file(case).exists() or desired_file(case).read_text() != render_desired(case):
            desired_file(case).write_text(render_desired(case))
            print(f"written: {desired_file(case)}")


if __name__ == "__main__":
    main()
