"""Handlers whose module configures the logging of the process, for `test_logs.py`.

The environment variable CONFIGURATION names the configuration, and LATE delays it until the first message."""

import io
import logging
import logging.config
import os
import sys
import tempfile
from typing import Any

FORMATTED: dict[str, Any] = {
    "version": 1,
    "formatters": {"plain": {"format": "user: %(name)s %(message)s"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "plain"}},
    "root": {"handlers": ["stdout"], "level": "ERROR"},
}
INI = "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nlevel=ERROR\nhandlers=\n"

log = logging.getLogger("shop")


def configure() -> None:
    match os.environ.get("CONFIGURATION"):
        case "dict":
            logging.config.dictConfig(FORMATTED)
        case "dict of other loggers":
            logging.config.dictConfig({"version": 1, "loggers": {"shop": {"level": "INFO"}}})
        case "dict that names streamconsumer":
            logging.config.dictConfig({**FORMATTED, "loggers": {"streamconsumer": {"level": "INFO"}}})
        case "file":
            logging.config.fileConfig(io.StringIO(INI))
        case "basic":
            logging.basicConfig(force=True, level="ERROR", stream=sys.stdout, format="user: %(name)s %(message)s")
        case "basic to a file":
            logging.basicConfig(force=True, filename=tempfile.mkstemp()[1])
        case "no handlers":
            logging.getLogger().handlers.clear()


if "LATE" not in os.environ:
    configure()


async def handle(data: dict[str, str]) -> None:
    if "LATE" in os.environ:
        configure()
    log.error("user's own line")
    raise ConnectionResetError("the bank hung up")
