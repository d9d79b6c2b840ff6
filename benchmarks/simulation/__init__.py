"""Simulation of autoscaling without a cluster: a simulated clock, pods as objects, and the real scaling algorithm."""
