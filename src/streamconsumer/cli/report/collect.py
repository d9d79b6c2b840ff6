"""Everything that helps somebody elsewhere to see what is wrong: a file's name → what it holds, not scrubbed yet.

Secrets are read where they may be, and only to take their values out wherever they occur.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconsumer import __version__
from streamconsumer.cli.cluster import connection
from streamconsumer.cli.cluster.findings import findings
from streamconsumer.cli.doctor.in_cluster import OPERATORS
from streamconsumer.cli.report.scrub import guesses, secret_names
from streamconsumer.errors import NotAllowed
from streamconsumer.model import names
from streamconsumer.operator.api import Refused, what_was_said
from streamconsumer.operator.cluster import Cluster

LINES = 2000
"""Of each log, from its end."""

NOT_KNOWN = "you may not get Secrets; of logs and events only what looks like a secret was taken out"

CHILDREN = [
    ("apps/v1", "Deployment"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("policy/v1", "PodDisruptionBudget"),
]

_OF_INFO = {
    *("redis_version", "valkey_version", "redis_mode", "uptime_in_seconds", "role", "loading", "connected_slaves"),
    *("used_memory", "maxmemory", "maxmemory_policy", "evicted_keys", "aof_enabled", "aof_last_write_status"),
    *("rdb_last_bgsave_status", "rdb_last_save_time", "connected_clients", "blocked_clients", "rejected_connections"),
}
"""What is told of INFO: the rest names files and people."""

Manifest = dict[str, Any]


@dataclass
class Collected:
    """A bundle's files, and what must not stand in them."""

    documents: dict[str, Any] = field(default_factory=dict)
    """What JSON can say."""
    texts: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set, repr=False)

    def keep(self, file: str, document: Any) -> None:
        self.documents[file] = document
        self.secrets.update(guesses(document))

    async def keep_if_allowed(self, file: str, asked: Awaitable[Any]) -> None:
        """What is refused stands in the bundle as such."""
        try:
            answer = await asked
        except Refused as error:
            self.texts[f"{file}.refused"] = f"{what_was_said(error)}\n"
            return
        if isinstance(answer, str):
            self.texts[file] = answer
        else:
            self.keep(file, answer)


async def collect(options: Mapping[str, Any]) -> Collected:
    """Raises ServerUnavailable where no API server answers."""
    found = Collected()
    async with connection.cluster(options["context"]) as api:
        for each in await connection.resources(api, connection.namespace_of(options), options["name"]):
            await _one(api, each, found)
        if await api.may("list", "deployments.apps", None) and await api.may("list", "pods", None):
            operators = [each async for each in api.list("apps/v1", "Deployment", None, OPERATORS)]
            found.keep("operator/deployments.json", operators)
            async for pod in api.list("v1", "Pod", None, OPERATORS):
                await _logs(api, pod, "operator/logs", found)
        await found.keep_if_allowed("kubernetes-version.json", api.version())
    found.keep("streamconsumer-version.json", {"version": __version__})
    return found


async def _one(api: Cluster, manifest: Manifest, found: Collected) -> None:
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    folder = f"{namespace}/{name}"
    found.keep(f"{folder}/streamconsumer.json", manifest)
    await found.keep_if_allowed(f"{folder}/status.json", _status(api, manifest))
    await found.keep_if_allowed(f"{folder}/pods.json", connection.pods_of(api, manifest))
    pods = found.documents.get(f"{folder}/pods.json", [])
    about = {name, f"{name}-consumer", *(pod["metadata"]["name"] for pod in pods)}
    await found.keep_if_allowed(f"{folder}/events.json", connection.events_of(api, namespace, about))
    for version, kind in CHILDREN:
        children = _listed(api, version, kind, namespace, f"{names.LABEL_CONSUMER}={name}")
        await found.keep_if_allowed(f"{folder}/{kind.lower()}s.json", children)
    for pod in pods:
        await _logs(api, pod, f"{folder}/logs", found)
    info = await connection.ask_redis(api, manifest, lambda _place: [("INFO",)])
    found.texts[f"{folder}/redis.txt"] = info if isinstance(info, str) else _info(info[0])
    documents = [each for file, each in found.documents.items() if file.startswith(f"{folder}/")]
    await _learn_secrets(api, namespace, sorted({*secret_names(documents)}), found)


async def _status(api: Cluster, manifest: Manifest) -> Manifest:
    facts = await connection.facts(api, manifest)
    told = [each.model_dump(by_alias=True, mode="json") for each in findings(facts)]
    return {**facts.model_dump(by_alias=True, mode="json"), "findings": told}


async def _listed(api: Cluster, version: str, kind: str, namespace: str, selector: str) -> list[Manifest]:
    return [each async for each in api.list(version, kind, namespace, selector)]


async def _learn_secrets(api: Cluster, namespace: str, named: list[str], found: Collected) -> None:
    for name in named:
        try:
            values = await api.secret(namespace, name) or {}
        except NotAllowed:
            found.texts[f"{namespace}/secrets.refused"] = f"not read: {NOT_KNOWN}\n"
            return
        found.secrets.update(each.decode(errors="replace") for each in values.values())


async def _logs(api: Cluster, pod: Manifest, folder: str, found: Collected) -> None:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for container in pod["spec"]["containers"]:
        for previous in (False, True):
            file = f"{folder}/{name}-{container['name']}{'-previous' if previous else ''}.log"
            log = api.log(namespace, name, container["name"], lines=LINES, previous=previous)
            await found.keep_if_allowed(file, log)


def _info(answer: Any) -> str:
    if not isinstance(answer, bytes):
        return f"{answer.sentence}\n"
    lines = answer.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.partition(":")[0] in _OF_INFO) + "\n"
