"""Programs that the test servers need: pinned versions, where each is searched for, and how it is built.

`find` searches `KUBEBUILDER_ASSETS` (any version), then `PATH` (only the pinned major and minor version), then the
project's cache. `build_missing` builds what is in none of these places, from the pinned Go modules under `go/`.
`find` never builds: a build takes minutes and must not run inside the time limit of a test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tests.cluster.errors import BenchError, BuildFailed, MissingTool
from tests.cluster.runs import cache_directory, locked

MODULES = Path(__file__).parent / "go"
LINES_OF_A_FAILED_BUILD = 40


@dataclass(frozen=True)
class Binary:
    """Program: its Go package, and the module in go.mod that pins its version."""

    name: str
    module: str
    package: str
    pinned_by: str
    first_build: str
    version_command: tuple[str, ...] = ("--version",)
    program: str = ""
    own_version: str = ""

    @property
    def version(self) -> str:
        """The pinned version. go.mod is its only source."""
        if self.own_version:
            return self.own_version
        text = (MODULES / self.module / "go.mod").read_text()
        match = re.search(rf"^\s*(?:require )?{re.escape(self.pinned_by)} (v\S+)", text, re.MULTILINE)
        if not match:
            raise BenchError(f"go/{self.module}/go.mod: found no {self.pinned_by}; add its pin")
        return match[1]

    @property
    def cached(self) -> Path:
        return cache_directory() / "bin" / self.version / self.name


def _kubernetes(names: Iterable[tuple[str, str]]) -> list[Binary]:
    return [
        Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", duration)
        for name, duration in names
    ]


def _containerd(names: Iterable[tuple[str, str]]) -> list[Binary]:
    source = "github.com/containerd/containerd/v2"
    return [Binary(name, "containerd", f"{source}/cmd/{name}", source, duration, ("-v",)) for name, duration in names]


BINARIES = {
    binary.name: binary
    for binary in (
        Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", "1 minute"),
        *_kubernetes(
            [
                ("kube-apiserver", "5 minutes"),
                ("kube-controller-manager", "3 minutes"),
                ("kube-scheduler", "1 minute"),
                ("kubelet", "2 minutes"),
                ("kube-proxy", "1 minute"),
            ]
        ),
        Binary(
            "kubectl",
            "kubernetes",
            "k8s.io/kubernetes/cmd/kubectl",
            "k8s.io/kubernetes",
            "1 minute",
            ("version", "--client"),
        ),
        *_containerd(
            [
                ("containerd", "2 minutes"),
                ("containerd-shim-runc-v2", "10 seconds"),
                ("ctr", "10 seconds"),
            ]
        ),
        Binary(
            "coredns",
            "coredns",
            "github.com/coredns/coredns",
            "github.com/coredns/coredns",
            "4 minutes",
            ("-version",),
        ),
        Binary("helm", "helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4", "3 minutes", ("version",)),
        Binary(
            "helm3",
            "helm3",
            "helm.sh/helm/v3/cmd/helm",
            "helm.sh/helm/v3",
            "3 minutes",
            ("version",),
            program="helm",
        ),
        Binary(
            "network-policies",
            "network-policies",
            ".",
            "sigs.k8s.io/kube-network-policies",
            "2 minutes",
            program="streamconsumer-network-policies",  # a name that no other program uses
        ),
        Binary("pause", "pause", ".", "", "10 seconds", own_version="v3.10", program="streamconsumer-pause"),
        Binary("otelcol", "otelcol", ".", "go.opentelemetry.io/collector/otelcol", "2 minutes"),
        Binary(
            "actionlint",
            "actionlint",
            "github.com/rhysd/actionlint/cmd/actionlint",
            "github.com/rhysd/actionlint",
            "30 seconds",
            ("-version",),
        ),
    )
}

API_SERVER = ("etcd", "kube-apiserver", "kubectl")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler")
NODE = (
    *CONTROL_PLANE,
    *("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "coredns", "network-policies", "pause"),
)
FOR_ANY_CLUSTER = ("kubectl", "helm", "helm3", "otelcol")
"""Programs that end-to-end tests need on this machine if KUBECONFIG names a cluster."""

TARGETS = {
    "test-cluster": (*CONTROL_PLANE, "helm", "helm3", "otelcol", "actionlint"),
    "e2e": (*NODE, *FOR_ANY_CLUSTER),
    "bench": CONTROL_PLANE,
}
"""The programs that each make target needs."""

_forbidden_for = ""
"""The test that is running, if it has no marker that allows programs from here. Empty otherwise."""


@contextlib.contextmanager
def forbidden_for(test: str) -> Iterator[None]:
    """Make `find` fail with an explanation while this test runs."""
    global _forbidden_for  # noqa: PLW0603 -- a process runs one test at a time
    _forbidden_for = test
    try:
        yield
    finally:
        _forbidden_for = ""


def find(name: str) -> Path:
    """Return the program's path. Raises MissingTool if it is neither on this machine nor built yet."""
    _check_allowed(name)
    return _found(name)


