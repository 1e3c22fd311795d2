"""Formulas of the pages are such as KaTeX and GitHub both draw, and what draws them is bundled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ASSETS = DOCS / "assets"
PAGES = sorted(DOCS.rglob("*.md"))
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# Commands that KaTeX and GitHub's MathJax both know. GitHub forbids \operatorname.
KNOWN = set(
    re.findall(
        r"\w+",
        """
        alpha arg begin bigl bigr Bigl Bigr cr delta Delta det end epsilon exp frac gamma lambda
        lbrace ldots le left leftarrow ln log lVert mathrm max mid min mu nabla partial phi Phi
        pi qquad quad rbrace rho right rVert sigma sim sqrt sum tau text textstyle top
        cdot thinspace
        """,
    )
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def formulas(page: Path) -> Iterator[str]:
    """TeX of every block and of every inline formula."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    yield from re.findall(r"^\$\$\n(.*?)\n\$\$$", text, re.DOTALL | re.MULTILINE)
    inline = re.sub(r"^\$\$\n.*?\n\$\$$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert inline.count("$") % 2 == 0, "a dollar without its partner"
    yield from re.findall(r"\$([^$]+)\$", inline)


def faults(tex: str) -> list[str]:
    """What KaTeX would not draw, or GitHub would draw differently."""
    commands = re.findall(r"\\([A-Za-z]+)", tex)
    found = [f"unknown \\{command}" for command in commands if command not in KNOWN]
    if re.search(r"\\[^A-Za-z]", tex):
        found.append("a backslash before a sign, which Markdown takes away: \\cr ends a line")
    if "\n\n" in tex:
        found.append("an empty line")
    depth = 0
    for sign in re.findall(r"[{}]", tex):
        depth += 1 if sign == "{" else -1
        if depth < 0:
            break
    if depth:
        found.append("braces without partner")
    pairs = [("left", "right"), ("bigl", "bigr"), ("Bigl", "Bigr"), ("lVert", "rVert")]
    found += [f"\\{a} without \\{b}" for a, b in pairs if commands.count(a) != commands.count(b)]
    if re.findall(r"\\begin\{(\w+)\}", tex) != re.findall(r"\\end\{(\w+)\}", tex)[::-1]:
        found.append("\\begin without \\end")
    if re.search(r"[_^]\s*([_^$]|$)", tex) or re.search(r"[^\x00-\x7f]", tex):
        found.append("an index of nothing, or a sign that has a command")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_formulas_of_the_page_parse(page: Path) -> None:
    found = {tex: faults(tex) for tex in formulas(page)}
    assert {tex: problems for tex, problems in found.items() if problems} == {}


def test_the_concepts_have_formulas() -> None:
    assert len([*formulas(DOCS / "concepts.md")]) > 40


@pytest.mark.parametrize(
    "tex",
    [
        r"\operatorname{clip}(x)",
        r"a \\ b",
        r"\frac{a}{b",
        "}{",
        r"\left( x",
        r"\begin{aligned} x",
        "x_",
        "σ",
        "a\n\nb",
    ],
)
def test_broken_formula_is_found(tex: str) -> None:
    assert faults(tex)


def test_what_draws_formulas_is_there_and_names_no_other_place() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"assets/[\w./]+", settings)
    assert {"assets/katex/katex.min.js", "assets/katex/katex.min.css"} <= set(named)
    assert [file for file in named if not (DOCS / file).is_file()] == []
    assert (ASSETS / "katex" / "LICENSE").read_text().startswith("The MIT License")
    for sheet in ASSETS.rglob("*.css"):
        used = re.findall(r"url\(([^)]+)\)", sheet.read_text(encoding="utf-8"))
        assert [file for file in used if not (sheet.parent / file).is_file()] == []
        assert "@import" not in sheet.read_text(encoding="utf-8")
