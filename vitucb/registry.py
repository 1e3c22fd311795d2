"""Look a name up in a table in plain sight, or import it from `package.module:attribute`.

A person may name any module on the command line or in Python. What a file in a folder names may be
somebody else's word: while `reading_folder` lasts, only modules that the caller trusts are
imported, and no hub on the network is asked.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

HUB = "hub"
"""What to trust so that weights and images may come from a hub on the network."""

# Of the folder that is being read: its path, and what the caller trusts. None: nobody's folder.
_READING: ContextVar[tuple[str, frozenset[str]] | None] = ContextVar("reading", default=None)


@contextlib.contextmanager
def reading_folder(folder: str | Path, trust: Iterable[str] = ()) -> Iterator[None]:
    """Names come from files of `folder` now: of modules, only those of `trust` are imported.

    Args:
        folder: Named in errors.
        trust: Packages or modules that may be imported, with all their submodules; `hub` lets
            weights and images come from the network.
    """
    token = _READING.set((str(folder), frozenset(trust)))
    try:
        yield
    finally:
        _READING.reset(token)


def check_trusted(module: str, name: str) -> None:
    """Refuse a module that a folder names and the caller does not trust.

    Args:
        module: Dotted name of the module, or `HUB`.
        name: What the folder says, for the message.

    Raises:
        ValueError: If it is not trusted.
    """
    reading = _READING.get()
    if reading is None:
        return
    folder, trust = reading
    parts = module.split(".")
    if any(".".join(parts[: i + 1]) in trust for i in range(len(parts))):
        return
    root = parts[0]
    deed = "ask a hub on the network" if module == HUB else f"run code of the module {root!r}"
    raise ValueError(
        f"{folder} names {name!r}, which is in no table of vitucb: to load it would {deed}; if "
        f"you trust it, give trust=[{root!r}] (on the command line --trust {root})"
    )


def import_path(path: str) -> Any:
    """Import `package.module:attribute`.

    Raises:
        ValueError: If the module cannot be imported or has no such attribute, or a folder names
            it that is not trusted.
    """
    check_trusted(path.partition(":")[0], path)
    return _import(path)


def _import(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(module_name.split(".")):
        raise ValueError(f"{path!r} is no import path; write package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        root = module_name.partition(".")[0]
        lies_here = error.name == root and (Path(f"{root}.py").exists() or Path(root).is_dir())
        remedy = "python -m vitucb finds it in the current folder, vitucb does not"
        if not lies_here:
            is_named = f"{module_name}.".startswith(f"{error.name}.")
            remedy = "check the module name" if is_named else f"{module_name} needs it; install it"
        raise ValueError(f"cannot import {path!r}: {error}; {remedy}") from error
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
        ValueError: If `name` is neither in the table nor importable, or imports what cannot be
            called.
    """
    if name in table:
        entry = table[name]
        return _import(entry) if isinstance(entry, str) else entry
    if ":" in name:
        found = import_path(name)
        if not callable(found):
            raise ValueError(f"{kind} {name!r} is {found!r:.80}; name a class or a function")
        return found
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
