"""Commands against servers with unexpected replies: an error or an unknown value, and no traceback."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.cli.status.collect import collect_facts, collect_facts_of_one
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.cli.status.run import _lines, status_item
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.text import printable
from tests.cli import forked
from tests.cli.target_command import TargetCommand
from tests.hostile_server import REPLIES, behaviour, hostile_server
from tests.model.examples import manifest
from tests.processor.pod import Pod

DEAD_LETTERS, GROUP = TargetCommand(("dead-letters",)), TargetCommand(("group",))


class FakeKubeClient(KubeClient):
    """Client of a cluster without pods."""

    def __init__(self) -> None:
        """Connect to no API server."""

    async def list(self, *_: Any) -> AsyncIterator[Any]:
        nothing: list[Any] = []
        for each in nothing:
            yield each


def resource(url: str, name: str = "orders") -> dict[str, Any]:
    return {**manifest(name, redis={"url": url}), "metadata": {"namespace": "shop", "name": name, "uid": "x"}}


@pytest.mark.parametrize("name", REPLIES)
async def test_status_shows_an_unexpected_reply_as_problem(name: str) -> None:
    async with hostile_server(REPLIES[name], **behaviour(name)) as url:
        async with asyncio.timeout(30):
            facts = await collect_facts(FakeKubeClient(), resource(url))
    assert facts.redis.problem
    assert len(facts.redis.problem) < 2000
    results = [(facts, derive_findings(facts))]
    assert list(_lines(results * 2, {"name": None}))
    assert json.dumps(status_item(*results[0]))


async def test_status_of_many_shows_a_resource_that_cannot_be_read() -> None:
    odd: dict[str, Any] = {"metadata": {"namespace": "shop", "name": "odd"}, "spec": 7, "status": {"conditions": 7}}
    broken: dict[str, Any] = {"metadata": {"namespace": "shop", "name": "broken", "generation": "x"}}
    for document in (odd, broken):
        facts = await collect_facts_of_one(FakeKubeClient(), document)
        assert facts.name == document["metadata"]["name"]
        assert facts.redis.problem
        lines = "\n".join(map(str, _lines([(facts, derive_findings(facts))] * 2, {"name": None})))
        assert printable(facts.redis.problem) in lines


@pytest.mark.parametrize("name", REPLIES)
async def test_commands_for_a_group_report_an_unexpected_reply(name: str) -> None:
    async with hostile_server(REPLIES[name], **behaviour(name)) as url:
        letters = await asyncio.gather(
            DEAD_LETTERS.run("list", url=url),
            DEAD_LETTERS.run("show", "1-1", url=url),
            DEAD_LETTERS.run("drop", "--all", "--yes", url=url),
            DEAD_LETTERS.run("replay", "--all", url=url),
            GROUP.run("delete", "--yes", url=url),
        )
    assert {ran.code for ran in letters} <= {0, 1, 2, 3}
    assert any(ran.code for ran in letters)


@pytest.mark.parametrize("name", REPLIES)
async def test_doctor_in_a_pod_reports_an_unexpected_reply(name: str, tmp_path: Path) -> None:
    async with hostile_server(REPLIES[name], **behaviour(name)) as url:
        pod = Pod(tmp_path, url, "pod_handlers:log_handled")
        ran = await asyncio.to_thread(
            forked.run, "doctor", "--from-environment", "-o", "json", environment=pod.environment, folder=pod.folder
        )
    assert "Traceback" not in ran.err, ran.err
    assert ran.out, ran.err
    assert ran.code == 1
