"""What the operator of the chart in `previous/` made of StreamConsumers: `previous/pods/<case>.yaml` holds one, and all
that was applied for it, as `golden/` has it for the operator of now.

An operator that makes another pod template of the same StreamConsumer restarts every user's pods when it is upgraded.
`python -m tests.charts.previous_pods` writes the files anew: when a release is made, and otherwise only together with a
line in the changelog that says that an upgrade restarts pods, and why.
"""

from pathlib import Path

import yaml

from tests.charts.rendering import Manifest, parse_documents
from tests.operator import golden

FOLDER = Path(__file__).parent / "previous" / "pods"
CASES = ("smallest", "source", "secrets", "http", "pods", "sentinel")


def previous_manifests(case: str) -> tuple[Manifest, list[Manifest]]:
    """What a user wrote, and what was made of it."""
    written, *applied = parse_documents((FOLDER / f"{case}.yaml").read_text())
    return written, applied


def main() -> None:
    """Write down what these golden cases become now."""
    for case in CASES:
        given = yaml.safe_load((golden.FOLDER / case / "consumer.yaml").read_text())
        (FOLDER / f"{case}.yaml").write_text(
            f"{yaml.safe_dump(given, sort_keys=False)}---\n{golden.render_desired(case)}"
        )


if __name__ == "__main__":
    main()
