"""The table of values in the chart's README: names and defaults from values.yaml, sentences from values.schema.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HEAD = "| Value | Description | Default |\n|---|---|---|\n"


def with_values(chart: Path) -> str:
    """The README as it stands up to its table, and the table anew: it is the end of the file."""
    before, found, _ = (chart / "README.md").read_text().partition(HEAD)
    if not found:
        raise SystemExit(f"{chart}/README.md has no table that begins {HEAD.splitlines()[0]}: write that line")
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    rows = [f"| `{path}` | {what} | `{json.dumps(default)}` |\n" for path, what, default in leaves(schema, values)]
    return before + HEAD + "".join(rows)


def leaves(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, description, default) of each value that has no described values below it."""
    for name, value in values.items():
        property_ = schema["properties"][name]
        below = property_.get("properties", {})
        if any("description" in deeper or "properties" in deeper for deeper in below.values()):
            yield from leaves(property_, value, f"{path}{name}.")
        else:
            yield path + name, property_["description"], value
