"""Somebody else's names as text that does nothing."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitucb.inert_text import InertFormatter, csv_cell, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lin-ucb", "lin-ucb"),
        ("größer 日本 👩\u200d🔬", "größer 日本 👩\u200d🔬"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("one\r\ntwo\u2028three", r"one\x0d\x0atwo\u2028three"),
        ("\x9b31m\ud800", r"\x9b31m\ud800"),
    ],
)
def test_control_and_bidirectional_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_visible_stays_so(text: str) -> None:
    once = visible(text)
    assert visible(once) == once
    assert "\x1b" not in once
    assert "\u202e" not in once


def test_line_breaks_stay_where_they_are_meant() -> None:
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "run %s", ("\x1b[0m\n",), None)
    assert InertFormatter().format(record) == "run \\x1b[0m\n"


@pytest.mark.parametrize("text", ["=1+2", "+cmd", "-x", "@SUM(A1)", "\tx", "\r=x"])
def test_formulas_are_quoted(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "-inf", 1.0, -2, None, "lin-ucb", "a=b"])
def test_numbers_and_plain_words_stay(value: object) -> None:
    assert csv_cell(value) is value
