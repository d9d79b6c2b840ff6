"""Facts → what is right, what is wrong and what to do about it. Pure."""

from collections.abc import Iterable, Iterator

from streamconsumer.cli.doctor.facts import (
    CheckResult,
    ClusterFacts,
    Dependency,
    OperatorFacts,
    PassedCheck,
    PodCheckResult,
    PodFacts,
    ServerFacts,
)
from streamconsumer.cli.status.facts import Finding
from streamconsumer.cli.status.findings import error, warning
from streamconsumer.model import names

_RESOURCE = f"{names.PLURAL}.{names.GROUP}"

PERMISSIONS: dict[str, str] = {
    f"get {_RESOURCE}": "status and doctor of one",
    f"list {_RESOURCE}": "status of all",
    f"patch {_RESOURCE}": "suspend and resume",
    "list pods": "which pods there are, in status",
    "list events.events.k8s.io": "events in report",
    "get secrets": "figures of this moment in status, where Secrets are named for Redis",
    "get pods/log": "logs in report",
    "create pods/exec": "doctor's look from within a pod, and metrics in report",
}
"""Rights of whoever uses the command line, and what each is for."""

_REQUIRED_PERMISSIONS = {f"get {_RESOURCE}", "list pods"}
"""Without these there is little to see; the others cost one thing each."""

CheckOutcome = PassedCheck | Finding


def evaluate_pod(facts: PodFacts) -> PodCheckResult:
    """What a pod needs, one after another."""
    told = [*_check_server(facts.server, facts), *_check_handler(facts.handler), *_check_collector(facts.collector)]
    return PodCheckResult(name=facts.name, **_split_outcomes(told))


def evaluate_cluster(facts: ClusterFacts, resource_findings: Iterable[Finding] = ()) -> CheckResult:
    """What the cluster needs; `more` is what is wrong with the resource itself."""
    return CheckResult(
        **_split_outcomes(
            [*_check_operators(facts), *_check_crd(facts), *_check_permissions(facts), *resource_findings]
        )
    )


def skipped(reason: str) -> Finding:
    """No pod was asked: what only a pod can tell is not known."""
    advice = "let a pod run, or run `streamconsumer doctor --from-environment` in one"
    expected = "a running pod that can be asked for its Redis, handler and collector"
    return Finding(
        severity="warning", object="the look from within a pod", found=reason, expected=expected, advice=advice
    )


def _split_outcomes(outcomes: Iterable[CheckOutcome]) -> dict[str, list[PassedCheck] | list[Finding]]:
    every = [*outcomes]
    wrong = [each for each in every if isinstance(each, Finding)]
    return {
        "checked": [each for each in every if isinstance(each, PassedCheck)],
        "findings": sorted(wrong, key=lambda each: each.severity != "error"),
    }


def _check_server(server: ServerFacts, facts: PodFacts) -> Iterator[CheckOutcome]:
    about = f"Redis {server.address}"
    if server.problem:
        advice = "correct what is named; else look whether Redis runs, at its address and at NetworkPolicies"
        expected = "a server of version 6.2 or newer that answers and allows what is required"
        yield error(about, server.problem, expected, advice)
        return
    yield PassedCheck(object=about, found=f"answers, version {server.version or 'not known'}")
    if server.lacking:
        rights = " ".join(server.lacking)
        advice = f"grant them with ACL SETUSER: {rights}; docs/redis.md lists the rights"
        yield warning("rights at Redis", f"the user lacks {rights}", "every right that is used", advice)
    else:
        yield PassedCheck(object="rights at Redis", found="the user has every right that is used")
    yield from _check_settings(server)
    yield from _check_group(server, facts)


def _check_settings(server: ServerFacts) -> Iterator[CheckOutcome]:
    for danger in server.dangers:
        yield warning("settings of Redis", danger.problem, "a server that keeps what it was given", danger.advice)
    unknown = [name for name, value in server.settings.items() if value is None]
    if unknown:
        found = f"not known, the user may not ask (CONFIG GET): {', '.join(unknown)}"
        yield PassedCheck(object="settings of Redis", found=found)
    elif not server.dangers:
        told = ", ".join(f"{name} {value or 'none'}" for name, value in server.settings.items())
        yield PassedCheck(object="settings of Redis", found=told)


def _check_group(server: ServerFacts, facts: PodFacts) -> Iterator[CheckOutcome]:
    about = f"group {facts.consumer_group!r} of {facts.stream!r}"
    if server.group_problem:
        advice = "name another key in spec.stream, or correct what is named"
        yield error(about, server.group_problem, "a stream with this group", advice)
    elif server.group == "missing":
        advice = "let a pod go on running: it creates the group"
        yield warning(about, "there is no such group", "a stream with this group", advice)
    else:
        yield PassedCheck(
            object=about, found="exists" if server.group == "exists" else "not known, the user may not ask"
        )


def _check_handler(handler: Dependency) -> Iterator[CheckOutcome]:
    if handler.problem:
        advice = "correct spec.handler, or build the image so that it can be used"
        yield error(f"handler {handler.name}", handler.problem, "a handler that can be called", advice)
    else:
        yield PassedCheck(object=f"handler {handler.name}", found="can be called")


def _check_collector(collector: Dependency | None) -> Iterator[CheckOutcome]:
    if collector is None:
        yield PassedCheck(object="collector", found="none is named: no traces, no figures are sent")
    elif collector.problem:
        advice = "check OTEL_EXPORTER_OTLP_ENDPOINT (http/protobuf), headers, certificates, NetworkPolicies"
        yield warning(f"collector {collector.name}", collector.problem, "it takes an empty export", advice)
    else:
        yield PassedCheck(object=f"collector {collector.name}", found="takes an empty export")


def _check_operators(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    if facts.operators is None:
        yield PassedCheck(object="operator", found="not known: you may not list Deployments of all namespaces")
        return
    if not facts.operators:
        advice = "install the chart streamconsumer-operator; or look whether its labels were changed"
        yield error("operator", "no Deployment of it in any namespace", "one that runs", advice)
    for each in facts.operators:
        yield _check_operator(each)


def _check_operator(operator: OperatorFacts) -> CheckOutcome:
    about, found = (
        f"operator {operator.namespace}/{operator.name}",
        f"{operator.ready} of {operator.wanted} pods ready, {operator.image}",
    )
    if operator.ready:
        return PassedCheck(object=about, found=found)
    advice = f"look at its pods: kubectl describe pods -n {operator.namespace}"
    return error(about, found, "a pod that is ready", advice)


def _check_crd(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    about = "CustomResourceDefinition"
    if facts.fields_lacking is None:
        yield PassedCheck(object=about, found="not known: you may not get it")
    elif facts.fields_lacking:
        found = f"it does not know {', '.join(facts.fields_lacking)}"
        advice = "apply the CRD of this version: streamconsumer crd | kubectl apply --server-side -f -"
        yield warning(about, found, "every field that this command line knows", advice)
    else:
        yield PassedCheck(object=about, found="knows every field that this command line knows")


def _check_permissions(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    for right, held in facts.rights.items():
        if not held:
            make = error if right in _REQUIRED_PERMISSIONS else warning
            yield make(
                "your rights", f"you may not {right}", f"it is for: {PERMISSIONS[right]}", "ask for it, or do without"
            )
    if all(facts.rights.values()):
        yield PassedCheck(object="your rights", found="all that this command line uses")
