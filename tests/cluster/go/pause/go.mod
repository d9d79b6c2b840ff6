module streamconsumer.dev/tests/cluster/go/pause

go 1.21
