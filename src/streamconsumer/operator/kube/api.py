"""HTTP requests to the Kubernetes API server, with JSON bodies. Only this module uses the Python package `kubernetes`.

The package `kubernetes` provides the authentication methods and the connections. This module does not use the model
classes of `kubernetes`, because converting an object costs more CPU time than the request.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import TCPConnector, ThreadedResolver
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException, ConflictException, NotFoundException
from kubernetes.aio.client.rest import RESTClientObject, RESTResponse
from kubernetes.aio.config import ConfigException
from multidict import CIMultiDict

from streamconsumer.errors import ApiThrottled, InvalidSettings
from streamconsumer.operator.kube.exec_plugin import captured_errors, plugin_failure
from streamconsumer.operator.kube.http_proxy import find_proxy
from streamconsumer.operator.kube.kubeconfig import read_kubeconfig

ApiError = ApiException
"""An error response of the API server."""

Conflict = ConflictException
"""The error response to a write with an outdated resourceVersion, or to the creation of an object that already
exists."""

NotFound = NotFoundException
"""The error response to a request for an object that does not exist."""

Headers = tuple[tuple[str, str], ...]
"""HTTP headers as pairs of name and value. A name may occur several times."""

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml; charset=utf-8"
"""Content type of a server-side apply. The content type contains a charset, so that the package `kubernetes` sends a
body of bytes unchanged."""

UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Header of a request whose response is read in parts. The header prevents compression, because a small part of a
compressed response can contain many megabytes."""

CHUNK_BYTES = 65_536
LARGE_BYTES = 262_144
REQUEST_TIMEOUT_SECONDS = 30
RETRYABLE_STATUSES = (429, 503)
MAX_RETRY_AFTER = timedelta(minutes=2)
TOKEN_INTERVAL = timedelta(minutes=1)
"""The interval at which the token of the service account is read again. The kubelet replaces the token before the token
expires."""

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _RestClient(RESTClientObject):
    """HTTP client that looks up the host name of the API server with the C library, as kubectl does.

    By default, aiohttp uses c-ares if the package aiodns is installed, and c-ares does not support the split DNS of a
    VPN. Look-ups of Redis servers do not use the C library's resolver, and so cannot delay look-ups of the API
    server."""

    def _create_connector(self) -> TCPConnector:
        return TCPConnector(limit=self.maxsize, ssl=self.ssl_context, resolver=ThreadedResolver())


