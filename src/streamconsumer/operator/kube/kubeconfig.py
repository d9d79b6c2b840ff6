"""Kubeconfig files, read with the rules of kubectl: cluster, user, namespace and impersonation of one context.

The loader of the package `kubernetes` differs from kubectl in three ways. First, the loader ignores impersonation.
Second, if several files set the current context, the loader uses another file than kubectl. Third, if an exec plugin
fails, the loader continues without credentials. A command could therefore have other permissions than kubectl. For this
reason, this module merges and checks the files, and passes only the result to the package `kubernetes`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.field_hints import field_path, quote_name
from streamconsumer.model.fields import Pattern, format_errors

DEFAULT_FILE = "~/.kube/config"
HEADER_KEY_CHARACTERS = "!#$&'*+^`|"
"""Characters that stay unescaped in a header name. The function `quote` also leaves letters, digits and `_.-~`
unescaped. The API server decodes the escaped characters."""

_Header = Annotated[str, Pattern(r"[^\x00-\x1f\x7f]*", "must not contain control characters")]
_HttpUrl = Annotated[str, Pattern(r"https?://[!-~]+", "must begin with http:// or https://")]

SectionT = TypeVar("SectionT", bound="_Section")


class _Section(BaseModel):
    """Section of a kubeconfig. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True)


class _Cluster(_Section):
    server: _HttpUrl
    tls_server_name: str | None = Field(default=None, alias="tls-server-name")
    insecure_skip_tls_verify: bool = Field(default=False, alias="insecure-skip-tls-verify")
    certificate_authority: str | None = Field(default=None, alias="certificate-authority")
    certificate_authority_data: str | None = Field(default=None, alias="certificate-authority-data")
    proxy_url: _HttpUrl | None = Field(default=None, alias="proxy-url")

    @model_validator(mode="after")
    def _check_verification(self) -> Self:
        if self.insecure_skip_tls_verify and (self.certificate_authority or self.certificate_authority_data):
            raise ValueError("a certificate authority must not be set together with insecure-skip-tls-verify")
        return self


class _Exec(_Section):
    api_version: str = Field(alias="apiVersion")
    command: str = Field(min_length=1)
    args: list[str] = []
    env: list[dict[str, str]] = []


class _AuthProvider(_Section):
    name: Literal["gcp", "oidc"]
    config: dict[str, str] = {}


class _User(_Section):
    client_certificate: str | None = Field(default=None, alias="client-certificate")
    client_certificate_data: str | None = Field(default=None, alias="client-certificate-data")
    client_key: str | None = Field(default=None, alias="client-key")
    client_key_data: str | None = Field(default=None, alias="client-key-data")
    token: _Header | None = None
    token_file: str | None = Field(default=None, alias="tokenFile")
    username: str | None = None
    password: str | None = None
    exec: _Exec | None = None
    auth_provider: _AuthProvider | None = Field(default=None, alias="auth-provider")
    impersonated_user: _Header | None = Field(default=None, alias="as")
    impersonated_uid: _Header | None = Field(default=None, alias="as-uid")
    impersonated_groups: list[_Header] = Field(default=[], alias="as-groups")
    impersonated_extra: dict[str, list[_Header]] = Field(default={}, alias="as-user-extra")

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        if not self.impersonated_user and (
            self.impersonated_uid or self.impersonated_groups or self.impersonated_extra
        ):
            raise ValueError("as-uid, as-groups and as-user-extra require the field `as`")
        if self.exec and self.auth_provider:
            raise ValueError("exec and auth-provider must not both be set")
        if (self.token or self.token_file) and (self.username or self.password):
            raise ValueError("a token and a username must not both be set")
        return self


class _Context(_Section):
    cluster: str
    user: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Kubeconfig:
    """Server, credentials, namespace and impersonation of a context."""

    namespace: str
    user: Mapping[str, Any]
    cluster: Mapping[str, Any]
    impersonation: tuple[tuple[str, str], ...]
    """Headers that make the API server use the permissions of another user. A header name may occur several times."""

    def document(self) -> dict[str, Any]:
        """Return a kubeconfig that contains only this context."""
        name = "selected"
        return {
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": dict(self.cluster)}],
            "users": [{"name": name, "user": dict(self.user)}],
        }


