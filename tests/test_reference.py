"""What the reference shows: examples that run, formulas as blocks, and no word lost as HTML."""

from __future__ import annotations

import ast
import doctest
import html
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docs_formulas import set_off_blocks

markdown: Callable[[str], str] = importlib.import_module("markdown").markdown  # it has no types

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    file
    for folder in ("vitucb", "agents", "envs")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if not {"envs", "agents"} & set(file.relative_to(ROOT).parts[1:])
]
WITH_EXAMPLES = [file for file in SOURCES if ">>> " in file.read_text(encoding="utf-8")]


def module_of(file: Path) -> str:
    dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return dotted if dotted.startswith("vitucb") else f"vitucb.{dotted}"


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=module_of)
def test_examples_of_docstrings_run_by_themselves(file: Path) -> None:
    module = importlib.import_module(module_of(file))
    runner = doctest.DocTestRunner()
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found
    for test in found:
        name = test.name.rpartition(".")[2]
        test.globs = {name: getattr(module, name)}
        assert runner.run(test).failed == 0


def docstrings(file: Path) -> Iterator[str]:
    """Docstrings of a module, up to their first section (`Args:` and so on)."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            yield re.split(r"(?m)^\w+:$", text)[0]


def formulas(text: str) -> Iterator[str]:
    """Lines that stand further in than their paragraph, those of lists aside."""
    above = ""
    for line in text.splitlines():
        if line.startswith("    ") and not re.match(r"[-*] |\d+\. ", above):
            yield " ".join(line.split())
        elif line.strip():
            above = line


def test_formulas_of_docstrings_are_rendered_as_blocks() -> None:
    wanted, lost = 0, []
    for file in SOURCES:
        for text in docstrings(file):
            page = markdown(set_off_blocks(text))
            blocks = html.unescape(" ".join(re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)))
            lines = [*formulas(text)]
            wanted += len(lines)
            lost += [(file.name, line) for line in lines if line not in " ".join(blocks.split())]
    assert wanted > 50
    assert lost == []


def test_no_word_of_a_docstring_is_taken_for_html() -> None:
    tag = re.compile(r"<(?!/?(?:p|pre|code|ul|ol|li|em|strong|a|h\d|blockquote|hr|br)\b)/?[A-Za-z]")
    found = [
        (file.name, page[match.start() :][:60])
        for file in SOURCES
        for text in docstrings(file)
        for page in [markdown(set_off_blocks(text))]
        for match in tag.finditer(page)
    ]
    assert found == []


def test_inner_products_stay_and_code_is_left_alone() -> None:
    assert (
        set_off_blocks("With <S a, S b> and `list<int>`.") == "With &lt;S a, S b> and `list<int>`."
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as they are published."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_site_shows_examples_and_formulas_and_asks_nobody_else(site: Path) -> None:
    pages = {file.relative_to(site).as_posix(): file.read_text() for file in site.rglob("*.html")}
    prompts = sum(text.count("&gt;&gt;&gt; ") for text in pages.values())
    drawn = sum(text.count('<span class="gp">&gt;&gt;&gt; </span>') for text in pages.values())
    assert prompts == drawn > 20
    assert pages["concepts.html"].count('<div class="arithmatex">') >= 10
    assert [name for name, text in pages.items() if re.search(r"^\$\$", text, re.MULTILINE)] == []
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?https?:[^>]*>")
    links = re.compile(r"<link[^>]*\shref=\"?https?:[^>]*>")
    asked = [found for text in pages.values() for found in loads.findall(text)]
    asked += [
        found
        for text in pages.values()
        for found in links.findall(text)
        if 'rel="canonical"' not in found
    ]
    sheets = [file.read_text(encoding="utf-8") for file in site.rglob("*.css")]
    asked += [found for text in sheets for found in re.findall(r"url\([\"']?https?:[^)]*\)", text)]
    assert asked == []
