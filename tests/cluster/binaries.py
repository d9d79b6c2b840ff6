"""The programs that the bench runs: where each is found, and how it is built when it is not.

`find` looks in KUBEBUILDER_ASSETS (named on purpose, so taken as it is), on PATH (only a program of
the pinned major and minor version: an etcd of another year is no etcd to test against), then in the
project's cache, and at last builds the pinned Go module under `go/` into that cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tests.cluster.errors import BenchError, MissingTool
from tests.cluster.runs import cache_directory, locked

MODULES = Path(__file__).parent / "go"


@dataclass(frozen=True)
class Binary:
    """One program: its Go package, and the module in go.mod that pins its version."""

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
        """The pinned version, read from go.mod so that it is written once."""
        if self.own_version:
            return self.own_version
        text = (MODULES / self.module / "go.mod").read_text()
        match = re.search(rf"^\s*(?:require )?{re.escape(self.pinned_by)} (v\S+)", text, re.MULTILINE)
        if not match:
            raise BenchError(f"go/{self.module}/go.mod requires no {self.pinned_by}: add its pin")
        return match[1]

    @property
    def cached(self) -> Path:
        return cache_directory() / "bin" / self.version / self.name


def _kubernetes(names: Iterable[tuple[str, str]]) -> list[Binary]:
    return [
        Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", time) for name, time in names
    ]


def _containerd(names: Iterable[tuple[str, str]]) -> list[Binary]:
    source = "github.com/containerd/containerd/v2"
    return [Binary(name, "containerd", f"{source}/cmd/{name}", source, time, ("-v",)) for name, time in names]


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
            program="streamconsumer-network-policies",  # nobody else's command is this one
        ),
        Binary("pause", "pause", ".", "", "10 seconds", own_version="v3.10", program="streamconsumer-pause"),
        Binary("otelcol", "otelcol", ".", "go.opentelemetry.io/collector/otelcol", "2 minutes"),
    )
}


@lru_cache
def find(name: str) -> Path:
    """The program's path; builds it the first time when this machine has none that fits."""
    binary = BINARIES[name]
    return _assets(binary) or _on_path(binary) or build(binary)


def _assets(binary: Binary) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return None
    found = Path(folder) / binary.name
    return found if found.exists() else None


def _on_path(binary: Binary) -> Path | None:
    found = shutil.which(binary.program or binary.name)
    if not found or _minor(_reported_version(Path(found), binary)) != _minor(binary.version):
        return None
    return Path(found)


def _reported_version(program: Path, binary: Binary) -> str:
    try:
        said = subprocess.run(
            [program, *binary.version_command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout + said.stderr


def _minor(text: str) -> str:
    """Major and minor of the first version in the text, empty when there is none."""
    match = re.search(r"(\d+\.\d+)\.\d+", text)
    return match[1] if match else ""


def build(binary: Binary) -> Path:
    """Build it into the cache, once however many test processes ask at the same time."""
    with locked(binary.cached.with_name(f".{binary.name}.lock")):
        if not binary.cached.exists():
            _compile(binary)
    return binary.cached


def _compile(binary: Binary) -> None:
    if not shutil.which("go"):
        raise MissingTool(
            f"{binary.name} {binary.version} is neither on PATH nor in {binary.cached.parent}, and "
            "go is not on PATH to build it: install Go 1.26 or newer, or point KUBEBUILDER_ASSETS "
            "at a folder with Kubernetes binaries"
        )
    print(
        f"building {binary.name} {binary.version} (about {binary.first_build} the first time)…",
        file=sys.stderr,
        flush=True,
    )
    unfinished = binary.cached.with_name(f".{binary.name}.{os.getpid()}")
    built = subprocess.run(
        _go_build(binary, unfinished),
        cwd=MODULES / binary.module,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        raise BenchError(
            f"building {binary.name} {binary.version} in tests/cluster/go/{binary.module} failed; "
            f"the end of what go said:\n{built.stdout[-3000:]}"
        )
    unfinished.rename(binary.cached)


def _go_build(binary: Binary, output: Path) -> list[str]:
    # Without -buildvcs=false a module inside this repository is stamped with the commit.
    return [
        *("go", "build", "-trimpath", "-buildvcs=false"),
        f"-ldflags={_linker_flags(binary)}",
        *("-o", str(output), binary.package),
    ]


def _linker_flags(binary: Binary) -> str:
    """Small binaries; Kubernetes' own build script sets its version here, and clients read it."""
    if binary.module != "kubernetes":
        return "-s -w"
    major, minor = binary.version.removeprefix("v").split(".")[:2]
    version = "k8s.io/component-base/version"
    return (
        f"-s -w -X {version}.gitVersion={binary.version} -X {version}.gitMajor={major} "
        f"-X {version}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={binary.version}"
    )
