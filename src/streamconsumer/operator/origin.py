"""Whose doing a Deployment is: the trace of the reconcile that wrote it, on its metadata; and of the one that had the
pods made, in their variables TRACEPARENT and TRACESTATE.

A template that differs replaces all pods, and telemetry must never do that. So the variables change only where the
template changes anyway, and otherwise stay as they are, whether or not the operator traces by now. They count neither
as drift nor in the hash of what was applied; a note on the metadata says that they are ours, and for which template.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from streamconsumer.model import names
from streamconsumer.operator.drift import holds
from streamconsumer.operator.kept import mapping
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.environment import exact
from streamconsumer.operator.manifests.identity import digest
from streamconsumer.operator.traced import ENDPOINTS

TRACEPARENT, TRACESTATE = "tracing.k8s.io/traceparent", "tracing.k8s.io/tracestate"
"""Annotations by which a trace is carried on in objects: KEP-5915."""

ANNOTATIONS = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
VARIABLES = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}

Variables = list[Manifest]


async def told(
    live: Manifest | None,
    wanted: Manifest,
    carrier: Mapping[str, str],
    tried: Callable[[Manifest], Awaitable[Manifest | None]],
) -> Manifest:
    """A Deployment as it is applied. `carrier` is the context of the reconcile, empty where nobody traces; `tried` says
    what applying would make of it, or None where that cannot be known."""
    template = digest(wanted["spec"]["template"])
    ours, offered = _ours(live), _offered(wanted, carrier)
    noted = _noted(wanted, {name: carrier[key] for key, name in ANNOTATIONS.items() if key in carrier})
    if _users(wanted) or not (ours or offered):
        return noted
    if live is None:
        given = offered
    elif _annotations(live).get(names.ANNOTATION_TEMPLATE) == template:
        given = ours
    else:
        given = offered if await _replaces_pods(live, wanted, _with(wanted, ours), tried) else ours
    if not (given or offered):
        return noted
    return _noted(_with(noted, given), {names.ANNOTATION_TEMPLATE: template})


async def _replaces_pods(
    live: Manifest, wanted: Manifest, kept: Manifest, tried: Callable[[Manifest], Awaitable[Manifest | None]]
) -> bool:
    """Whether the pods are replaced whatever their variables say. That something was taken out, only the API server
    knows: what else is there may be its default, or somebody else's."""
    before = live["spec"]["template"]
    if not holds(before, wanted["spec"]["template"]):
        return True
    after = await tried(kept)
    if after is None or after["metadata"].get("resourceVersion") != live["metadata"].get("resourceVersion"):
        return False  # it cannot be told, or what is remembered of it is old
    return bool(after["spec"]["template"] != before)


def _offered(wanted: Manifest, carrier: Mapping[str, str]) -> Variables:
    """To pods that would tell of it, if the variables that we see name an endpoint."""
    if not {each["name"] for each in _variables(wanted)} & set(ENDPOINTS):
        return []
    return [{"name": name, "value": exact(carrier[key])} for key, name in VARIABLES.items() if key in carrier]


def _users(wanted: Manifest) -> Variables:
    """Those of `spec.env`: they win, and neither is ours then."""
    return [each for each in _variables(wanted) if each["name"] in VARIABLES.values()]


def _ours(live: Manifest | None) -> Variables:
    """As they are found, edited or not. Without the note they are a user's, who may have taken them out since."""
    if live is None or names.ANNOTATION_TEMPLATE not in _annotations(live):
        return []
    return [each for each in _variables(live) if each["name"] in VARIABLES.values()]


def _variables(deployment: Manifest) -> Variables:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return [each for one in containers if one["name"] == names.CONTAINER for each in one.get("env") or ()]


def _with(wanted: Manifest, variables: Variables) -> Manifest:
    """With these as the last variables of the processor."""
    spec = wanted["spec"]
    pod = spec["template"]["spec"]
    containers = [
        {**each, "env": [*each["env"], *variables]} if each["name"] == names.CONTAINER else each
        for each in pod["containers"]
    ]
    template = {**spec["template"], "spec": {**pod, "containers": containers}}
    return {**wanted, "spec": {**spec, "template": template}}


def _annotations(deployment: Manifest) -> dict[str, Any]:
    return mapping(deployment["metadata"].get("annotations"))


def _noted(deployment: Manifest, notes: Mapping[str, str]) -> Manifest:
    metadata = deployment["metadata"]
    return {**deployment, "metadata": {**metadata, "annotations": {**_annotations(deployment), **notes}}}
