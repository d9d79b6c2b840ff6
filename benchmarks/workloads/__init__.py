"""One module a question. Each has ROUNDS, how often it is asked by default, and `measure(rounds)`, which answers."""

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
    "asleep",
)

ONLY_BY_NAME = ("lost_group",)
"""Measured once, for a decision. `make bench` leaves these out."""
