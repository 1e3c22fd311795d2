"""The HTML page: one self-contained file, light and dark, that prints well."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitucb.config import flatten
from vitucb.inert_text import visible
from vitucb.report import notes, page_tables, provenance, sentences
from vitucb.report.analysis import Analysis
from vitucb.report.figures.theme import css_variables
from vitucb.report.runs import Run
from vitucb.report.series import smoothing_window

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page: inline SVGs below each other, for wide screens and for small ones."""

    wide: Sequence[str]
    small: Sequence[str]


@dataclass(frozen=True, slots=True)
class Section:
    """One group of the report.

    Attributes:
        analysis: The numbers.
        figures: By name; missing ones are left out.
        galleries: Title and picture of each gallery, the main agent's first.
    """

    analysis: Analysis
    figures: Mapping[str, Picture]
    galleries: Sequence[tuple[str, Picture]]


def page(title: str, sections: Sequence[Section], runs: Sequence[Run], command: str) -> str:
    """A complete HTML document.

    Args:
        title: Its title.
        sections: One per group; where there are several, links to them come first.
        runs: All runs, for the footer: what was run and on what.
        command: The call that makes the page again.
    """
    template = _environment().get_template("page.html.j2")
    links = sentences.section_links([section.analysis for section in sections])
    return template.render(title=title, sections=sections, links=links, runs=runs, command=command)


def unbroken(text: str) -> str:
    """`text` with no line break inside a number and its interval."""
    return re.sub(r"(?<=[\d%]) \[[^\]]*\]", lambda m: m.group().replace(" ", "\u00a0"), text)


def _shown(value: object) -> object:
    """Text whose control and bidirectional characters do nothing; markup is ours, and stays."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return visible(str(value), keep="\n\t") if is_text else value


def _environment() -> Environment:
    # Imported here so that `vitucb report --help` does not wait for jinja2.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vitucb.report"),
        autoescape=True,
        # Names come from run folders.
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        *(sentences.section_title, sentences.headline, sentences.best_rival_sentence),
        sentences.gain_sentence,
        *(sentences.rivals_line, notes.warnings, notes.caveats),
        *(sentences.comparison_sentence, sentences.tests_note),
        *(page_tables.summary_columns, page_tables.explained_columns, page_tables.summary_rows),
        *(page_tables.images_line, page_tables.cost_rows),
        *(provenance.facts, provenance.differing_settings),
        *(flatten, smoothing_window, unbroken),
    )
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {
        "css_variables": css_variables,
        "cost_columns": page_tables.COST_COLUMNS,
    }
    return environment
