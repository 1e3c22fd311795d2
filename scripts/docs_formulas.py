"""Let formulas, lists and examples of docstrings stand as blocks in the rendered reference.

In the source they follow their sentence directly; Markdown wants a blank line before them. griffe
knows `Examples:` as a section of doctests, where the style asks for `Example:`. And inner products
`<a, b>` are no HTML, as which a browser would leave them out. A griffe extension, named in
mkdocs.yml.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# `Args:` and its like are sections, which griffe reads by itself; a list item may be continued.
_ITEM = re.compile(r"[-*] |\d+\. ")
_SECTION = re.compile(r"\w+:$")
# What Markdown takes for a tag; code between backticks comes first and is left alone.
_CODE_OR_TAG = re.compile(r"`+[^`]+`+|<(?=/?[A-Za-z][^<>]*>)")


def set_off_blocks(text: str) -> str:
    """`text` with a blank line between a paragraph and the formula or list that follows it.

    And with `Examples:` as the head of doctests, and nothing that Markdown takes for a tag.
    """
    lines: list[str] = []
    text = _CODE_OR_TAG.sub(lambda found: found[0] if found[0] != "<" else "&lt;", text)
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
