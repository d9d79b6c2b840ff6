"""Kubelet stub that serves container logs to a real API server. No pod runs on its node."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.cluster.certificates import Authority
from tests.operator.namespace import Namespace

NODES = "/api/v1/nodes"


class Kubelet:
    """Logs by name: `pod/container` or `pod/container/previous`."""

    def __init__(self, node: str, logs: dict[str, str]) -> None:
        self.node = node
        self.logs = logs
        self.requested_lines: dict[str, int] = {}
        """Number of requested lines by log."""

    def read_log(self, path: str) -> str | None:
        """Return the log for a request path and record the number of requested lines."""
        url = urlsplit(path)
        query = parse_qs(url.query)
        _, pod, container = url.path.removeprefix("/containerLogs/").split("/")
        log = f"{pod}/{container}" + ("/previous" if query.get("previous") == ["true"] else "")
        self.requested_lines[log] = int(query["tailLines"][0])
        return self.logs.get(log)


@contextmanager
def kubelet(place: Namespace, folder: Path, logs: dict[str, str]) -> Iterator[Kubelet]:
    """Register a node whose kubelet serves these logs."""
    stub = Kubelet(f"node-of-{place.name}", logs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            log = stub.read_log(self.path)
            self.send_response(404 if log is None else 200)
            self.end_headers()
            self.wfile.write((log or "no such log").encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    signed = Authority(folder, "kubelet-authority").sign("kubelet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": stub.node}}
    place.cluster.request("POST", NODES, node)
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}},
    }
    place.cluster.request("PATCH", f"{NODES}/{stub.node}/status", {"status": status})
    try:
        yield stub
    finally:
        place.cluster.request("DELETE", f"{NODES}/{stub.node}")
        server.shutdown()
        server.server_close()
        thread.join()