class KubeApi:
    """Requests to one API server.

    A request raises ApiThrottled if the response says when to retry (Retry-After). Other error responses raise
    ApiError, Conflict or NotFound."""

    def __init__(self, client: ApiClient, impersonation: Headers = ()) -> None:
        self._client = client
        self._impersonation = impersonation
        self._large_response = asyncio.Lock()

    async def request_json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = JSON,
        query: Mapping[str, str] = {},
        with_field_owners: bool = False,
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the response. `metadata.managedFields` is removed unless
        `with_field_owners` is set.

        Large responses are parsed one after another, because a response of 1.5 MB can take 30 MB after parsing. Parsing
        takes up to 70 ms, so the caller continues in a later callback of the event loop."""
        headers = {"Content-Type": content_type, "Accept": JSON}
        data = await self._request(method, path, body, headers, query)
        if len(data) < LARGE_BYTES:
            return _parse(data, with_field_owners)
        async with self._large_response:
            document = _parse(data, with_field_owners)
            await asyncio.sleep(0)
            return document

    async def request_text(self, method: str, path: str, *, query: Mapping[str, str] = {}) -> str:
        """Send a request and return the body of the response as text."""
        return (await self._request(method, path, None, {"Accept": "*/*"}, query)).decode(errors="replace")

    async def get_chunks(self, path: str, *, query: Mapping[str, str] = {}) -> AsyncIterator[bytes]:
        """Yield the body of the response in parts of at most CHUNK_BYTES, as the parts are received."""
        response = await self._send("get", path, None, {"Accept": JSON, **UNCOMPRESSED}, query)
        async with response.response as received:
            async for chunk in received.content.iter_chunked(CHUNK_BYTES):
                yield chunk

    async def _request(
        self, method: str, path: str, body: Any, headers: dict[str, str], query: Mapping[str, str]
    ) -> bytes:
        response = await self._send(method, path, body, headers, query)
        data: bytes = await response.read()  # type: ignore[no-untyped-call]
        return data

    async def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str], query: Mapping[str, str]
    ) -> RESTResponse:
        """Send a request and return the response before its body is read. Raises an error if the response is an
        error."""
        configuration = self._client.configuration
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        authorization = {"Authorization": token} if token else {}
        all_headers = CIMultiDict(
            [*{**self._client.default_headers, **headers, **authorization}.items(), *self._impersonation]
        )
        url = f"{configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        response = await self._client.call_api(
            method.upper(), url, all_headers, body, _request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        if not 200 <= response.status <= 299:
            await response.read()  # type: ignore[no-untyped-call]
            _raise_api_error(f"{method} {path}", response)
        return response

    async def server_endpoints(self) -> set[tuple[str, int]]:
        """Return the known hosts and ports of the API server: the address in the configuration, the Service in the
        environment, and the address that the API server announces to clients.

        The API server announces its own address, which differs from the address of the Service and may contain a host
        name. The Endpoints of the Service are not used, because reading the Endpoints requires one more permission."""
        endpoints = [self._client.configuration.host, _service_url(), *await self._announced_addresses()]
        return {_host_and_port(endpoint) for endpoint in endpoints if endpoint}

    async def _announced_addresses(self) -> list[str]:
        try:
            versions = await self.request_json("get", "/api")
        except ApiError:  # the cluster restricts the discovery of APIs
            return []
        return [f"https://{each['serverAddress']}" for each in versions.get("serverAddressByClientCIDRs", [])]


@asynccontextmanager
async def connect(context: str | None = None) -> AsyncIterator[KubeApi]:
    """Connect with the service account of the pod or, outside a pod, with the kubeconfig that kubectl uses.

    If `context` is set, the kubeconfig is used even in a pod. Raises InvalidSettings if there is no usable
    kubeconfig."""
    connection = await load_connection(context)
    async with ApiClient(connection.configuration) as client:
        client.rest_client = _RestClient(connection.configuration)
        yield KubeApi(client, connection.impersonation)


@dataclass(frozen=True)
class Connection:
    """Address and credentials of an API server."""

    configuration: Configuration
    impersonation: Headers = ()
    """Impersonation headers, which are sent with each request. The headers make the API server use the permissions of
    another user."""


async def load_connection(context: str | None = None) -> Connection:
    """Return the connection that `connect` uses. Raises InvalidSettings if there is no usable kubeconfig."""
    configuration = Configuration()
    # This setting disables only the strict check of the CA certificate's form, which Python 3.13 enables by default.
    # The CA certificates of many clusters fail this check. The chain and the name of the server's certificate are still
    # verified.
    configuration.disable_strict_ssl_verification = True
    impersonation: Headers = ()
    if context is not None or not _is_in_cluster(configuration):
        impersonation = await _load_kubeconfig(context, configuration)
    configuration.proxy = configuration.proxy or find_proxy(configuration.host)
    # With trust_env, aiohttp would use a thread for each request, to read environment variables and ~/.netrc.
    configuration.client_session_kwargs = {"trust_env": False}
    return Connection(configuration, impersonation)


def _service_url() -> str:
    """Return the URL of the API server's Service, from the environment variables of the pod. Empty outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else ""


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _parse(data: bytes, with_field_owners: bool) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data)
    if "metadata" in document and not with_field_owners:
        document["metadata"].pop("managedFields", None)
    return document


