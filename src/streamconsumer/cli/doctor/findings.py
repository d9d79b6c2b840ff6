"""Evaluates the observations of `doctor`. Each observation becomes a passed check or a problem with a remedy.

The functions in this module have no side effects.
"""

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
from streamconsumer.cli.status.findings import INSTALL_COMMAND, error, unreadable_secrets, warning
from streamconsumer.model import names

_RESOURCE = f"{names.PLURAL}.{names.GROUP}"

PERMISSIONS: dict[str, str] = {
    f"get {_RESOURCE}": "status and doctor with NAME",
    f"list {_RESOURCE}": "status without NAME",
    f"patch {_RESOURCE}": "suspend and resume",
    "list pods": "pods in status, and the checks of doctor in a pod",
    "list events.events.k8s.io": "Events in report",
    "get secrets": "current Redis values in status, if spec.redis references Secrets",
    "get pods/log": "logs in report",
    "create pods/exec": "the checks of doctor in a pod, and metrics in report",
}
"""Permissions that the commands require of the caller, each with the feature that needs the permission."""

_REQUIRED_PERMISSIONS = {f"get {_RESOURCE}", "list pods"}
"""Required permissions. If a required permission is missing, `doctor` reports an error. For an optional permission,
`doctor` reports a warning."""

CheckOutcome = PassedCheck | Finding


def evaluate_pod(facts: PodFacts) -> PodCheckResult:
    """Evaluate the dependencies of a pod: Redis, the handler and the collector."""
    outcomes = [*_check_server(facts.server, facts), *_check_handler(facts.handler), *_check_collector(facts.collector)]
    return PodCheckResult(name=facts.name, **_split_outcomes(outcomes))


def evaluate_cluster(facts: ClusterFacts, resource_findings: Iterable[Finding] = ()) -> CheckResult:
    """Evaluate the operator, the CRD and the permissions, and add the problems of the StreamConsumer."""
    checks = [*_check_operators(facts), *_check_secret_access(facts), *_check_crd(facts), *_check_permissions(facts)]
    subjects = {check.object for check in checks}  # a check reports more than the status does, such as a command
    others = [finding for finding in resource_findings if finding.object not in subjects]
    return CheckResult(**_split_outcomes([*checks, *others]))


def skipped(reason: str) -> Finding:
    """Return a warning that no pod ran the checks. The warning contains `reason`."""
    advice = "start a pod, or run `streamconsumer doctor --from-environment` in a pod"
    expected = "a running pod that checks Redis, the handler and the collector"
    return warning("checks in a pod", reason, expected, advice)


def _split_outcomes(outcomes: Iterable[CheckOutcome]) -> dict[str, list[PassedCheck] | list[Finding]]:
    all_outcomes = [*outcomes]
    findings = [each for each in all_outcomes if isinstance(each, Finding)]
    return {
        "passed": [each for each in all_outcomes if isinstance(each, PassedCheck)],
        "findings": sorted(findings, key=lambda finding: finding.severity != "error"),
    }


def _check_server(server: ServerFacts, facts: PodFacts) -> Iterator[CheckOutcome]:
    subject = f"Redis {server.address}"
    if server.problem:
        advice = (
            "correct the setting that the message names, or check that Redis is running and is reachable from the pod"
        )
        expected = "a server of version 6.2 or newer that answers and grants the required permissions"
        yield error(subject, server.problem, expected, advice)
        return
    yield PassedCheck(object=subject, found=f"answers, version {server.version or 'unknown'}")
    if risk := server.version_risk:
        yield warning("Redis version", risk.problem, "a version without known dangerous faults", risk.advice)
    if server.missing_permissions:
        permissions = " ".join(server.missing_permissions)
        advice = f"grant them with ACL SETUSER: {permissions}; docs/redis.md lists the permissions"
        yield warning("Redis permissions", f"the user is missing {permissions}", "every required permission", advice)
    else:
        yield PassedCheck(object="Redis permissions", found="the user has every required permission")
    yield from _check_settings(server)
    yield from _check_group(server, facts)


def _check_settings(server: ServerFacts) -> Iterator[CheckOutcome]:
    for setting in server.risky_settings:
        yield warning("Redis settings", setting.problem, "a server that does not lose entries", setting.advice)
    unknown = [name for name, value in server.settings.items() if value is None]
    if unknown:
        found = f"unknown, because the user is not allowed to read the settings (CONFIG GET): {', '.join(unknown)}"
        yield PassedCheck(object="Redis settings", found=found)
    elif not server.risky_settings:
        settings = ", ".join(f"{name} {value or 'none'}" for name, value in server.settings.items())
        yield PassedCheck(object="Redis settings", found=settings)


