"""Keys, certificates, tokens and kubeconfigs of a temporary cluster, created by openssl."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import MissingTool, ProgramFailed

SERVICE_NETWORK = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
NODE_NAME = "node1"
CONTEXT = "streamconsumer-test"

VALIDITY = ("-days", "3650")
SERVER_EXTENSIONS = """\
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""

# Elliptic keys take milliseconds; RSA keys take a noticeable part of the whole start.
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@dataclass(frozen=True)
class User:
    """A user with a token."""

    token: str
    name: str
    group: str


ADMIN = User("admin-token", "admin", "system:masters")
CONTROLLER_MANAGER = User("manager-token", "system:kube-controller-manager", "system:masters")
SCHEDULER = User("scheduler-token", "system:kube-scheduler", "system:masters")
KUBELET = User("kubelet-token", f"system:node:{NODE_NAME}", "system:nodes")
PROXY = User("proxy-token", "system:kube-proxy", "system:node-proxier")
USERS = (ADMIN, CONTROLLER_MANAGER, SCHEDULER, KUBELET, PROXY)


class Credentials:
    """The files in one folder by which the components of a cluster authenticate each other."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.ca = folder / "ca.crt"
        self.ca_key = folder / "ca.key"
        self.certificate = folder / "api.crt"
        self.key = folder / "api.key"
        self.service_account_key = folder / "service-accounts.key"
        self.tokens = folder / "tokens.csv"

    def write(self) -> None:
        self.folder.mkdir()
        self._write_ca()
        self._write_certificate()
        # kube-apiserver reads the public key only from this older format of a private key.
        out = ("-out", str(self.service_account_key))
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", *out)
        self.tokens.write_text(
            "".join(f'{user.token},{user.name},{number},"{user.group}"\n' for number, user in enumerate(USERS))
        )

    def _write_ca(self) -> None:
        # Python 3.13 and newer reject an authority without key usage.
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        files = ("-keyout", str(self.ca_key), "-out", str(self.ca))
        self._openssl("req", "-x509", *NEW_KEY, *VALIDITY, "-subj", "/CN=test-bench-ca", *usage, *files)

    def _write_certificate(self) -> None:
        request, extensions = self.folder / "api.csr", self.folder / "api.extensions"
        extensions.write_text(f"subjectAltName={','.join(self._names())}\n{SERVER_EXTENSIONS}")
        key = ("-keyout", str(self.key), "-out", str(request))
        self._openssl("req", *NEW_KEY, "-subj", "/CN=kube-apiserver", *key)
        signer = ("-CA", str(self.ca), "-CAkey", str(self.ca_key), "-extfile", str(extensions))
        files = ("-in", str(request), "-out", str(self.certificate))
        self._openssl("x509", "-req", *files, *signer, *VALIDITY)

    def _names(self) -> list[str]:
        """Return every name and address of the API server, on this machine and in pods."""
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names.append("kubernetes.default.svc.cluster.local")
        addresses = sorted({"127.0.0.1", KUBERNETES_SERVICE, self.address})
        return [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]

    def write_kubeconfig(self, path: Path, url: str, user: User) -> Path:
        """Write a kubeconfig that refers to no other file, so that it can be copied anywhere."""
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        name = CONTEXT
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": authority}}],
                    "users": [{"name": user.name, "user": {"token": user.token}}],
                    "contexts": [{"name": name, "context": {"cluster": name, "user": user.name}}],
                    "current-context": name,
                },
                indent=1,
            )
        )
        path.chmod(0o600)
        return path

    def _openssl(self, *arguments: str) -> None:
        if not shutil.which("openssl"):
            raise MissingTool("openssl 3 is needed to make certificates: apt-get install openssl")
        made = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if made.returncode:
            raise ProgramFailed(f"openssl {' '.join(arguments)} failed:\n{made.stderr}")