def read_kubeconfig(context: str | None, environ: Mapping[str, str] = os.environ) -> Kubeconfig | None:
    """Return the context, or the current context if `context` is None. Returns None if there is no kubeconfig.

    Raises InvalidSettings if a file cannot be read, or contains settings that kubectl would refuse."""
    paths = [Path(part).expanduser() for part in (environ.get("KUBECONFIG") or DEFAULT_FILE).split(os.pathsep) if part]
    files = [(path, _read(path)) for path in paths if path.exists()]
    name = context or next((current for _, file in files if (current := file.get("current-context"))), None)
    if name is None:
        return None
    selected = _section(_Context, "context", name, files)[1]
    folder, cluster = _section(_Cluster, "cluster", selected.cluster, files)
    user_folder, user = _section(_User, "user", selected.user, files) if selected.user else (folder, _User())
    return Kubeconfig(
        namespace=selected.namespace or "default",
        user=_user_document(user, user_folder),
        cluster=_absolute_paths(cluster, folder, ["certificate_authority"]).model_dump(
            by_alias=True, exclude_defaults=True
        ),
        impersonation=tuple(_impersonation_headers(user)),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"no usable kubeconfig: cannot read {path}: {error}") from None
    except yaml.YAMLError:  # the text of this error quotes the file, which contains credentials
        document = "invalid YAML"
    if not isinstance(document, dict):
        found = document if document == "invalid YAML" else type(document).__name__
        expected = "a mapping of clusters, users and contexts"
        raise InvalidSettings(f"no usable kubeconfig: {path}: found {found}, expected {expected}")
    return document


def _section(
    model: type[SectionT], kind: str, name: str, files: Sequence[tuple[Path, dict[str, Any]]]
) -> tuple[Path, SectionT]:
    """Return the section with this name, and the folder of the file that contains the section. If several files contain
    the section, the first file applies."""
    for path, file in files:
        for item in _named_items(file, kind):
            if item["name"] == name:
                try:
                    return path.parent.absolute(), model.model_validate(_without_nulls(item.get(kind) or {}))
                except ValidationError as error:
                    raise InvalidSettings("; ".join(_errors(f"{path}: {kind} {quote_name(name)}", error))) from None
    known = [str(item["name"]) for _, file in files for item in _named_items(file, kind)]
    similar = [f"did you mean {quote_name(each)}? " for each in get_close_matches(name, known, n=1)]
    remedy = f"`kubectl config get-{kind}s` lists the {kind}s"
    raise InvalidSettings(f"no {kind} {quote_name(name)} in the kubeconfig; {''.join(similar)}{remedy}")


def _named_items(file: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    items = file.get(f"{kind}s")
    return [item for item in items if isinstance(item, dict) and "name" in item] if isinstance(items, list) else []


def _errors(prefix: str, error: ValidationError) -> list[str]:
    """Return the error texts without the invalid values, because a value may be a credential."""
    named = format_errors(error, lambda path: field_path(path) or "the section")
    return [f"{prefix}: {each.partition(' is ')[0]}: {each.rpartition(': ')[2]}" for each in named]


def _without_nulls(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, dict) else value


def _absolute_paths(section: SectionT, folder: Path, fields: Iterable[str]) -> SectionT:
    """Return the section with absolute paths. A relative path in a kubeconfig is relative to the folder of the
    kubeconfig."""
    return section.model_copy(
        update={field: str(folder / value) for field in fields if (value := getattr(section, field))}
    )


def _user_document(user: _User, folder: Path) -> dict[str, Any]:
    """Return the credentials. As in kubectl, a token takes precedence over an exec plugin."""
    user = _absolute_paths(user, folder, ["client_certificate", "client_key", "token_file"])
    document = user.model_dump(by_alias=True, exclude_defaults=True)
    if user.token_file:
        try:
            document["token"] = Path(user.token_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"{user.token_file}: cannot read the token: {error}") from None
    if document.get("token"):
        document.pop("exec", None)
        document.pop("auth-provider", None)
    if user.exec and "/" in user.exec.command and "exec" in document:
        document["exec"]["command"] = str(folder / user.exec.command)
    return {key: value for key, value in document.items() if key != "tokenFile" and not key.startswith("as")}


def _impersonation_headers(user: _User) -> Iterable[tuple[str, str]]:
    if user.impersonated_user:
        yield "Impersonate-User", user.impersonated_user
    if user.impersonated_uid:
        yield "Impersonate-Uid", user.impersonated_uid
    for group in user.impersonated_groups:
        yield "Impersonate-Group", group
    for key, values in user.impersonated_extra.items():
        for value in values:
            yield f"Impersonate-Extra-{quote(key, safe=HEADER_KEY_CHARACTERS)}", value
