"""Values table of the chart's README: names and defaults from values.yaml, descriptions from values.schema.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HEAD = "| Value | Description | Default |\n|---|---|---|\n"


def with_values(chart: Path) -> str:
    """Return the README with a new values table. The table ends the file; the text before the table is unchanged."""
    before, separator, _ = (chart / "README.md").read_text().partition(HEAD)
    if not separator:
        raise SystemExit(f"{chart}/README.md has no table with the header {HEAD.splitlines()[0]!r}; add the header")
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    rows = [f"| `{path}` | {text} | `{json.dumps(default)}` |\n" for path, text, default in leaves(schema, values)]
    return before + HEAD + "".join(rows)


def leaves(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (path, description, default) for each value that contains no described values."""
    for name, value in values.items():
        value_schema = schema["properties"][name]
        children = value_schema.get("properties", {})
        if any("description" in child or "properties" in child for child in children.values()):
            yield from leaves(value_schema, value, f"{path}{name}.")
        else:
            yield path + name, value_schema["description"], value
