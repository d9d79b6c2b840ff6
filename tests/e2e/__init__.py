"""The whole product on a whole node: chart, operator, pods, Redis, collector. `make e2e` runs it."""
