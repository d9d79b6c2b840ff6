"""Kubeconfig files have the same effect as in kubectl, or are refused."""

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from kopf._cogs.clients.auth import APIContext

from streamconsumer.errors import InvalidSettings
from streamconsumer.operator.kube.api import ApiError, connect, default_namespace, load_connection
from streamconsumer.operator.kube.kubeconfig import read_kubeconfig
from streamconsumer.operator.kube.watches import WatchConnection, login, to_watch_connection
from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import find
from tests.cluster.credentials import ADMIN, CONTROLLER_MANAGER, NEW_KEY
from tests.cluster.errors import ProgramFailed

WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
JANE = {
    "as": "jane",
    "as-uid": "1000-a",
    "as-groups": ["developers", "readers, all"],
    "as-user-extra": {"reason": ["on call", "ticket 7"], "example.com/Scope%": ["a"]},
}
EXPECTED_EXTRA = {"reason": ["on call", "ticket 7"], "example.com/scope%": ["a"]}


def section(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, kind: fields}


def kubeconfig(cluster: dict[str, Any], user: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "clusters": [section("cluster", "c", **cluster)],
        "users": [section("user", "u", **user)],
        "contexts": [section("context", "x", cluster="c", user="u")],
        "current-context": "x",
        **other,
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the documents to files and set KUBECONFIG to these files."""

    def write(*documents: Any) -> list[Path]:
        paths = []
        for number, document in enumerate(documents):
            path = tmp_path / str(number) / "config"
            path.parent.mkdir(exist_ok=True)
            path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
            paths.append(path)
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, paths)))
        return paths

    return write


def server_of(api: ApiServer, **changes: Any) -> dict[str, Any]:
    return {"server": api.url, "certificate-authority": str(api.ca), **changes}


def who_am_i(context: str | None = None) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with connect(context) as api:
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            return await api.request_json("post", WHO_AM_I, body=review)

    user: dict[str, Any] = asyncio.run(ask())["status"]["userInfo"]
    return user


def kubectl_who_am_i() -> dict[str, Any]:
    ran = subprocess.run([find("kubectl"), "auth", "whoami", "-o", "json"], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ProgramFailed(ran.stderr)
    user: dict[str, Any] = json.loads(ran.stdout)["status"]["userInfo"]
    return user


@pytest.mark.cluster
def test_requests_have_the_impersonated_user_uid_groups_and_extra(api_server: ApiServer, write: Any) -> None:
    write(kubeconfig(server_of(api_server), {"token": ADMIN.token, **JANE}))
    user = who_am_i()
    assert user == kubectl_who_am_i()
    assert (user["username"], user["uid"]) == ("jane", "1000-a")
    assert {"developers", "readers, all"} <= set(user["groups"])
    assert "system:masters" not in user["groups"]
    assert user["extra"] == EXPECTED_EXTRA


@pytest.mark.cluster
def test_impersonated_user_without_permissions_reads_no_secret(api_server: ApiServer, write: Any) -> None:
    write(kubeconfig(server_of(api_server), {"token": ADMIN.token, "as": "jane"}))

    async def read() -> None:
        async with connect() as api:
            await api.request_json("get", "/api/v1/secrets")

    with pytest.raises(ApiError, match="403"):
        asyncio.run(read())


@pytest.mark.cluster
def test_watches_of_the_operator_have_the_impersonated_user(api_server: ApiServer, write: Any) -> None:
    write(kubeconfig(server_of(api_server), {"token": ADMIN.token, **JANE}))
    headers = to_watch_connection(asyncio.run(load_connection())).as_http_headers()
    assert headers["Authorization"] == f"Bearer {ADMIN.token}"
    assert headers["Impersonate-User"] == "jane"
    assert headers.getall("Impersonate-Group") == ["developers", "readers, all"]


def test_operator_logs_in_with_the_context_of_all_other_requests(write: Any) -> None:
    write(kubeconfig({"server": "https://localhost:1"}, {"token": "a", "as": "jane"}))
    connection = asyncio.run(login(settings=kopf.OperatorSettings()))
    assert isinstance(connection, WatchConnection)
    assert (connection.server, connection.token, connection.impersonation) == (
        "https://localhost:1",
        "a",
        (("Impersonate-User", "jane"),),
    )


@pytest.mark.parametrize("field", ["as-uid", "as-groups", "as-user-extra"])
def test_impersonation_without_a_user_is_refused(write: Any, field: str) -> None:
    write(kubeconfig({"server": "https://localhost:1"}, {"token": "a", field: JANE[field]}))
    with pytest.raises(InvalidSettings, match="as-uid, as-groups and as-user-extra require the field `as`"):
        read_kubeconfig(None)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("user", {"as": 7}, "as: must be a valid string"),
        ("user", {"as": "a\r\nImpersonate-Group: system:masters"}, "must not contain control characters"),
        ("user", {"as": "a", "as-groups": ["b\n"]}, "must not contain control characters"),
        ("user", {"as": "a", "as-groups": "system:masters"}, "as-groups: must be a valid list"),
        ("user", {"as": "a", "as-user-extra": {"b": "c"}}, "as-user-extra.b: must be a valid list"),
        ("user", {"token": "secret\r\nX: y"}, "token: must not contain control characters"),
        ("user", {"auth-provider": {"name": "azure"}}, "auth-provider.name: must be 'gcp' or 'oidc'"),
        ("user", {"token": "a", "username": "b", "password": "c"}, "a token and a username must not both be set"),
        ("user", {"exec": {"command": "a", "apiVersion": "v1"}, "auth-provider": {"name": "oidc"}}, "must not both"),
        ("cluster", {"insecure-skip-tls-verify": "false"}, "insecure-skip-tls-verify: must be a valid boolean"),
        ("cluster", {"insecure-skip-tls-verify": True, "certificate-authority": "ca"}, "must not be set together"),
        ("cluster", {"server": None}, "server is missing"),
        ("cluster", {"server": "localhost:1"}, "server: must begin with http:// or https://"),
        ("cluster", {"proxy-url": "socks5://localhost:1"}, "proxy-url: must begin with http:// or https://"),
        ("cluster", {"tls-server-name": 7}, "tls-server-name: must be a valid string"),
    ],
)
def test_field_that_would_have_another_effect_than_in_kubectl_is_refused(
    write: Any, part: str, fields: dict[str, Any], message: str
) -> None:
    cluster, user = {"server": "https://localhost:1"}, dict[str, Any]()
    {"cluster": cluster, "user": user}[part].update(fields)
    write(kubeconfig(cluster, user))
    with pytest.raises(InvalidSettings) as caught:
        read_kubeconfig(None)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["context", "cluster", "user"])
def test_missing_section_is_refused(write: Any, name: str) -> None:
    """Without its user, a context would connect as an anonymous user."""
    document = kubeconfig({"server": "https://localhost:1"}, {"token": "a"})
    write({**document, f"{name}s": []})
    with pytest.raises(InvalidSettings, match=f"no {name} . in the kubeconfig"):
        asyncio.run(load_connection())


@pytest.mark.cluster
def test_first_file_sets_the_current_context_as_in_kubectl(api_server: ApiServer, write: Any) -> None:
    first = kubeconfig(server_of(api_server), {"token": CONTROLLER_MANAGER.token})
    second = {
        **kubeconfig(server_of(api_server), {"token": ADMIN.token}),
        "contexts": [section("context", "other", cluster="c", user="admin")],
        "users": [section("user", "u", token=ADMIN.token), section("user", "admin", token=ADMIN.token)],
        "current-context": "other",
    }
    write(first, second)
    assert who_am_i()["username"] == kubectl_who_am_i()["username"] == CONTROLLER_MANAGER.name
    assert who_am_i("other")["username"] == ADMIN.name


def test_namespace_is_the_one_of_the_context(write: Any) -> None:
    document = kubeconfig({"server": "https://localhost:1"}, {})
    document["contexts"].append(section("context", "other", cluster="c", namespace="shop"))
    write(document)
    assert (default_namespace(), default_namespace("other")) == ("default", "shop")
    with pytest.raises(InvalidSettings, match="no context z in the kubeconfig"):
        default_namespace("z")


@pytest.mark.cluster
def test_token_file_is_relative_to_its_kubeconfig(api_server: ApiServer, write: Any) -> None:
    (path,) = write(kubeconfig(server_of(api_server), {"tokenFile": "token"}))
    path.with_name("token").write_text(f"{ADMIN.token}\n")
    assert who_am_i()["username"] == ADMIN.name
    write(kubeconfig(server_of(api_server), {"token": "wrong", "tokenFile": "token"}))
    assert who_am_i()["username"] == kubectl_who_am_i()["username"] == ADMIN.name


def exec_user(command: str) -> dict[str, Any]:
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}}


def write_plugin(path: Path, output: dict[str, Any] | None) -> None:
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": output}
    path.write_text("#!/bin/sh\nexit 1\n" if output is None else f"#!/bin/sh\ncat <<'E'\n{json.dumps(document)}\nE\n")
    path.chmod(0o700)


@pytest.mark.cluster
def test_plugin_is_relative_to_its_kubeconfig_and_impersonation_applies(api_server: ApiServer, write: Any) -> None:
    (path,) = write(kubeconfig(server_of(api_server), {**exec_user("./plugin"), "as": "jane"}))
    write_plugin(path.with_name("plugin"), {"token": ADMIN.token})
    assert who_am_i() == kubectl_who_am_i()
    assert who_am_i()["username"] == "jane"


@pytest.mark.parametrize("output", [None, {}, {"clientCertificateData": "x"}], ids=["failure", "nothing", "no key"])
def test_plugin_without_credentials_is_an_error(write: Any, output: dict[str, Any] | None) -> None:
    (path,) = write(kubeconfig({"server": "https://localhost:1"}, exec_user("./plugin")))
    write_plugin(path.with_name("plugin"), output)
    with pytest.raises(InvalidSettings, match="the exec plugin of the kubeconfig returned no credentials"):
        asyncio.run(load_connection())


@pytest.mark.cluster
def test_token_takes_precedence_over_a_plugin_as_in_kubectl(api_server: ApiServer, write: Any) -> None:
    user = {**exec_user("./plugin"), "token": ADMIN.token}
    (path,) = write(kubeconfig(server_of(api_server), user))
    write_plugin(path.with_name("plugin"), {"token": CONTROLLER_MANAGER.token})
    assert who_am_i()["username"] == kubectl_who_am_i()["username"] == ADMIN.name


def test_client_certificate_of_a_plugin_is_used(write: Any, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "crt"
    arguments = ["-x509", *NEW_KEY, "-subj", "/CN=jane", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *arguments], check=True, capture_output=True)
    (path,) = write(kubeconfig({"server": "https://localhost:1"}, exec_user("./plugin")))
    data = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    write_plugin(path.with_name("plugin"), data)
    configuration = asyncio.run(load_connection()).configuration
    assert Path(str(configuration.cert_file)).read_text() == certificate.read_text()
    assert Path(str(configuration.key_file)).read_text() == key.read_text()


@pytest.mark.cluster
def test_tls_server_name_is_verified(api_server: ApiServer, write: Any) -> None:
    user = {"token": ADMIN.token}
    write(kubeconfig(server_of(api_server, **{"tls-server-name": "kubernetes.default.svc"}), user))
    assert who_am_i()["username"] == kubectl_who_am_i()["username"] == ADMIN.name
    write(kubeconfig(server_of(api_server, **{"tls-server-name": "elsewhere.example"}), user))
    with pytest.raises(OSError, match="elsewhere"):
        who_am_i()
    with pytest.raises(ProgramFailed, match="elsewhere"):
        kubectl_who_am_i()


async def watch_status(cluster: dict[str, Any], write: Any) -> int:
    """Return the HTTP status of a request over the connection of kopf's watches."""
    write(kubeconfig(cluster, {"token": ADMIN.token}))
    connection = await login()
    async with APIContext(connection).session as session, session.get(f"{connection.server}/version") as response:
        return response.status


@pytest.mark.cluster
async def test_tls_server_name_of_watches_is_verified(api_server: ApiServer, write: Any) -> None:
    named = server_of(api_server, **{"tls-server-name": "kubernetes.default.svc"})
    assert await watch_status(named, write) == 200
    with pytest.raises(OSError, match="elsewhere"):
        await watch_status({**named, "tls-server-name": "elsewhere.example"}, write)


@pytest.mark.cluster
def test_certificate_is_verified_unless_the_cluster_says_otherwise(api_server: ApiServer, write: Any) -> None:
    user = {"token": ADMIN.token}
    write(kubeconfig({"server": api_server.url}, user))
    with pytest.raises(OSError, match="certificate verify failed"):
        who_am_i()
    write(kubeconfig({"server": api_server.url, "insecure-skip-tls-verify": True}, user))
    assert who_am_i()["username"] == ADMIN.name
    write(kubeconfig({"server": api_server.url, "insecure-skip-tls-verify": False}, user))
    with pytest.raises(OSError, match="certificate verify failed"):
        who_am_i()


@pytest.mark.cluster
def test_authority_in_the_file_is_used(api_server: ApiServer, write: Any) -> None:
    data = base64.b64encode(api_server.ca.read_bytes()).decode()
    write(kubeconfig({"server": api_server.url, "certificate-authority-data": data}, {"token": ADMIN.token}))
    assert who_am_i()["username"] == ADMIN.name


def test_absent_and_unreadable_files_are_reported(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(InvalidSettings, match="nor a usable kubeconfig"):
        asyncio.run(load_connection())
    for text in ("a: b: c", "- a", "text"):
        write(text)
        with pytest.raises(InvalidSettings, match=r"no usable kubeconfig: .*expected a mapping of clusters"):
            asyncio.run(load_connection())
