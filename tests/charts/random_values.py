"""Random valid values of the chart."""

from typing import Any

from hypothesis import strategies as st

from tests.charts.all_values import ALL_VALUES, DIGEST
from tests.charts.rendering import Manifest

TRICKY_NAMES = ("12345", "1e3", "true", "null", "y", "0x1f", "1-2", "a.b", "0.5", "no", "on.off", "2026-11-30", "1_0")
"""Names that YAML reads as a number, a boolean, a date or null if they are not quoted."""

OBJECT_NAMES = st.one_of(
    st.sampled_from([name for name in TRICKY_NAMES if "_" not in name]),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?)?", fullmatch=True),
)
NAMESPACES = st.one_of(
    st.sampled_from(["1234", "1e3", "true", "null", "0"]),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True),
)
RELEASES = st.one_of(
    st.sampled_from(["12345", "1e3", "true", "null", "a.b", "0.5", "a" * 53, "1" * 53, f"{'a' * 32}.{'b' * 20}"]),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?", fullmatch=True),
)
TEXTS = st.sampled_from(["true", "1e3", "42", "a b", "{{ .x }}", "- a", "#", "'", '"', "null", "x: y", "ü", "*", "&a"])
LABEL_VALUES = st.sampled_from(["", "true", "1e3", "42", "a.b_c", "null", "0x1f"])
LABELS = st.dictionaries(st.sampled_from(["team", "example.com/part", "cost"]), LABEL_VALUES, max_size=2)
ANNOTATIONS = st.dictionaries(st.sampled_from(["note", "example.com/note"]), TEXTS, max_size=2)

NULLABLE_SECTIONS = (
    "telemetry",
    "networkPolicy",
    "podMonitor",
    "serviceMonitor",
    "prometheusRule",
    "dashboard",
    "test",
    "resources",
    "podSecurityContext",
    "securityContext",
    "podAnnotations",
    "podLabels",
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "extraEnv",
    "extraVolumes",
    "extraVolumeMounts",
    "extraObjects",
    "commonLabels",
    "imagePullSecrets",
    "watchNamespaces",
    "allowedDestinations",
    "logLevel",
    "priorityClassName",
    "nameOverride",
    "fullnameOverride",
    "hostUsers",
)
"""Values that may be null. The null has the effect of an empty value."""

REQUIRED_VALUES = (
    "image",
    "image.repository",
    "processor",
    "processor.image",
    "processor.image.repository",
    "replicaCount",
    "crds",
    "crds.enabled",
    "crds.keep",
    "rbac",
    "rbac.create",
    "admissionPolicy",
    "admissionPolicy.enabled",
    "serviceAccount",
    "serviceAccount.create",
    "podDisruptionBudget",
    "podDisruptionBudget.enabled",
)
"""Values that must not be null, because the release would not work or would be less secure."""


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Manifest]:
    return st.fixed_dictionaries({}, optional=fields)


_MONITOR = _optional(
    enabled=st.booleans(), renderMode=st.just("alwaysRender"), interval=st.sampled_from(["", "30s"]), labels=LABELS
)
_IMAGE = {
    "registry": st.sampled_from(["", "registry.example.com:5000/mirror", "1234"]),
    "repository": st.sampled_from(["streamconsumer-operator", "1234", "1e3", "team/image"]),
    "tag": st.sampled_from(["", "1.10", "1e3", "12345", "true"]),
    "digest": st.sampled_from(["", DIGEST]),
}
_SET_VALUES = {name: st.just(value) for name, value in ALL_VALUES.items() if name not in ("enabled", "watchNamespaces")}

_VALUES = _optional(
    **{
        **_SET_VALUES,
        "image": _optional(**_IMAGE, pullPolicy=st.sampled_from(["Always", "IfNotPresent", "Never"])),
        "processor": _optional(image=_optional(**_IMAGE)),
        "imagePullSecrets": st.lists(OBJECT_NAMES.map(lambda name: {"name": name}), max_size=2),
        "crds": _optional(enabled=st.booleans(), keep=st.booleans()),
        "replicaCount": st.integers(0, 3),
        "podDisruptionBudget": _optional(enabled=st.booleans()),
        "watchNamespaces": st.lists(NAMESPACES, max_size=2, unique=True),
        "rbac": _optional(create=st.booleans(), aggregateToView=st.booleans(), aggregateToEdit=st.booleans()),
        "admissionPolicy": _optional(enabled=st.booleans()),
        "networkPolicy": _optional(enabled=st.booleans()),
        "podMonitor": _MONITOR,
        "serviceMonitor": _MONITOR,
        "serviceAccount": _optional(create=st.booleans(), name=NAMESPACES, labels=LABELS, annotations=ANNOTATIONS),
        "prometheusRule": _optional(enabled=st.booleans(), labels=LABELS),
        "dashboard": _optional(enabled=st.booleans(), labels=LABELS),
        "podAnnotations": ANNOTATIONS,
        "podLabels": LABELS,
        "commonLabels": LABELS,
        "nodeSelector": LABELS,
        "priorityClassName": NAMESPACES,
        "hostUsers": st.booleans(),
        "logLevel": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
        "fullnameOverride": st.one_of(st.just(""), NAMESPACES),
        "nameOverride": st.one_of(st.just(""), NAMESPACES),
    }
)


@st.composite
def values(draw: st.DrawFn) -> Manifest:
    """Return valid values, some of them null."""
    drawn: Manifest = draw(_VALUES)
    nulls = draw(st.lists(st.sampled_from(NULLABLE_SECTIONS), max_size=4, unique=True))
    return {**drawn, **dict.fromkeys(nulls)}
