"""What the settings say of themselves: the text below each field of a config dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a dataclass of settings.

    Attributes:
        key: Its dotted name.
        doc: The text below it, on one line.
        hint: Its type.
        default: Its default; `dataclasses.MISSING` if it has none.
        is_positional: Whether a command takes it without its name.
    """

    key: str
    doc: str
    hint: Any
    default: Any
    is_positional: bool = False

    @property
    def option(self) -> str:
        """How the command line calls it."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def off(self) -> str:
        """How the command line says no to it, if it is a truth value."""
        section, _, last = self.option.rpartition(".")
        return f"{section}.no-{last}" if section else f"--no-{last.removeprefix('--')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """All its values, where they are few and closed."""
        for hint in (self.hint, *typing.get_args(self.hint)):
            if typing.get_origin(hint) is typing.Literal:
                return tuple(map(str, typing.get_args(hint)))
        return ()


def settings_of(kind: type[Any], prefix: str = "") -> Iterator[Setting]:
    """Every setting of the dataclass `kind` and its sections, in order."""
    hints, docs = typing.get_type_hints(kind), _docs(kind)
    annotated = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from settings_of(hint, f"{key}.")  # type: ignore[arg-type]  # a class
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        # The one annotation that commands have is tyro's Positional.
        is_positional = hasattr(annotated[field.name], "__metadata__")
        yield Setting(key, docs.get(field.name, ""), hint, default, is_positional)


def _docs(kind: type[Any]) -> dict[str, str]:
    """The string below each field, by the field's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    docs: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in itertools.pairwise(statements):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs
