"""The test bench: real Kubernetes, Redis and OpenTelemetry Collector on one machine, without a simulated server.

Tests use the fixtures of `fixtures`. `python -m tests.cluster` starts the same servers by hand. README.md lists start
times and memory.
"""
