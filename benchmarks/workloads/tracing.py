"""Workload: the cost of one span per message, compared with a loop that uses the OpenTelemetry SDK."""

import statistics
from dataclasses import replace

from benchmarks.contenders import PIPELINED, STRAIGHTFORWARD, STREAMCONSUMER, Contender
from benchmarks.figures import median, ratio, rounds_text
from benchmarks.otlp_sink import OtlpSink
from benchmarks.results import Goal, Section
from benchmarks.runs import Lane, run_backlog, run_rounds
from tests.cluster.redis_servers import RedisServer

ROUNDS = 5
ENTRIES, BATCH = 100_000, 100
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
HEAD = [
    "contender",
    "messages per second",
    "relative to no endpoint",
    "CPU µs per message",
    "peak MiB",
    "spans arrived",
]


def measure(number: int) -> Section:
    """Measure each setting. The spans go over HTTP to a collector that counts them."""
    with RedisServer() as server, OtlpSink() as sink:
        lanes = _lanes(sink.endpoint)
        arrived: dict[str, list[float]] = {name: [] for name in lanes}

        def run(lane: Lane) -> None:
            run_backlog(lane, server.url)
            name = next(name for name, candidate in lanes.items() if candidate is lane)
            arrived[name].append(sink.count() / lane.count)

        run_rounds(list(lanes.values()), number, run)
        facts = f"Redis {server.version} on loopback, {ENTRIES:,} entries, {BATCH} per read, {rounds_text(number)}."
    rows = [_row(lane, lanes, arrived[name]) for name, lane in lanes.items()]
    return Section("tracing", facts, HEAD, rows, _goals(lanes, arrived))


def _lanes(endpoint: str) -> dict[str, Lane]:
    def traced(contender: Contender, label: str, ratio: str = "", fields: dict[str, str] | None = None) -> Lane:
        exporter = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio} if ratio else {}
        return Lane(
            replace(contender, label=label, environment=exporter | sampler, fields=fields or {}), ENTRIES, BATCH
        )

    name = STREAMCONSUMER.label
    return {
        "off": Lane(replace(STREAMCONSUMER, label=f"{name}, no endpoint"), ENTRIES, BATCH),
        "0": traced(STREAMCONSUMER, f"{name}, sampled 0", "0"),
        "not": traced(STREAMCONSUMER, f"{name}, producer did not sample", "1", {"traceparent": f"{PARENT}0"}),
        "0.1": traced(STREAMCONSUMER, f"{name}, sampled 0.1", "0.1"),
        "1": traced(STREAMCONSUMER, f"{name}, sampled 1.0", "1"),
        "child": traced(STREAMCONSUMER, f"{name}, sampled by the producer", "1", {"traceparent": f"{PARENT}1"}),
        "loop": Lane(PIPELINED, ENTRIES, BATCH),
        "loop 1": traced(STRAIGHTFORWARD, STRAIGHTFORWARD.label),
    }


def _row(lane: Lane, lanes: dict[str, Lane], arrived: list[float]) -> list[str]:
    baseline = lanes["loop" if lane.contender.name in {PIPELINED.name, STRAIGHTFORWARD.name} else "off"]
    return [
        lane.contender.label,
        median(lane.per_second),
        f"{ratio(lane.per_second, baseline.per_second):.2f}",
        f"{statistics.median(lane.cpu):.1f}",
        f"{statistics.median(lane.mebibytes):.0f}",
        f"{min(arrived):.1%}",
    ]


def _goals(lanes: dict[str, Lane], arrived: dict[str, list[float]]) -> list[Goal]:
    def share(name: str, other: str) -> float:
        return ratio(lanes[name].per_second, lanes[other].per_second)

    return [
        Goal("messages per second, sampled 0, relative to no endpoint", "at least", 0.85, share("0", "off")),
        Goal(
            "messages per second, sampled 1.0, relative to the straightforward loop",
            "at least",
            2,
            share("1", "loop 1"),
        ),
        Goal("spans that arrive, sampled 1.0", "at least", 1, min(arrived["1"]), 4),
        Goal("spans that arrive, sampled by the producer", "at least", 1, min(arrived["child"]), 4),
    ]
