"""Maintenance tools: generated files and dependency locks. No part of the package."""
