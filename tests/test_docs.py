"""The pages keep up with the code: commands parse, imports exist, no name is missing."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from docs_formulas import set_off_blocks
from draw_packages import (
    PAGE,
    PICTURE,
    PLACES,
    ROOT_WORDS,
    description,
    packages,
    with_table,
)

from vitucb.cli.arguments import parse, parse_run, pop_option, pop_values, split_options
from vitucb.cli.catalog import CATALOG
from vitucb.cli.demo import DemoArgs
from vitucb.cli.evaluate import EvaluateArgs
from vitucb.cli.report import ReportArgs
from vitucb.cli.sweep import SweepArgs
from vitucb.cli.tune import TuneArgs
from vitucb.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:python -m |python3 scripts/bootstrap.py )?vitucb ([a-z]+) (.*)")
KINDS = {
    "run": RunConfig,
    "demo": DemoArgs,
    "report": ReportArgs,
    "evaluate": EvaluateArgs,
    "sweep": RunConfig,
    "tune": RunConfig,
}
OF_ITS_OWN = {"sweep": SweepArgs, "tune": TuneArgs}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def exists(dotted: str) -> bool:
    """Whether there is a module, or something in a module, of this name."""
    module, _, attribute = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ImportError:
        return hasattr(importlib.import_module(module), attribute)
    return True


def check(command: str, words: list[str]) -> None:
    """Parse as the command line does, without playing anything."""
    kind = KINDS[command]
    if kind is not RunConfig:
        parse(kind, words, command)
        return
    words, _ = pop_option([word for word in words if word not in ("--resume", "...")], "--config")
    for option in ("--grid", "--list", "--search"):
        words, _ = pop_values(words, option)
    if command in OF_ITS_OWN:
        _, words = split_options(words, OF_ITS_OWN[command])
    parse_run(words, command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_the_page_parse(page: Path) -> None:
    for _, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines():
            if (found := COMMAND.match(line)) and found[1] in KINDS:
                check(found[1], shlex.split(found[2], comments=True))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_that_the_text_names_exist(page: Path) -> None:
    for option in re.findall(r"`--((?:agent|env|parallel)\.[\w.-]+)", page.read_text("utf-8")):
        setting: object = RunConfig()
        for part in option.rstrip(".").replace("-", "_").split("."):
            if isinstance(setting, Mapping):  # free in name
                break
            assert hasattr(setting, part), option
            setting = getattr(setting, part)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_of_the_page_exist(page: Path) -> None:
    for language, text in blocks(page):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vitucb"):
                module = importlib.import_module(node.module or "")
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("agents", "agents"),
        ("experts", "agents"),
        ("policies", "policies"),
        ("optimizers", "optimizers"),
        ("covariances", "covariance"),
        ("envs", "environments"),
        ("engines", "experiments"),
    ],
)
def test_page_names_everything_of_its_kind(kind: str, page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert [entry for entry in CATALOG[kind]() if f"`{entry}`" not in text] == []


def test_reference_has_a_page_for_every_package() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "api").glob("*.md")}
    assert pages == ({*PLACES} - {"cli", ROOT_WORDS}) | {"words", "index"}


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=name)
def test_reference_shows_modules_of_its_package_that_exist(page: Path) -> None:
    members = r"(?:\n    options:\n      members: \[(.*)\])?"
    shown = re.findall(rf"^::: ([\w.]+)${members}", page.read_text(), re.MULTILINE)
    assert shown or page.stem == "index"
    modules = ROOT_WORDS.split(", ") if page.stem == "words" else [page.stem]
    assert {module.split(".")[1] for module, _ in shown} <= set(modules)
    names = {f"{module}.{name}" for module, names in shown for name in names.split(", ") if name}
    assert {dotted for dotted in {m for m, _ in shown} | names if not exists(dotted)} == set()


def test_formulas_and_lists_of_docstrings_become_blocks() -> None:
    text = "With y = W x,\n    dy = W dx\nand\n- one\n- two\n\nArgs:\n    x: Input.\n"
    expected = "With y = W x,\n\n    dy = W dx\nand\n\n- one\n- two\n\nArgs:\n    x: Input."
    assert set_off_blocks(text) == expected


def test_architecture_is_drawn_from_the_imports_of_today() -> None:
    graph, page = packages(), PAGE.read_text(encoding="utf-8")
    assert description(graph) in PICTURE.read_text(encoding="utf-8")
    assert with_table(page, graph) == page


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_modules_that_the_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:vitucb|envs|agents|scripts|tests|docs)/[\w./]*?)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    names = re.findall(r"`(vitucb(?:\.\w+)+)`", text)
    assert [dotted for dotted in names if not exists(dotted)] == []
    assert re.findall(r"\bvitucb\.(?:adapters|backbone|evaluate|runner|deployment)\b", text) == []
