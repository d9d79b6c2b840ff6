"""Scaling without a cluster: a clock that is counted, pods that are objects, and the real decision among its rivals."""
