"""Maintenance tools: generated files, the wording check and dependency locks. The tools are not part of the package."""
