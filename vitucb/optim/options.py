"""Check the options of an optimizer before it is built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vitucb.config import checked

# Given by the caller of create_optimizer, so never an option of the user.
_RESERVED = {"self", "params", "pairs", "base_class", "lr", "other_params", "options", "defaults"}


def check_options(
    name: str, builder: Callable[..., Any], options: Mapping[str, Any], extra: Iterable[str] = ()
) -> None:
    """Check that every option is a keyword of `builder`, and of its type where that is ours.

    Args:
        name: Name of the optimizer, for the message.
        builder: The class that will get the options.
        options: The options; a builder with `**options` checks what it passes on itself.
        extra: Options handled outside the builder.

    Raises:
        ValueError: If an option is unknown or of the wrong type; the message names it, and the
            known ones.
    """
    _check_types(name, builder, options)
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = sorted({*(p.name for p in parameters), *extra} - _RESERVED)
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed)
            raise ValueError(f"optimizer {name!r} has no option {option!r}; options: {known}")


def _check_types(name: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    # Annotations of a class from elsewhere may not be meant as strictly as ours and torch's are.
    if not builder.__module__.startswith(("vitucb.", "torch.")):
        return
    made_by: Any = builder
    hints = typing.get_type_hints(made_by.__init__ if isinstance(builder, type) else made_by)
    for option, value in options.items():
        if option in hints and option not in _RESERVED:
            checked(value, hints[option], f"optimizer {name!r}, option {option}")
