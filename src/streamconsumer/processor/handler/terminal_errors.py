"""Names in `delivery.terminalErrors`: finds the exception class of each name at start, so that a mistake is reported
before a message fails."""

import importlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.error_logging import format_error

log = logging.getLogger(__name__)


def import_terminal_errors(delivery: Delivery) -> Delivery:
    """Import the exceptions in `terminal_errors`. Logs a warning for each name that names no exception.

    A name can be an alias. The returned settings therefore also contain the name under which each class is defined, for
    example `json.decoder.JSONDecodeError` for `json.JSONDecodeError`."""
    own_names = []
    for name in delivery.terminal_errors:
        error_class, problem = _find(name)
        if error_class is None:
            log.warning(
                "terminalErrors: exception not found; messages that fail with it are retried",
                extra={"found": name, "error": problem},
            )
        else:
            own_names.append(f"{error_class.__module__}.{error_class.__qualname__}")
    names = list(dict.fromkeys([*delivery.terminal_errors, *own_names]))
    return delivery.model_copy(update={"terminal_errors": names})


def _find(name: str) -> tuple[type[BaseException] | None, str]:
    """Return the exception class, or None and the reason why there is no exception class."""
    found, problem = _import(name)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found, ""
    for each in _subclasses([BaseException]):
        if name in (each.__qualname__, f"{each.__module__}.{each.__qualname__}"):
            return each, ""
    if found is not None:
        return None, f"{name} is {type(found).__name__}; expected an exception class"
    return None, problem or "no loaded module defines this exception; expected package.module.Error"


def _import(name: str) -> tuple[Any, str]:
    """Return the object with a dotted name, or None and the reason why there is no object. The object may be an
    attribute of a class."""
    parts = name.split(".")
    problem = ""
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            problem = f"module {error.name!r} not found"
            continue
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may raise anything
            return None, f"module {module_name!r}: import failed: {format_error(error)}"
        with suppress(AttributeError):
            for part in parts[length:]:
                found = getattr(found, part)
            return found, ""
        return None, f"module {module_name!r} has no {'.'.join(parts[length:])!r}"
    return None, problem


def _subclasses(classes: Iterable[type[BaseException]]) -> Iterator[type[BaseException]]:
    """Yield the classes and all their subclasses that exist."""
    found: dict[type[BaseException], None] = dict.fromkeys(classes)
    waiting = list(found)
    while waiting:
        each = waiting.pop()
        yield each
        waiting += [inner for inner in type.__subclasses__(each) if inner not in found]
        found.update(dict.fromkeys(waiting))