def _check_group(server: ServerFacts, facts: PodFacts) -> Iterator[CheckOutcome]:
    subject = f"group {facts.consumer_group!r} of {facts.stream!r}"
    if server.group_problem:
        advice = "set another key in spec.stream, or correct the problem that the message names"
        yield error(subject, server.group_problem, "a stream with this group", advice)
    elif server.group == "missing":
        advice = "wait until a pod is running, because the pod creates the group"
        yield warning(subject, "the group does not exist", "a stream with this group", advice)
    else:
        unknown = "unknown, because the user is not allowed to read the group"
        yield PassedCheck(object=subject, found="exists" if server.group == "exists" else unknown)


def _check_handler(handler: Dependency) -> Iterator[CheckOutcome]:
    if handler.problem:
        advice = "correct spec.handler, or add the handler to the image"
        yield error(f"handler {handler.name}", handler.problem, "a callable handler", advice)
    else:
        yield PassedCheck(object=f"handler {handler.name}", found="can be called")


def _check_collector(collector: Dependency | None) -> Iterator[CheckOutcome]:
    if collector is None:
        yield PassedCheck(object="collector", found="not configured; no traces or metrics are exported")
    elif collector.problem:
        advice = (
            "check OTEL_EXPORTER_OTLP_ENDPOINT (http/protobuf), the headers, the certificates and the NetworkPolicies"
        )
        yield warning(
            f"collector {collector.name}", collector.problem, "a collector that accepts an empty export", advice
        )
    else:
        yield PassedCheck(object=f"collector {collector.name}", found="accepts an empty export")


def _check_operators(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    if facts.operators is None:
        yield PassedCheck(
            object="operator", found="unknown, because you are not allowed to list Deployments in all namespaces"
        )
        return
    if not facts.operators:
        advice = (
            "install the operator with the command; if it is installed, check whether the labels of its Deployment "
            "were changed"
        )
        finding = error("operator", "no Deployment in any namespace", "a Deployment with a ready pod", advice)
        yield finding.model_copy(update={"command": INSTALL_COMMAND})
    for operator in facts.operators:
        yield _check_operator(operator)


def _check_operator(operator: OperatorFacts) -> CheckOutcome:
    subject = f"operator {operator.namespace}/{operator.name}"
    found = f"{operator.ready} of {operator.desired} pods ready, {operator.image}"
    if operator.ready:
        return PassedCheck(object=subject, found=found)
    advice = f"check the pods of the operator: kubectl describe pods -n {operator.namespace}"
    return error(subject, found, "a ready pod", advice)


def _check_secret_access(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    for access in facts.secret_access:
        operator = f"operator {access.operator}" if access.operator else "the operator"
        if access.granted is False:
            found = f"{operator} is not allowed to get the Secrets"
            advice = (
                "run the command, or add the namespace to the chart's value rbac.secretNamespaces; the operator uses "
                "the permission within about a minute, and no pod restarts"
            )
            yield unreadable_secrets(facts.secret_namespace, found, advice, access.command)
        else:
            unknown = "unknown, because you are not allowed to create localsubjectaccessreviews"
            found = f"{operator} is allowed to get them" if access.granted else unknown
            yield PassedCheck(object=f"Secrets in namespace {facts.secret_namespace}", found=found)


def _check_crd(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    subject = "CustomResourceDefinition"
    if facts.missing_fields is None:
        yield PassedCheck(object=subject, found="unknown, because you are not allowed to get the CRD")
    elif facts.missing_fields:
        found = f"missing fields: {', '.join(facts.missing_fields)}"
        advice = "apply the CRD of this version: streamconsumer crd | kubectl apply --server-side -f -"
        yield warning(subject, found, "every field of this version", advice)
    else:
        yield PassedCheck(object=subject, found="contains every field of this version")


def _check_permissions(facts: ClusterFacts) -> Iterator[CheckOutcome]:
    for permission, granted in facts.permissions.items():
        if not granted:
            severity = error if permission in _REQUIRED_PERMISSIONS else warning
            found, expected = f"you are not allowed to {permission}", f"permission for {PERMISSIONS[permission]}"
            yield severity("your permissions", found, expected, "request the permission if you need this function")
    if all(facts.permissions.values()):
        yield PassedCheck(object="your permissions", found="you have every permission that the commands use")