def find_installed(name: str, package: str) -> Path:
    """Return the path of a program of a Debian package. Raises MissingTool if it is not on PATH."""
    _check_allowed(name)
    found = shutil.which(name)
    if found is None:
        raise MissingTool(f"{name}: not found on PATH; install Debian's package {package}")
    return Path(found)


def _check_allowed(name: str) -> None:
    if _forbidden_for:
        raise BenchError(
            f"{_forbidden_for} needs {name}, which `make test` does not have: take a fixture of "
            "tests/cluster/fixtures.py, or mark the test with @pytest.mark.cluster so that `make test-cluster` runs it"
        )


@lru_cache
def _found(name: str) -> Path:
    binary = BINARIES[name]
    found = locate(binary)
    if found is None:
        raise MissingTool(
            f"{name} {binary.version}: found neither in KUBEBUILDER_ASSETS nor on PATH nor in {binary.cached.parent}; "
            f"build it with `{sys.executable} -m tests.cluster build {name}`, which needs Go 1.26 or newer"
        )
    return found


def locate(binary: Binary) -> Path | None:
    """Return where the program is on this machine, None if it has to be built."""
    return _in_assets(binary) or _on_path(binary) or (binary.cached if binary.cached.exists() else None)


def _in_assets(binary: Binary) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise BenchError(f"KUBEBUILDER_ASSETS={folder}: found no such folder; correct or unset the variable")
    found = Path(folder) / binary.name
    return found if found.exists() else None


def _on_path(binary: Binary) -> Path | None:
    found = shutil.which(binary.program or binary.name)
    if not found or _minor(_reported_version(Path(found), binary)) != _minor(binary.version):
        return None
    return Path(found)


def _reported_version(program: Path, binary: Binary) -> str:
    try:
        ran = subprocess.run(
            [program, *binary.version_command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout + ran.stderr


def _minor(text: str) -> str:
    """Major and minor of the first version in the text, empty if there is none."""
    match = re.search(r"(\d+\.\d+)\.\d+", text)
    return match[1] if match else ""


def build_missing(names: Iterable[str], write: Callable[[str], None] | None = None) -> None:
    """Build the programs that this machine does not have, with one progress line before and after each.

    Raises MissingTool without Go, and BuildFailed with the end of the compiler's output.
    """
    write = write or _to_stderr
    missing = [BINARIES[name] for name in dict.fromkeys(names) if locate(BINARIES[name]) is None]
    if not missing:
        return
    started = time.monotonic()
    write(f"building {len(missing)} programs that tests need and this machine does not have yet")
    for number, binary in enumerate(missing, 1):
        write(f"[{number}/{len(missing)}] {binary.name} {binary.version}: usually {binary.first_build} on two cores …")
        began = time.monotonic()
        build(binary)
        now = time.monotonic()
        write(f"[{number}/{len(missing)}] {binary.name}: built in {now - began:.0f} s, {now - started:.0f} s in all")
    forget()


def forget() -> None:
    """Search again for every program, because new ones have been built."""
    _found.cache_clear()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build(binary: Binary) -> Path:
    """Build a program into the cache, unless another process has just built it."""
    with locked(binary.cached.with_name(f".{binary.name}.lock")):
        if not binary.cached.exists():
            _compile(binary)
    return binary.cached


def _compile(binary: Binary) -> None:
    if not shutil.which("go"):
        raise MissingTool(
            f"{binary.name} {binary.version}: found neither on PATH nor in {binary.cached.parent}, and found no go on "
            "PATH to build it; install Go 1.26 or newer, or point KUBEBUILDER_ASSETS at a folder with Kubernetes "
            "binaries"
        )
    unfinished = binary.cached.with_name(f".{binary.name}.{os.getpid()}")
    built = subprocess.run(
        _go_build(binary, unfinished),
        cwd=MODULES / binary.module,
        # Empty: the flags and the platform that the shell may set for another project.
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "GOOS": "", "GOARCH": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        unfinished.unlink(missing_ok=True)
        output = "\n".join(built.stdout.splitlines()[-LINES_OF_A_FAILED_BUILD:])
        raise BuildFailed(
            f"build error: {binary.name} {binary.version} in tests/cluster/go/{binary.module}: "
            f"go build exited with {built.returncode}. The end of its output:\n{output}"
        )
    unfinished.rename(binary.cached)


def _go_build(binary: Binary, output: Path) -> list[str]:
    # Without -buildvcs=false, go stamps a module inside this repository with the commit.
    return [
        *("go", "build", "-trimpath", "-buildvcs=false"),
        f"-ldflags={_linker_flags(binary)}",
        *("-o", str(output), binary.package),
    ]


def _linker_flags(binary: Binary) -> str:
    """Strip symbols. Kubernetes gets its version set as its own build script does, because clients read it."""
    if binary.module != "kubernetes":
        return "-s -w"
    major, minor = binary.version.removeprefix("v").split(".")[:2]
    version = "k8s.io/component-base/version"
    return (
        f"-s -w -X {version}.gitVersion={binary.version} -X {version}.gitMajor={major} "
        f"-X {version}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={binary.version}"
    )
