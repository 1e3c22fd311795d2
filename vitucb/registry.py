"""Look a name up in a table in plain sight, or import it from `package.module:attribute`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any


def import_path(path: str) -> Any:
    """Import `package.module:attribute`.

    Raises:
        ValueError: If the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {path!r}: {error}; check the module name") from error
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"cannot import {path!r}: {error}; mend the module") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(f"module {module_name!r} has no attribute {attribute!r}") from error


def unknown_name(
    kind: str, name: str, known: Mapping[str, Any] | list[str], *, or_path: bool = False
) -> ValueError:
    """The error for a name that is in no table, with the nearest one suggested.

    With `or_path` it says that an import path would do, too.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    path = "; or an import path 'module:attribute'" if or_path else ""
    return ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(sorted(known))}{path}")


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry `name` of `table`, imported if the entry (or `name`) is an import path.

    Args:
        kind: What is looked up, for the message, e.g. `optimizer`.
        name: A key of `table`, or `package.module:attribute`.
        table: Values are objects, or import paths so that listing a table imports nothing.

    Raises:
        ValueError: If `name` is neither in the table nor importable.
    """
    if name in table:
        entry = table[name]
        return import_path(entry) if isinstance(entry, str) else entry
    if ":" in name:
        return import_path(name)
    raise unknown_name(kind, name, table, or_path=True)


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import an optional dependency.

    Raises:
        ValueError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} needs {module}, which is not installed: pip install 'vitucb[{extra}]'"
        ) from error
