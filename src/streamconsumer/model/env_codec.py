"""Conversion between settings and environment variables.

A variable's name consists of STREAMCONSUMER_ and the path of the field in upper case, with `_` between the parts of the
path. For example, the name for `delivery.min_idle` is STREAMCONSUMER_DELIVERY_MIN_IDLE. List items are separated
by commas. No variable is written for a field that has its default value. A newer operator can therefore add a field
without a restart of existing pods.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, TypeGuard, TypeVar, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.alias_generators import to_snake

from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.fields import format_duration, format_errors

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def env_name(*path: str | int) -> str:
    """Return the name of a field's variable. For example, `env_name("redis", "url")` is STREAMCONSUMER_REDIS_URL."""
    return names.ENVIRONMENT_PREFIX + "_".join(to_snake(str(part)) for part in path).upper()


def to_env(settings: BaseModel, *parent: str) -> dict[str, str]:
    """Return an environment variable for each field that differs from its default. Passwords are in clear text. If
    `settings` is a part of larger settings, `parent` is the path to this part."""
    return {env_name(*path): text for path, text in _leaf_values(settings.model_dump(exclude_defaults=True), parent)}


def from_env(model: type[SettingsT], environ: Mapping[str, str]) -> SettingsT:
    """Parse settings from environment variables. Raises InvalidSettings, which names every invalid variable."""
    try:
        return model.model_validate(_nested_values(model, environ, ()))
    except ValidationError as error:
        raise InvalidSettings("; ".join(format_errors(error, lambda path: env_name(*path)))) from None


def field_paths(model: type[BaseModel], parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every leaf field, in the order of declaration."""
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            yield from field_paths(field.annotation, (*parent, name))
        else:
            yield (*parent, name)


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Return the names of the variables that begin with STREAMCONSUMER_ and are not known, each with a remedy.

    Kubernetes also sets variables for each Service. If the name of a Service begins with `streamconsumer`, its
    variables are ignored."""
    known_names = list(known)
    unknown = {
        name
        for name, value in environ.items()
        if name.startswith(names.ENVIRONMENT_PREFIX) and name not in known_names and not _is_service_link(name, value)
    }
    return {name: _remedy(name, known_names) for name in sorted(unknown)}


def _remedy(name: str, known: list[str]) -> str:
    """Suggest the most similar known name. If `name` is only a part of a path, such as MAX_DELIVERIES, suggests the
    whole path."""
    suffix = name.upper().removeprefix(names.ENVIRONMENT_PREFIX)
    by_suffix = {each.removeprefix(names.ENVIRONMENT_PREFIX): each for each in known}
    paths = [each for each in by_suffix if suffix and each.endswith(f"_{suffix}")]
    similar = paths or get_close_matches(suffix, by_suffix, n=1)
    return f"did you mean {by_suffix[similar[0]]}?" if similar else "remove the variable"


def _is_service_link(name: str, value: str) -> bool:
    is_address = re.fullmatch("(tcp|udp|sctp)://.*", value) is not None
    return is_address or re.search(r"_SERVICE_(HOST|PORT(_.+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_.+)?$", name) is not None


def _leaf_values(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaf_values(inner, (*path, name))
    elif value is not None:
        yield path, _to_text(value)


def _to_text(value: Any) -> str:
    match value:
        case timedelta():
            return format_duration(value)
        case bool():
            return str(value).lower()
        case SecretStr():
            return value.get_secret_value()
        case list():
            return ",".join(map(_to_text, value))
    return str(value)


def _nested_values(model: type[BaseModel], environ: Mapping[str, str], parent: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            inner = _nested_values(field.annotation, environ, (*parent, name))
            if inner or field.is_required():
                values[name] = inner
        elif (text := environ.get(env_name(*parent, name))) is not None:
            values[name] = text.split(",") if _is_list(field.annotation) else text
    return values


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
