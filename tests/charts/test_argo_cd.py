"""Health check for Argo CD, run as Argo CD runs it: in Lua 5.1, with the resource as `obj`.

The test uses the Lua interpreter of Redis, because Argo CD is not available here. Argo CD runs the same files in the
layout of its repository: `health_test.yaml` with its `testdata`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from streamconsumer.model import names
from streamconsumer.model.status import CONDITIONS, Reason, Status
from tests.charts.rendering import ROOT
from tests.cluster.redis_servers import RedisServer

CHECK = ROOT / "k8s/argo-cd" / names.GROUP / names.KIND
TESTS = yaml.safe_load((CHECK / "health_test.yaml").read_text())["tests"]


def data(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CHECK / path).read_text())
    return document


def health(server: RedisServer, resource: dict[str, Any]) -> dict[str, str]:
    script = f"local obj = cjson.decode(ARGV[1]) local function check() {(CHECK / 'health.lua').read_text()} end "
    with redis.Redis(host=server.host, port=server.port, decode_responses=True) as client:
        status: dict[str, str] = json.loads(
            client.eval(f"{script} return cjson.encode(check())", 0, json.dumps(resource))
        )
    return status


def test_health_of_each_resource_matches_health_test_yaml(redis_server: RedisServer) -> None:
    results = [
        {"inputPath": test["inputPath"], "healthStatus": health(redis_server, data(test["inputPath"]))}
        for test in TESTS
    ]
    assert results == [dict(sorted(test.items(), reverse=True)) for test in TESTS]
    assert {test["healthStatus"]["status"] for test in TESTS} == {"Healthy", "Progressing", "Degraded", "Suspended"}


@pytest.mark.parametrize("path", sorted(path.name for path in (CHECK / "testdata").iterdir()))
def test_test_data_has_valid_conditions_and_is_used(path: str) -> None:
    status = Status.model_validate(data(f"testdata/{path}").get("status", {}))
    for condition in status.conditions:
        assert condition.type in CONDITIONS
        assert condition.reason in set(Reason)
    assert f"testdata/{path}" in {test["inputPath"] for test in TESTS}


def test_documentation_contains_the_current_check() -> None:
    page = Path(ROOT / "docs/gitops.md").read_text()
    indented = "".join(f"    {line}".rstrip() + "\n" for line in (CHECK / "health.lua").read_text().splitlines())
    assert indented in page
