"""The test servers by hand: `python -m tests.cluster up`, `down`, `kubeconfig`, `load IMAGE`, `build`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import API_SERVER, BINARIES, CONTROL_PLANE, NODE, TARGETS, build, build_missing
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import BenchError
from tests.cluster.node import Node
from tests.cluster.own_cluster import programs_for
from tests.cluster.runs import KEPT_MARK, recorded_pid, remove, runs_directory

SIZES: dict[str, type[ApiServer]] = {size.kind: size for size in (ApiServer, ControlPlane, Node)}
PROGRAMS = {ApiServer.kind: API_SERVER, ControlPlane.kind: CONTROL_PLANE, Node.kind: NODE}


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        _COMMANDS[parsed.command](parsed)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster that keeps running until `down`")
    up.add_argument("--size", choices=SIZES, default="node")
    down = commands.add_parser("down", help="stop a cluster; without --size, stop all")
    down.add_argument("--size", choices=SIZES)
    kubeconfig = commands.add_parser("kubeconfig", help="print the path of a cluster's kubeconfig")
    kubeconfig.add_argument("--size", choices=SIZES)
    load = commands.add_parser("load", help="copy an image from this machine's podman into the node")
    load.add_argument("image")
    building = commands.add_parser("build", help="build the programs that this machine does not have")
    building.add_argument("programs", nargs="*", metavar="PROGRAM", help="default: all")
    building.add_argument("--for", dest="target", choices=TARGETS, help="only what this make target needs")
    building.add_argument(
        "--from-source", action="store_true", help="build also what KUBEBUILDER_ASSETS or PATH provides"
    )
    return parser


def up(parsed: argparse.Namespace) -> None:
    if not _runs(parsed.size):
        build_missing(PROGRAMS[parsed.size])
        began = time.monotonic()
        SIZES[parsed.size](keep=True).start()
        print(f"{parsed.size} is up after {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(f"export KUBECONFIG={_kubeconfig(parsed.size)}")


def down(parsed: argparse.Namespace) -> None:
    for size in [parsed.size] if parsed.size else SIZES:
        remove(runs_directory() / size)


def kubeconfig(parsed: argparse.Namespace) -> None:
    running = [size for size in SIZES if parsed.size in (None, size) and _runs(size)]
    if not running:
        raise BenchError("no cluster is running: start one with `python -m tests.cluster up`")
    print(_kubeconfig(running[-1]))


def load(parsed: argparse.Namespace) -> None:
    Node.kept().load_image(parsed.image)


def build_programs(parsed: argparse.Namespace) -> None:
    names = programs_for(parsed.target) if parsed.target else parsed.programs or [*BINARIES]
    if unknown := set(names) - set(BINARIES):
        raise BenchError(f"found no program {', '.join(sorted(unknown))}; expected some of {', '.join(BINARIES)}")
    if parsed.from_source:
        for name in names:
            print(build(BINARIES[name]))
    else:
        build_missing(names)


def _runs(size: str) -> bool:
    folder = runs_directory() / size
    return (folder / KEPT_MARK).exists() and recorded_pid(folder / "kube-apiserver.pid") is not None


def _kubeconfig(size: str) -> Path:
    return runs_directory() / size / "kubeconfig"


_COMMANDS = {"up": up, "down": down, "kubeconfig": kubeconfig, "load": load, "build": build_programs}


if __name__ == "__main__":
    sys.exit(main())