def as_yaml(value: Any) -> bytes:
    """Encode a value as YAML. The result looks like JSON but uses the escapes of YAML, such as `\\xe9` and
    `\\U0001f600`.

    YAML rejects or changes some unescaped characters, so all characters except printable ASCII are escaped. JSON would
    escape a character above U+FFFF as a surrogate pair, which YAML does not support."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\x7f")
    return text.encode("ascii", "backslashreplace")


def _is_in_cluster(configuration: Configuration) -> bool:
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        return False
    configuration.refresh_api_key_hook = _in_thread(configuration.refresh_api_key_hook)  # type: ignore[assignment,arg-type] # ships no types
    return True


def _in_thread(read_token: Callable[[Configuration], None]) -> Callable[[Configuration], Awaitable[None]]:
    """Return a hook that calls `read_token` in a thread, at most once per TOKEN_INTERVAL. Without this hook, the
    package `kubernetes` would read the token file on the event loop."""
    next_seconds = time.monotonic() + TOKEN_INTERVAL.total_seconds()

    async def refresh(configuration: Configuration) -> None:
        nonlocal next_seconds
        if time.monotonic() >= next_seconds:
            next_seconds = time.monotonic() + TOKEN_INTERVAL.total_seconds()
            await asyncio.to_thread(read_token, configuration)

    return refresh


async def _load_kubeconfig(context: str | None, configuration: Configuration) -> Headers:
    """Copy the context's address and credentials into `configuration`. Returns the impersonation headers of the
    context."""
    kubeconfig = read_kubeconfig(context)
    if kubeconfig is None:
        raise InvalidSettings(
            "no Kubernetes cluster: found neither a service account nor a usable kubeconfig with a current context; "
            "set KUBECONFIG to the path of a kubeconfig, or run `kubectl config use-context NAME`"
        )
    try:
        with captured_errors() as errors:
            await config.load_kube_config_from_dict(  # type: ignore[no-untyped-call]
                kubeconfig.document(), client_configuration=configuration
            )
    except (ConfigException, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, ConfigException) else "invalid credentials"
        raise InvalidSettings(f"no Kubernetes cluster: the kubeconfig is not usable: {reason}") from None
    # The package `kubernetes` only logs the failure of an exec plugin, and would continue as an anonymous user.
    if "exec" in kubeconfig.user and not (configuration.api_key or configuration.cert_file):
        raise InvalidSettings(f"no Kubernetes cluster: {plugin_failure(kubeconfig.user['exec'], errors, context)}")
    return kubeconfig.impersonation


def default_namespace(context: str | None = None) -> str:
    """Return the namespace that kubectl uses by default: the namespace of `context`, of the pod, or of the kubeconfig's
    current context."""
    with suppress(OSError):
        if context is None:
            return NAMESPACE_FILE.read_text().strip()
    kubeconfig = read_kubeconfig(context)
    return kubeconfig.namespace if kubeconfig else "default"


def api_error_message(error: Exception) -> str:
    """Return the message in an error response of the API server, or the type and the text of any other error."""
    with suppress(TypeError, ValueError, KeyError):
        return str(json.loads(getattr(error, "body", None))["message"])  # type: ignore[arg-type] # None raises TypeError
    return f"{type(error).__name__}: {error}"


def _retry_after(error: ApiException) -> timedelta | None:
    """Return the delay in the header Retry-After, at most MAX_RETRY_AFTER. The API server sends a number of
    seconds. If a proxy sends a date instead, the date is ignored."""
    seconds = str((error.headers or {}).get("Retry-After", ""))
    if error.status not in RETRYABLE_STATUSES or not re.fullmatch("[0-9]{1,9}", seconds):
        return None
    return min(timedelta(seconds=int(seconds)), MAX_RETRY_AFTER) or None


def _raise_api_error(request_line: str, response: RESTResponse) -> None:
    try:
        ApiException.from_response(http_resp=response, body=None, data=None)
    except ApiException as error:
        if delay := _retry_after(error):
            raise ApiThrottled(f"{request_line}: {api_error_message(error)}", delay) from None
        raise
