"""Check the options of an optimizer before it is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Given by the caller of create_optimizer, so never an option of the user.
_RESERVED = {"self", "params", "pairs", "base_class", "lr", "other_params", "options", "defaults"}


def check_options(
    name: str, builder: Callable[..., Any], options: Mapping[str, Any], extra: Iterable[str] = ()
) -> None:
    """Check that every option is a keyword of `builder`.

    Args:
        name: Name of the optimizer, for the message.
        builder: The class that will get the options.
        options: The options; a builder with `**options` checks what it passes on itself.
        extra: Options handled outside the builder.

    Raises:
        ValueError: If an option is unknown; the message names it and the known ones.
    """
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = sorted({*(p.name for p in parameters), *extra} - _RESERVED)
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed)
            raise ValueError(f"optimizer {name!r} has no option {option!r}; options: {known}")
