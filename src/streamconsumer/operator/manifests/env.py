"""Environment variables of a pod: settings, paths of credential files, and the pod's identity in telemetry.

One rule derives the name of each variable from the name of its setting.
"""

import re

from pydantic import BaseModel

from streamconsumer.model import names
from streamconsumer.model.container_env import EnvVar
from streamconsumer.model.env_codec import env_name, to_env
from streamconsumer.model.processor_settings import HandlerSettings, SharedSettings, TraceContextSettings
from streamconsumer.model.spec import HttpHandlerSpec, StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name
from streamconsumer.operator.manifests.redis_secrets import redis_settings
from streamconsumer.operator.settings import OperatorSettings

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Variable with the OTLP endpoint of the pod."""

SOURCE_HANDLER = f"{names.SOURCE_MODULE}:{names.SOURCE_FUNCTION}"


def environment(consumer: StreamConsumer, settings: OperatorSettings) -> list[Manifest]:
    """Build the pod's environment variables.

    A variable in `spec.env` replaces the operator's variable of the same name. The CRD rejects a variable in `spec.env`
    that has the name of a setting, because every setting has a field in the spec."""
    user_vars = [_user_var(variable) for variable in consumer.spec.env]
    user_names = {variable["name"] for variable in user_vars}
    own_vars = [*_setting_vars(consumer), *_identity_vars(), *_telemetry_vars(consumer, settings)]
    # The resource attributes come last, because the kubelet expands only references to earlier variables.
    own_vars.append(_resource_attributes(consumer))
    return [*user_vars, *(variable for variable in own_vars if variable["name"] not in user_names)]


def env_from(consumer: StreamConsumer) -> list[Manifest]:
    """Build `envFrom`: Secrets and ConfigMaps whose keys become environment variables. Variables that `environment`
    returns take precedence over variables from `envFrom`."""
    return [_dump(source) for source in consumer.spec.env_from]


def _user_var(env_var: EnvVar) -> Manifest:
    if env_var.value_from is None:
        return _literal(env_var.name, env_var.value)
    return {"name": env_var.name, "valueFrom": _dump(env_var.value_from)}


def _dump(model: BaseModel) -> Manifest:
    return model.model_dump(by_alias=True, exclude_defaults=True)


def _setting_vars(consumer: StreamConsumer) -> list[Manifest]:
    spec = consumer.spec
    shared = {name: getattr(spec, name) for name in SharedSettings.model_fields}
    handler = _handler_settings(consumer)
    processing = SharedSettings.model_construct(None, **shared)
    tracing = TraceContextSettings.model_construct(
        None, **{name: getattr(spec.telemetry, name) for name in TraceContextSettings.model_fields}
    )
    parts = {"handler": handler, "redis": redis_settings(spec.redis), "telemetry": tracing}
    literals = to_env(processing)
    for path, settings in parts.items():
        literals |= to_env(settings, path)
    return [_literal(name, escape_dollars(value)) for name, value in literals.items()]


def _handler_settings(consumer: StreamConsumer) -> HandlerSettings:
    spec = consumer.spec.handler
    if spec.http:
        return HandlerSettings(http_url=http_url(spec.http, f"{spec.http.service}.{consumer.namespace}.svc"))
    return HandlerSettings(python=spec.python or SOURCE_HANDLER, batch=spec.batch)


def http_url(handler: HttpHandlerSpec, host: str) -> str:
    """Return the URL to which a pod sends its messages. In a cluster, `host` ends with `svc`, because a host name that
    ends with `svc` does not depend on the cluster domain."""
    return f"http://{host}:{handler.port}{handler.path}"


def _identity_vars() -> list[Manifest]:
    return [
        _pod_field(env_name("consumer_name"), "metadata.name"),
        _pod_field("OTEL_RESOURCE_ATTRIBUTES_POD_NAME", "metadata.name"),
        _pod_field(names.POD_UID_VARIABLE, "metadata.uid"),
        _pod_field("OTEL_RESOURCE_ATTRIBUTES_NODE_NAME", "spec.nodeName"),
    ]


def _telemetry_vars(consumer: StreamConsumer, settings: OperatorSettings) -> list[Manifest]:
    endpoint = consumer.spec.telemetry.endpoint or settings.telemetry_endpoint
    exporter = [_literal(ENDPOINT_VARIABLE, endpoint)] if endpoint else []
    ratio = consumer.spec.telemetry.sampling_ratio
    sampler = (
        []
        if ratio is None
        else [
            _literal("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            _literal("OTEL_TRACES_SAMPLER_ARG", f"{ratio:g}"),
        ]
    )
    return [*exporter, *sampler, _literal("OTEL_SERVICE_NAME", consumer.name)]


def _resource_attributes(consumer: StreamConsumer) -> Manifest:
    """Build the resource attributes. The environment variables have the same names as the variables of the
    OpenTelemetry Operator, which does not overwrite existing variables."""
    pod = "$(OTEL_RESOURCE_ATTRIBUTES_POD_NAME)"
    attributes = {
        "service.namespace": consumer.namespace,
        "service.instance.id": f"{consumer.namespace}.{pod}.{names.CONTAINER}",
        "k8s.namespace.name": consumer.namespace,
        "k8s.deployment.name": child_name(consumer),
        "k8s.container.name": names.CONTAINER,
        "k8s.pod.name": pod,
        "k8s.pod.uid": f"$({names.POD_UID_VARIABLE})",
        "k8s.node.name": "$(OTEL_RESOURCE_ATTRIBUTES_NODE_NAME)",
    }
    return _literal("OTEL_RESOURCE_ATTRIBUTES", ",".join(f"{key}={value}" for key, value in attributes.items()))


def escape_dollars(value: str) -> str:
    """Escape dollar signs, so that the process in the pod gets the value unchanged.

    The kubelet expands `$(NAME)` and replaces `$$` with one dollar sign."""
    return re.sub(r"\$(?=[$(])", "$$", value)


def _literal(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def _pod_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
