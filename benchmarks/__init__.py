"""How fast the processor is, side by side with others in one run. `make bench` runs `throughput`."""
