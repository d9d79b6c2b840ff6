"""What is secret is in none of the places where a pod says something, however it goes wrong."""

import urllib.error
import urllib.request
from pathlib import Path

from tests.cluster.collector import Collector
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.pod import NewPod, Pod

WORD, USER = "hunter2-correct-horse", "shop-of-horrors"


async def test_a_password_is_in_no_log_line_span_figure_or_answer(
    group: Group, new_pod: NewPod, collector: Collector, tmp_path: Path
) -> None:
    """In a URL that is a Secret as a whole, the user's name is one too."""
    where = f"{group.server.host}:{group.server.port}/0"
    url = tmp_path / "url"
    url.write_text(f"redis://{USER}:{WORD}@{where}")
    pod = new_pod(
        "pod_handlers:fail",
        poll_interval="1s",
        redis_url_file=str(url),
        log_level="DEBUG",
        delivery_max_deliveries="1",
    )
    del pod.environment["STREAMCONSUMER_REDIS_URL"]
    pod.start(environment=collector.environment)
    port = await pod.http_port()
    heard: list[str] = []
    await eventually(lambda: "password is wrong" in answer(port, "/readyz", heard))

    await group.client.execute_command("ACL", "SETUSER", USER, "on", f">{WORD}", "~*", "+@all")  # type: ignore[no-untyped-call] # ships no types
    await group.add(1)
    await eventually(lambda: answer(port, "/readyz", heard) == "ok")
    collector.wait_for_spans(lambda spans: any(span.name == f"process {STREAM}" for span in spans))
    answer(port, "/metrics", heard)
    await group.client.execute_command("ACL", "SETUSER", USER, "-@all")  # type: ignore[no-untyped-call] # ships no types
    await eventually(lambda: "required permissions: " in answer(port, "/readyz", heard))
    for place, told in places(pod, collector, heard).items():
        assert told, place
        assert WORD not in told, place
        assert USER not in told, place


def places(pod: Pod, collector: Collector, heard: list[str]) -> dict[str, str]:
    return {"the log": pod.output.read_text(), "spans": collector.text(), "answers": "\n".join(heard)}


def answer(port: int, path: str, heard: list[str]) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as said:
            text = said.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            text = refused.read().decode()
    heard.append(text)
    return str(text).strip()
