"""One connection to the API server: a request in, JSON out. The only user of the package `kubernetes`, which knows the
ways to log in and has the connections; what it would do around a request costs more than the request.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException, ConflictException, NotFoundException
from kubernetes.aio.client.rest import RESTResponse
from kubernetes.aio.config import ConfigException
from yaml import YAMLError

from streamconsumer.errors import ApiThrottled, InvalidSettings

ApiError, Conflict, NotFound = ApiException, ConflictException, NotFoundException
"""What is raised where the API server refuses; where somebody else was faster; where there is no such object."""

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml; charset=utf-8"
"""With a charset, the package `kubernetes` takes a body of bytes and sends it unchanged."""

REQUEST_TIMEOUT_SECONDS = 30
RETRYABLE_STATUSES = (429, 503)
MAX_RETRY_AFTER = timedelta(minutes=2)
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubeApi:
    """Requests to one API server. Each raises ApiThrottled where the answer is when to ask again, and Refused, FASTER or
    MISSING where it is another refusal."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def request_json(
        self, method: str, path: str, *, body: Any = None, content_type: str = JSON, query: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """The object that is answered, in JSON."""
        headers = {"Content-Type": content_type, "Accept": JSON}
        answer: dict[str, Any] = json.loads(await self._request(method, path, body, headers, query))
        return answer

    async def request_text(self, method: str, path: str, *, query: Mapping[str, str] = {}) -> str:
        """What is answered, as it is."""
        return (await self._request(method, path, None, {"Accept": "*/*"}, query)).decode(errors="replace")

    async def _request(
        self, method: str, path: str, body: Any, headers: dict[str, str], query: Mapping[str, str]
    ) -> bytes:
        configuration = self._client.configuration
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {**self._client.default_headers, **headers, **({"Authorization": token} if token else {})}
        url = f"{configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = await self._client.call_api(
            method.upper(), url, headers, body, _request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        data: bytes = await answer.read()  # type: ignore[no-untyped-call]
        if not 200 <= answer.status <= 299:
            _raise_api_error(f"{method} {path}", answer)
        return data


@asynccontextmanager
async def connect(context: str | None = None) -> AsyncIterator[KubeApi]:
    """By the pod's service account, or else by the kubeconfig file that kubectl would take. Who names a context means
    the file, in a pod too."""
    configuration = Configuration()
    # Chain and name are verified. What Python 3.13 asks beyond that of a certificate's form, the authorities of many
    # clusters do not have.
    configuration.disable_strict_ssl_verification = True
    if context is not None or not _is_in_cluster(configuration):
        await _load_kubeconfig(context, configuration)
    host = urlsplit(configuration.host)
    if not (proxy_bypass(host.hostname or "") or proxy_bypass(host.netloc)):
        configuration.proxy = configuration.proxy or getproxies().get(host.scheme)
    # aiohttp would take the proxy from the environment by itself, and read ~/.netrc for each request in a thread.
    configuration.client_session_kwargs = {"trust_env": False}
    async with ApiClient(configuration) as found:
        yield KubeApi(found)


def as_yaml(value: Any) -> bytes:
    """JSON that is YAML too: YAML has no escape for half of a surrogate pair, and refuses or folds some raw characters
    below U+10000."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _is_in_cluster(configuration: Configuration) -> bool:
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        return False
    return True


async def _load_kubeconfig(context: str | None, configuration: Configuration) -> None:
    try:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            context=context, client_configuration=configuration
        )
    except ConfigException as error:
        raise _no_cluster_error(str(error)) from None
    except (YAMLError, AttributeError, KeyError, TypeError, ValueError):  # of an empty file, for example
        raise _no_cluster_error("what the file holds is none") from None


def _no_cluster_error(reason: str) -> InvalidSettings:
    return InvalidSettings(
        f"no Kubernetes to speak to: not in a pod, and no usable kubeconfig ({reason}); set KUBECONFIG"
    )


def default_namespace(context: str | None = None) -> str:
    """The namespace of a context, of the current one by default, or the pod's own; as kubectl has it."""
    with suppress(OSError):
        if context is None:
            return NAMESPACE_FILE.read_text().strip()
    with suppress(ConfigException):
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        chosen = next((each for each in contexts if each["name"] == context), current)
        return str(chosen["context"].get("namespace") or "default")
    return "default"


def api_error_message(error: Exception) -> str:
    """The API server's own sentence, where the error is its answer; without headers and tracebacks."""
    with suppress(TypeError, ValueError, KeyError):
        return str(json.loads(getattr(error, "body", None))["message"])  # type: ignore[arg-type] # None is a TypeError
    return f"{type(error).__name__}: {error}"


def _retry_after(error: ApiException) -> timedelta | None:
    """What the server asked for, within reason. It says seconds; a date, as proxies may say, counts as nothing."""
    said = str((error.headers or {}).get("Retry-After", ""))
    if error.status not in RETRYABLE_STATUSES or not said.isdecimal():
        return None
    return min(timedelta(seconds=int(said)), MAX_RETRY_AFTER) or None


def _raise_api_error(request_line: str, response: RESTResponse) -> None:
    try:
        ApiException.from_response(http_resp=response, body=None, data=None)
    except ApiException as error:
        if after := _retry_after(error):
            raise ApiThrottled(f"{request_line}: {api_error_message(error)}", after) from None
        raise
