"""A real OpenTelemetry Collector on loopback ports, and the spans that it received."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.cluster.binaries import find
from tests.cluster.errors import ProgramFailed
from tests.cluster.processes import Program, free_port, is_listening
from tests.cluster.runs import Run
from tests.cluster.spans import Span, parse_spans

FILES = {"traces": "spans.json", "metrics": "metrics.json", "logs": "logs.json"}
MAX_PORT_TRIES = 3
START_TIMEOUT = 15.0


def configuration(grpc: str, http: str, folder: str, batch: str = "100ms") -> dict[str, Any]:
    """Return the configuration of a collector that receives OTLP and writes each signal to its own file.

    The collector keeps the files open at their offset, so they must not be truncated while it runs.
    """
    exporters = {
        f"file/{signal}": {"path": f"{folder}/{file}", "flush_interval": "200ms"} for signal, file in FILES.items()
    }
    pipelines = {
        signal: {
            "receivers": ["otlp"],
            "processors": ["batch"],
            "exporters": [f"file/{signal}"],
        }
        for signal in FILES
    }
    return {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}},
        "processors": {"batch": {"timeout": batch}},
        "exporters": exporters,
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": pipelines},
    }


class Collector:
    """Collector process. Every start creates empty files."""

    def __init__(self) -> None:
        self.grpc_port = 0
        self.http_port = 0
        self._run: Run | None = None
        self._program: Program | None = None
        self._offsets = dict.fromkeys(FILES, 0)

    @property
    def http_endpoint(self) -> str:
        """The value of OTEL_EXPORTER_OTLP_ENDPOINT for http/protobuf. The SDK appends /v1/traces."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make a process export to this collector."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }

    @property
    def program(self) -> Program:
        """The process. Tests pause or kill it to simulate an outage."""
        if self._program is None:
            raise RuntimeError("this Collector was never started: call start() first")
        return self._program

    def start(self) -> Self:
        binary = find("otelcol")
        self._run = Run.begin("collector")
        for attempt in range(MAX_PORT_TRIES):
            self.grpc_port, self.http_port = free_port(), free_port()
            program = self._build_program(binary, self._run.path)
            program.start()
            try:
                program.wait_until(lambda: is_listening(self.http_port), START_TIMEOUT)
            except ProgramFailed:
                if program.lost_its_port and attempt < MAX_PORT_TRIES - 1:
                    continue
                program.kill()
                self._run.end()
                raise
            self._program = program
            self._offsets = dict.fromkeys(FILES, 0)
            break
        return self

    def _build_program(self, binary: Path, folder: Path) -> Program:
        config = folder / "collector.json"
        config.write_text(
            json.dumps(
                configuration(
                    grpc=f"127.0.0.1:{self.grpc_port}",
                    http=f"127.0.0.1:{self.http_port}",
                    folder=str(folder),
                )
            )
        )
        return Program("collector", [binary, "--config", config], folder)

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
        if self._run is not None:
            self._run.end()
        self._program = self._run = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def clear(self) -> None:
        """Hide everything received so far."""
        for signal in FILES:
            file = self._file(signal)
            self._offsets[signal] = file.stat().st_size if file.exists() else 0

    def text(self, signal: str = "traces") -> str:
        """Return the "traces", "metrics" or "logs" received since the last `forget`, as OTLP in JSON."""
        file = self._file(signal)
        if not file.exists():
            return ""
        with file.open(encoding="utf-8") as lines:
            lines.seek(self._offsets[signal])
            return lines.read()

    def spans(self) -> list[Span]:
        return parse_spans(self.text())

    def wait_for_spans(self, expected: int | Callable[[list[Span]], bool] = 1, timeout: float = 10.0) -> list[Span]:
        """Wait for this number of spans, or until they satisfy the condition, and return them."""
        enough = _at_least(expected) if isinstance(expected, int) else expected
        deadline = time.monotonic() + timeout
        while not enough(spans := self.spans()):
            if time.monotonic() > deadline:
                raise AssertionError(_timeout_message(spans, expected, timeout))
            time.sleep(0.1)
        return spans

    def _file(self, signal: str) -> Path:
        if self._run is None:
            raise RuntimeError("this Collector is not running: call start() first")
        return self._run.path / FILES[signal]


def _at_least(count: int) -> Callable[[list[Span]], bool]:
    return lambda spans: len(spans) >= count


def _timeout_message(spans: list[Span], criterion: object, timeout: float) -> str:
    names = ", ".join(f"{span.kind} {span.name!r}" for span in spans) or "none"
    expected = f"{criterion}" if isinstance(criterion, int) else "spans that satisfy the condition"
    return (
        f"the collector: found {len(spans)} spans after {timeout:.0f} s ({names}), expected {expected}; "
        "check the sender's endpoint, sampler and flush"
    )
