"""The test bench: real Kubernetes, real Redis and a real OpenTelemetry Collector, on one machine.

Nothing in here imitates a server. `fixtures` is the door for tests, `python -m tests.cluster` the
door for people, and README.md tells what each costs.
"""
