"""No output of a pod contains a secret, whatever fails."""

import urllib.error
import urllib.request
from pathlib import Path

from tests.cluster.collector import Collector
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.pod import NewPod, Pod

WORD, USER = "hunter2-correct-horse", "shop-of-horrors"


async def test_password_is_in_no_log_line_span_metric_or_probe_response(
    group: Group, new_pod: NewPod, collector: Collector, tmp_path: Path
) -> None:
    """If the whole URL is a Secret, the user name in it is secret too."""
    address = f"{group.server.host}:{group.server.port}/0"
    url = tmp_path / "url"
    url.write_text(f"redis://{USER}:{WORD}@{address}")
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
    for place, text in places(pod, collector, heard).items():
        assert text, place
        assert WORD not in text, place
        assert USER not in text, place


def places(pod: Pod, collector: Collector, heard: list[str]) -> dict[str, str]:
    return {"the log": pod.output.read_text(), "spans": collector.text(), "answers": "\n".join(heard)}


def answer(port: int, path: str, heard: list[str]) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
            text = response.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            text = refused.read().decode()
    heard.append(text)
    return str(text).strip()
