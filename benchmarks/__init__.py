"""Benchmarks that compare the processor with other consumers in one run. `make bench` runs all and writes RESULTS.md.

__main__      python -m benchmarks WORKLOAD… [--rounds N]
workloads/    one module per workload; each runs its rounds and returns a Section
contenders/   one module per contender; each runs as a separate process
lost_group    the handler of the workload lost_group
runs          runs one contender as a child process on a fresh stream, and reads the command counters of Redis
micro         measures single steps; `otlp_sink` counts spans; `producer` adds entries at a steady rate
simulation/   a model of a cluster with several scalers
pods          runs `streamconsumer processor` as a child process; `handlers` contains its handlers
results       writes RESULTS.md; `figures` computes the statistics
go/           the bare loop of go-redis
"""
