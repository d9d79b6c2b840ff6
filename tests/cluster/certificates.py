"""Temporary certificate authorities and the certificates they sign, created by openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.credentials import NEW_KEY, VALIDITY
from tests.cluster.errors import MissingTool, ProgramFailed

EXTENSIONS = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"


@dataclass(frozen=True)
class Certificate:
    """The files of one certificate."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority for servers and clients."""

    def __init__(self, folder: Path, name: str = "authority", *, strict: bool = True) -> None:
        """Create the authority. Without `strict`, its certificate has no key usage, as in many clusters."""
        self.folder, self.name = folder, name
        self.file, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign") if strict else ()
        files = ("-keyout", str(self._key), "-out", str(self.file))
        self._openssl("req", "-x509", *NEW_KEY, *VALIDITY, "-subj", f"/CN={name}", *usage, *files)

    def sign(self, name: str, alternatives: str = "DNS:localhost,IP:127.0.0.1") -> Certificate:
        """Sign a certificate for these names."""
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={alternatives}\n{EXTENSIONS}")
        self._openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(request))
        signer = ("-CA", str(self.file), "-CAkey", str(self._key), "-CAcreateserial", "-extfile", str(extensions))
        self._openssl("x509", "-req", "-in", str(request), "-out", str(made.certificate), *signer, *VALIDITY)
        return made

    def _openssl(self, *arguments: str) -> None:
        if not shutil.which("openssl"):
            raise MissingTool("openssl 3 is needed to make certificates: apt-get install openssl")
        made = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if made.returncode:
            raise ProgramFailed(f"openssl {' '.join(arguments)} failed:\n{made.stderr}")
