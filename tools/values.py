"""Values table of the chart's README: names and defaults from values.yaml, descriptions from values.schema.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HEAD = "| Value | Description | Default |\n|---|---|---|\n"


def with_values(chart: Path) -> str:
    """Return the README with a new values table. The table is the end of the file; the text before it is unchanged."""
    before, found, _ = (chart / "README.md").read_text().partition(HEAD)
    if not found:
        raise SystemExit(f"{chart}/README.md has no table with the header {HEAD.splitlines()[0]!r}; add the header")
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    rows = [f"| `{path}` | {what} | `{json.dumps(default)}` |\n" for path, what, default in leaves(schema, values)]
    return before + HEAD + "".join(rows)


def leaves(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (path, description, default) of each value without described values below it."""
    for name, value in values.items():
        property_ = schema["properties"][name]
        below = property_.get("properties", {})
        if any("description" in deeper or "properties" in deeper for deeper in below.values()):
            yield from leaves(property_, value, f"{path}{name}.")
        else:
            yield path + name, property_["description"], value
