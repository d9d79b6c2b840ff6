"""Workloads, one per module. Each module has `ROUNDS`, the default number of rounds, and `measure(rounds)`."""

NAMES = (
    "throughput",
    "tracing",
    "outages",
    "latency",
    "concurrency",
    "idle",
    "takeover",
    "memory",
    "stop",
    "profile",
    "operator",
    "scaling",
    "scale_to_zero",
)

ONLY_BY_NAME = ("lost_group",)
"""Workloads that were measured once, for a design decision. `make bench` skips them."""
