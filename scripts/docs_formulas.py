"""Let indented formulas of docstrings stand as blocks in the rendered reference.

In the source a formula follows its sentence directly; Markdown wants a blank line before a code
block. And griffe knows `Examples:` as a section of doctests, where the style asks for `Example:`.
A griffe extension, named in mkdocs.yml.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# `Args:` and its like are sections, which griffe reads by itself; a list item may be continued.
_KEEPS_ITS_BLOCK = re.compile(r"^\s*([-*] |\d+\. |\w+:$)")


def set_off_formulas(text: str) -> str:
    """`text` with a blank line before every line indented by 4 more than the one above."""
    lines: list[str] = []
    for line in re.sub(r"(?m)^( *)Example:$", r"\1Examples:", text).splitlines():
        above = lines[-1] if lines else ""
        steps_in = _indent(line) >= _indent(above) + 4
        if above.strip() and steps_in and _indent(above) == 0 and not _KEEPS_ITS_BLOCK.match(above):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class Formulas(griffe.Extension):
    """Applies `set_off_formulas` to every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = set_off_formulas(obj.docstring.value)
