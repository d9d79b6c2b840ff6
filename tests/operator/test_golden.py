import difflib

import pytest

from tests.operator import golden


@pytest.mark.parametrize("case", golden.CASES)
def test_the_manifests_of_a_streamconsumer_equal_the_golden_file(case: str) -> None:
    written, now = golden.desired_file(case).read_text(), golden.render_desired(case)
    diff = "".join(difflib.unified_diff(written.splitlines(True), now.splitlines(True), "golden", "now"))
    assert not diff, f"\n{diff}\nIf that is meant: python -m tests.operator.golden"
