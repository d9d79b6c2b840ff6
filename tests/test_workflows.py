"""The workflows of the code host."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.binaries import find

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def parsed(workflow: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(workflow.read_text())
    return document


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in parsed(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.cluster
def test_actionlint_finds_no_problem_in_the_workflows() -> None:
    ran = subprocess.run([find("actionlint"), *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_pin_each_action_by_commit_and_only_read_the_repository(workflow: Path) -> None:
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
    assert parsed(workflow)["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in parsed(workflow)["jobs"].values())


def test_every_lock_file_is_checked_against_advisories() -> None:
    workflow = parsed(ROOT / ".github/workflows/advisories.yaml")
    audited = workflow["jobs"]["audit"]["strategy"]["matrix"]["lock"]
    assert sorted(audited) == sorted(file.stem for file in (ROOT / "locks").glob("*.txt"))
    (audit,) = [
        step["run"] for step in workflow["jobs"]["audit"]["steps"] if step.get("run", "").startswith("pip-audit")
    ]
    assert "--strict" in audit, "without --strict, pip-audit exits with 0 if it could audit nothing"


def test_release_builds_from_the_digest_of_the_base_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (tag,) = re.findall(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    workflow = parsed(ROOT / ".github/workflows/release.yaml")
    assert workflow["env"]["BASE"].removeprefix("docker.io/library/") == tag
    (build,) = [
        step["run"] for step in steps(ROOT / ".github/workflows/release.yaml") if "dest=" in step.get("run", "")
    ]
    assert '--build-arg "BASE=$BASE@$BASE_DIGEST"' in build
    assert '--build-arg "BASE_DIGEST=$BASE_DIGEST"' in build
    assert 'org.opencontainers.image.base.digest="${BASE_DIGEST}"' in dockerfile
