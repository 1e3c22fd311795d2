"""Names from folders and files as text that does nothing where it is shown.

Somebody else's label may hold what a terminal takes for an order (control characters), what turns
the order of letters around (bidirectional ones: https://www.unicode.org/reports/tr9/), or what a
spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection).
"""

from __future__ import annotations

import logging
import unicodedata

# Cc: control; Cf: formats, among them the bidirectional ones; Zl, Zp: separators; Cs: surrogates.
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
# Joiners of letters and of emoji, which turn nothing around.
_HARMLESS = "\u200c\u200d"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every control and bidirectional character written as \xNN or \uNNNN.

    Args:
        text: Any text.
        keep: Characters that stay as they are, e.g. a line break.
    """
    if text.isascii() and text.isprintable():
        return text
    allowed = _HARMLESS + keep
    return "".join(
        c if c in allowed or unicodedata.category(c) not in _UNSEEN else _escaped(c) for c in text
    )


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else (f"\\x{ord(character):02x}")
    )


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: quoted by ' if it is text that begins so."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.startswith(_FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class InertFormatter(logging.Formatter):
    """Log messages whose names do nothing in a terminal; line breaks stay."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, visible."""
        return visible(super().format(record), keep="\n")
