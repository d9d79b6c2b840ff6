"""A duration on the command line, spelled as in a StreamConsumer."""

from datetime import timedelta
from typing import Any

import click

from streamconsumer.model.fields import parse_duration


class Duration(click.ParamType[timedelta]):
    """`30s`, `1m30s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
