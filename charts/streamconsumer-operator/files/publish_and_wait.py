"""`helm test`: publish a message, make a StreamConsumer for it, and wait until a pod of that has acknowledged it.

Runs in the stock processor image: redis-py is there, a client of Kubernetes is not, and four requests need none.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAME, NAMESPACE = "helm-test", os.environ["POD_NAMESPACE"]
STREAM = f"{NAME}-{os.environ['POD_UID']}"
BESIDE = [f"{{{STREAM}}}:{NAME}:{what}" for what in ("consumers", "readers", "postponed", "last-known", "dead-letters")]
CONSUMERS = f"https://kubernetes.default.svc/apis/streamconsumer.dev/v1alpha1/namespaces/{NAMESPACE}/streamconsumers"
SOURCE = "async def handle(data):\n    print('helm test: handled', data, flush=True)\n"
SPEC: dict[str, Any] = {
    "redis": json.loads(os.environ["TEST_REDIS"]),
    "stream": STREAM,
    "consumerGroup": NAME,
    "handler": {"source": SOURCE},
    "imagePullSecrets": json.loads(os.environ["TEST_PULL_SECRETS"]),
}
WITH_PODS = {"propagationPolicy": "Foreground"}
"""The StreamConsumer is gone only after its pods."""

PATIENCE, ENDING = float(os.environ["TEST_SECONDS"]), 60.0


def main() -> None:
    """Exits with a sentence where something is not as it should be."""
    server = redis.Redis.from_url(os.environ["TEST_REDIS_URL"], decode_responses=True, socket_timeout=10)
    kubernetes("DELETE", f"/{NAME}", WITH_PODS)  # of a test that was killed
    eventually("the StreamConsumer of an earlier test is gone", lambda: kubernetes("GET", f"/{NAME}") is None, ENDING)
    with cleaning_up(server):
        server.xadd(STREAM, {"hello": "from helm test"})
        metadata = {"name": NAME, "namespace": NAMESPACE}
        consumer = {"apiVersion": "streamconsumer.dev/v1alpha1", "kind": "StreamConsumer", "metadata": metadata}
        kubernetes("POST", "", {**consumer, "spec": SPEC})
        eventually("the message is handled and acknowledged", lambda: handled(server), PATIENCE)
    print("a message was published, handled by a pod of a StreamConsumer, and acknowledged")


@contextmanager
def cleaning_up(server: "redis.Redis[str]") -> Iterator[None]:
    """Neither the StreamConsumer nor a key of it stays, however the test ends. The pods end first: they would make
    their keys again."""
    try:
        yield
    finally:
        kubernetes("DELETE", f"/{NAME}", WITH_PODS)
        eventually("the StreamConsumer is gone", lambda: kubernetes("GET", f"/{NAME}") is None, ENDING)
        server.delete(STREAM, *BESIDE)


def handled(server: "redis.Redis[str]") -> bool:
    """One message was read, and none is pending: it was acknowledged."""
    try:
        groups = server.xinfo_groups(STREAM)
    except redis.ResponseError:  # nobody has made the group yet
        return False
    return any(group["last-delivered-id"] != "0-0" and group["pending"] == 0 for group in groups)


def eventually(what: str, holds: Any, seconds: float) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            found = kubernetes("GET", f"/{NAME}") or {}
            status = json.dumps(found.get("status"), indent=1)
            sys.exit(f"not within {seconds:g} s: {what}; the status of StreamConsumer {NAMESPACE}/{NAME}: {status}")
        time.sleep(0.2)


def kubernetes(method: str, path: str, body: object = None) -> dict[str, Any] | None:
    """The API server's answer; None when there is no such thing."""
    token = (ACCOUNT / "token").read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' authorities have no key identifier
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(CONSUMERS + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404 and path:
            return None
        return sys.exit(f"{method} StreamConsumer {NAMESPACE}/{NAME} answered {error.code}: {error.read().decode()}")


if __name__ == "__main__":
    main()
