"""Draw `docs/architecture.svg`: the packages of vitucb, a row for each depth of their imports.

Run `python scripts/draw_packages.py` after a change of the packages; tests/test_docs.py compares
the picture with the imports. `read_imports` is what tests/test_layers.py holds the layers with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vitucb"


@dataclass(frozen=True)
class Import:
    """One import statement of one module.

    Attributes:
        module: The module that imports, as `optim.lora_rite`; the package itself is ``.
        target: The module that it imports, written alike, or the name of another library; that
            of a relative import is ``.
        is_ours: Whether `target` is a module of vitucb.
        at_module_level: Whether importing `module` runs it.
    """

    module: str
    target: str
    is_ours: bool
    at_module_level: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its name in it; links are followed."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_symlink())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return {_name(file): file for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports() -> list[Import]:
    """All imports of all modules, those in functions too; `TYPE_CHECKING` blocks left out."""
    files = modules()
    return [found for name in files for found in _imports_of(name, files)]


def _imports_of(module: str, files: dict[str, Path]) -> Iterator[Import]:
    tree = ast.parse(files[module].read_text(encoding="utf-8"))
    for statement, at_module_level in _statements(tree, True):
        for dotted in _imported_names(statement):
            library, _, target = dotted.partition(".")
            is_ours = library == "vitucb"
            while is_ours and target not in files:
                target = target.rpartition(".")[0]
            yield Import(module, target if is_ours else library, is_ours, at_module_level)


def _statements(node: ast.AST, at_module_level: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child, at_module_level
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _statements(child, at_module_level and not is_function)


def _imported_names(statement: ast.AST) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        source = "." * statement.level + (statement.module or "")
        return [f"{source}.{alias.name}" for alias in statement.names]
    return []
