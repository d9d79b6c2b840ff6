"""How fast the processor is, side by side with others in one run. `make bench` runs all and writes RESULTS.md.

__main__      python -m benchmarks WORKLOAD… [--rounds N]
workloads/    one module a question: each runs its rounds and returns a Section
contenders/   one module a peer, each run as a process of its own
lost_group    the handler of the workload lost_group; `lowest_unsettled` replaces the snapshot in its pods
races         fresh stream, one contender as a child process, what Redis counted
pods          `streamconsumer processor` as a child process; `handlers` is what it runs
results       the one writer of RESULTS.md; `figures` does the sums
go/           the bare loop of go-redis
"""
