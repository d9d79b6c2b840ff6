"""`helm test`: publish a message, create a StreamConsumer for it, and wait until a pod has acknowledged the message.

Runs in the stock processor image. The image contains redis-py but no Kubernetes client. The script sends its few API
requests with `urllib`.
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

from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, group_key

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAME, NAMESPACE = "helm-test", os.environ["POD_NAMESPACE"]
STREAM = f"{NAME}-{os.environ['POD_UID']}"
COMPANION_KEYS = [group_key(STREAM, NAME, suffix) for suffix in (*COMPANION_SUFFIXES, "dead-letters")]
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
"""Deletion options: delete the StreamConsumer after its pods."""

HANDLED_WITHIN_SECONDS, DELETED_WITHIN_SECONDS = float(os.environ["TEST_SECONDS"]), 60.0


def main() -> None:
    """Run the test. Exits with an error message if a step fails."""
    server = redis.Redis.from_url(os.environ["TEST_REDIS_URL"], decode_responses=True, socket_timeout=10)
    kubernetes("DELETE", f"/{NAME}", WITH_PODS)  # an earlier test may have been killed
    eventually(
        "the StreamConsumer of an earlier test is deleted",
        lambda: kubernetes("GET", f"/{NAME}") is None,
        DELETED_WITHIN_SECONDS,
    )
    with cleaning_up(server):
        server.xadd(STREAM, {"hello": "from helm test"})
        metadata = {"name": NAME, "namespace": NAMESPACE}
        consumer = {"apiVersion": "streamconsumer.dev/v1alpha1", "kind": "StreamConsumer", "metadata": metadata}
        kubernetes("POST", "", {**consumer, "spec": SPEC})
        eventually("the message is handled and acknowledged", lambda: handled(server), HANDLED_WITHIN_SECONDS)
    print("a message was published, handled by a pod of a StreamConsumer, and acknowledged")


@contextmanager
def cleaning_up(server: "redis.Redis[str]") -> Iterator[None]:
    """Delete the StreamConsumer, then its keys, even if the test fails. Running pods would create deleted keys
    again."""
    try:
        yield
    finally:
        kubernetes("DELETE", f"/{NAME}", WITH_PODS)
        eventually(
            "the StreamConsumer is deleted", lambda: kubernetes("GET", f"/{NAME}") is None, DELETED_WITHIN_SECONDS
        )
        server.delete(STREAM, *COMPANION_KEYS)


def handled(server: "redis.Redis[str]") -> bool:
    """Return True if a message was read and no message is pending, which means that the message was acknowledged."""
    try:
        groups = server.xinfo_groups(STREAM)
    except redis.ResponseError:  # no group exists yet
        return False
    return any(group["last-delivered-id"] != "0-0" and group["pending"] == 0 for group in groups)


def eventually(condition: str, is_met: Any, seconds: float) -> None:
    """Poll until the condition is met. After `seconds`, exits with an error that contains the StreamConsumer's
    status."""
    deadline = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > deadline:
            consumer = kubernetes("GET", f"/{NAME}") or {}
            status = json.dumps(consumer.get("status"), indent=1)
            sys.exit(
                f"timed out after {seconds:g} s, waiting until {condition}; "
                f"status of StreamConsumer {NAMESPACE}/{NAME}: {status}"
            )
        time.sleep(0.2)


def kubernetes(method: str, path: str, body: object = None) -> dict[str, Any] | None:
    """Call the API server. Returns the response, or None if the object does not exist."""
    token = (ACCOUNT / "token").read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' CA certificates have no key identifier
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(CONSUMERS + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as response:
            result: dict[str, Any] = json.load(response)
            return result
    except urllib.error.HTTPError as error:
        if error.code == 404 and path:
            return None
        return sys.exit(f"{method} StreamConsumer {NAMESPACE}/{NAME} returned {error.code}: {error.read().decode()}")


if __name__ == "__main__":
    main()
