"""Let formulas and lists of docstrings stand as blocks in the rendered reference.

In the source they follow their sentence directly; Markdown wants a blank line before them. And
griffe knows `Examples:` as a section of doctests, where the style asks for `Example:`. A griffe
extension, named in mkdocs.yml.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# `Args:` and its like are sections, which griffe reads by itself; a list item may be continued.
_ITEM = re.compile(r"[-*] |\d+\. ")
_SECTION = re.compile(r"\w+:$")


def set_off_blocks(text: str) -> str:
    """`text` with a blank line between a paragraph and the formula or list that follows it."""
    lines: list[str] = []
    for line in re.sub(r"(?m)^( *)Example:$", r"\1Examples:", text).splitlines():
        above = lines[-1] if lines else ""
        is_paragraph = bool(above.strip()) and not above.startswith(" ")
        if is_paragraph and not _ITEM.match(above) and not _SECTION.match(above):
            is_formula = _indent(line) >= 4
            if is_formula or _ITEM.match(line):
                lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class Formulas(griffe.Extension):
    """Applies `set_off_blocks` to every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = set_off_blocks(obj.docstring.value)
