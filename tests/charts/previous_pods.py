"""Manifests of the previous release's operator, recorded in `previous/pods/<case>.yaml`.

Each file contains a StreamConsumer and all manifests that were applied for it. `golden/` contains the same for the
current operator. An operator that builds a different pod template restarts all pods of all users on an upgrade.

`python -m tests.charts.previous_pods` records the files again. Run it for a release. At any other time, add a changelog
line that explains why an upgrade restarts pods.
"""

from pathlib import Path

import yaml

from tests.charts.rendering import Manifest, parse_documents
from tests.operator import golden

FOLDER = Path(__file__).parent / "previous" / "pods"
CASES = ("smallest", "source", "secrets", "http", "pods", "sentinel")


def previous_manifests(case: str) -> tuple[Manifest, list[Manifest]]:
    """Return the StreamConsumer and the manifests that were applied for it."""
    consumer, *applied = parse_documents((FOLDER / f"{case}.yaml").read_text())
    return consumer, applied


def main() -> None:
    """Record the current manifests of these golden cases."""
    for case in CASES:
        consumer = yaml.safe_load((golden.FOLDER / case / "consumer.yaml").read_text())
        (FOLDER / f"{case}.yaml").write_text(
            f"{yaml.safe_dump(consumer, sort_keys=False)}---\n{golden.render_desired(case)}"
        )


if __name__ == "__main__":
    main()
