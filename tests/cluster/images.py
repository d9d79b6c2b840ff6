"""Container images without a registry: a Debian base, the product's images, and three images for pods of tests.

buildah caches each layer by the content that it was built from, so an unchanged image takes seconds to build.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.cluster.binaries import find
from tests.cluster.collector import configuration
from tests.cluster.errors import BenchError, MissingTool
from tests.cluster.runs import cache_directory, locked

CONTAINERS = Path(__file__).parent / "containers"
BASE = "docker.io/library/debian:trixie-slim"
PAUSE = "registry.k8s.io/pause:3.10"
REDIS = "docker.io/streamconsumer-test/redis:test"
COLLECTOR = "docker.io/streamconsumer-test/collector:test"

CERTIFICATES = Path("/etc/ssl/certs")
PIP_CONFIGURATION = Path("/etc/pip.conf")
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")

# Files that Debian's own slim images leave out.
SLIM = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def base() -> str:
    """Return the base image, Debian trixie slim with ca-certificates. Create it if it does not exist."""
    with locked(cache_directory() / "base-image.lock"):
        if not exists(BASE):
            _bootstrap()
    return BASE


def _bootstrap() -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        slim = [f"--dpkgopt=path-exclude={path}" for path in SLIM]
        options = ["--variant=minbase", "--include=ca-certificates", *slim]
        run("mmdebstrap", *options, "trixie", str(archive))
        run("podman", "import", str(archive), BASE)


def build(
    context: Path,
    dockerfile: Path,
    tag: str,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image and return its full reference, for `Node.load_image` and for pods."""
    base()
    reference = full_reference(tag)
    arguments = [f"--build-arg={name}={value}" for name, value in (build_args or {}).items()]
    if target:
        arguments.append(f"--target={target}")
    buildah_build(context, dockerfile, *arguments, f"--tag={reference}")
    return reference


def buildah_build(context: Path, dockerfile: Path, *arguments: str) -> None:
    """Run `buildah build` with arguments that name the result, and with this machine's access to packages."""
    with package_clients() as mounts:
        # Other isolations need control groups, which a container or a virtual machine may not have.
        how = ["--isolation=chroot", "--network=host", "--pull-never", "--layers", *mounts]
        run("buildah", "build", *how, *arguments, f"--file={dockerfile}", str(context))


@contextlib.contextmanager
def package_clients() -> Iterator[list[str]]:
    """Return mounts that give apt and pip inside a build the same access as on this machine.

    The mounts contain this machine's certificates and pip's index, and do not become part of the image. buildah passes
    proxies on from the environment.
    """
    mounts = [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.is_dir() else []
    settings = _pip_settings()
    with tempfile.TemporaryDirectory() as folder:
        if settings:
            written = Path(folder) / "pip.conf"
            lines = [f"{name} = {value}" for name, value in settings.items()]
            written.write_text("\n".join(["[global]", *lines, ""]))
            mounts.append(f"--volume={written}:{PIP_CONFIGURATION}:ro")
        yield mounts


def _pip_settings() -> dict[str, str]:
    """Return the index that pip uses on this machine. Empty if it is pip's default."""
    configured = configparser.ConfigParser(interpolation=None)
    configured.read(PIP_CONFIGURATION)
    options = dict(configured["global"]) if configured.has_section("global") else {}
    for name in PIP_SETTINGS:
        value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if value:
            options[name] = value
    return {name: options[name] for name in PIP_SETTINGS if name in options}


def pause() -> str:
    """Build the image that keeps a pod's namespaces open."""
    return _build_with(PAUSE, "pause", {"pause": find("pause")})


def redis() -> str:
    """Build the image of Debian's Redis. The `args` of a pod are further options."""
    folder = CONTAINERS / "redis"
    return build(folder, folder / "Dockerfile", REDIS)


def collector() -> str:
    """Build the image of the collector, which listens on 4317 and 4318 and writes /data/spans.json."""
    return _build_with(
        COLLECTOR,
        "collector",
        {"otelcol": find("otelcol")},
        {"collector.json": json.dumps(configuration("0.0.0.0:4317", "0.0.0.0:4318", "/data"))},
    )


def _build_with(reference: str, name: str, programs: Mapping[str, Path], texts: Mapping[str, str] | None = None) -> str:
    """Build an image of `containers/` with programs of the bench next to its Dockerfile."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for file, program in programs.items():
            shutil.copy2(program, context / file)
        for file, text in (texts or {}).items():
            (context / file).write_text(text)
        return build(context, CONTAINERS / name / "Dockerfile", reference)


def exists(reference: str) -> bool:
    require_program("podman")
    return not subprocess.run(["podman", "image", "exists", reference], check=False).returncode


def identity(reference: str) -> str:
    """Return the image's id, which changes exactly when its content changes."""
    if not exists(full_reference(reference)):
        raise BenchError(f"{full_reference(reference)}: podman has no such image; build or pull it first")
    return run("podman", "image", "inspect", "--format={{.Id}}", full_reference(reference)).strip()


def full_reference(tag: str) -> str:
    """Return the name that Kubernetes uses for a short name: `shop:1` is docker.io/library/shop:1."""
    first, slash, _ = tag.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return tag
    return f"docker.io/{tag}" if slash else f"docker.io/library/{tag}"


def require_program(program: str) -> None:
    if not shutil.which(program):
        raise MissingTool(f"{program} is needed for images: apt-get install podman buildah mmdebstrap")
    if os.geteuid() != 0:
        raise MissingTool(f"{program} builds images for a node, which needs root: run as root")


def run(program: str, *arguments: str) -> str:
    require_program(program)
    ran = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        output = (ran.stdout + ran.stderr)[-3000:]
        raise BenchError(f"{program} {' '.join(arguments)} failed. The end of its output:\n{output}")
    return ran.stdout
