"""Draw `docs/architecture.svg`: the packages of vitucb and who imports whom.

Run `python scripts/draw_packages.py` after a change of the packages; tests/test_docs.py compares
picture and table with the imports. tests/test_layers.py reads the imports with `read_imports`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vitucb"
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"

Graph: TypeAlias = dict[str, set[str]]


@dataclass(frozen=True)
class Place:
    """Where a package is drawn, and what is written there.

    Attributes:
        column: Centre of its box, in widths of a column; its row follows from the imports.
        kind: Key of `KINDS`.
        job: What the package does, in a few words.
    """

    column: float
    kind: str
    job: str


ROOT_WORDS = "types, registry, seeding"
PLACES = {
    "cli": Place(1.75, "results", "the commands"),
    "evaluation": Place(1.0, "results", "rewards estimated from logs"),
    "report": Place(2.52, "results", "run folders to one page"),
    "serving": Place(1.0, "play", "an agent in your program"),
    "statistics": Place(2.0, "results", "regret over seeds"),
    "experiment": Place(1.0, "play", "run, record, resume, sweep"),
    "agents": Place(1.0, "agent", "vit-ucb and baselines"),
    "envs": Place(2.0, "play", "environments, image sets"),
    "learning": Place(0.0, "agent", "features, heads, training"),
    "optim": Place(1.0, "agent", "optimizers of LoRA pairs"),
    "policies": Place(2.0, "agent", "mean and width to action"),
    "covariance": Place(0.0, "agent", "A and its widths"),
    "models": Place(0.5, "agent", "the ViT and its adapters"),
    "config": Place(2.0, "ground", "settings, checked"),
    "storage": Place(2.0, "ground", "files that survive a crash"),
    ROOT_WORDS: Place(1.25, "ground", "words everything shares"),
}
# What a kind of packages is for; fill, pale enough for black text, and edge.
KINDS = {
    "results": ("commands and results", "#e8f4e9", "#7fb58a"),
    "play": ("playing and serving", "#fdf0dc", "#dcab5c"),
    "agent": ("deciding and learning", "#e6edfb", "#7f9fd8"),
    "ground": ("shared ground", "#f0f0f3", "#a9abb3"),
}


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
    """Every module of the package by its name in it, as `envs.data.npz`."""
    roots = {"envs": ROOT / "envs", "agents": ROOT / "agents", "": PACKAGE}
    found = {}
    for prefix, root in roots.items():
        for file in sorted(root.rglob("*.py")):
            parts = (prefix, *file.relative_to(root).with_suffix("").parts)
            found[".".join(part for part in parts if part not in ("", "__init__"))] = file
    return found


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


def packages() -> Graph:
    """Who imports whom: each package and those it imports; the modules of the root are one.

    The face of the package, which imports from everywhere, and old names of modules are left out.
    """
    graph: Graph = {name: set() for name in PLACES}
    for found in read_imports():
        pair = _package(found.module), _package(found.target)
        if found.is_ours and pair[0] != pair[1] and {*pair} <= {*PLACES}:
            graph[pair[0]].add(pair[1])
    return graph


def _package(module: str) -> str:
    name = module.partition(".")[0]
    return ROOT_WORDS if name in (*ROOT_WORDS.split(", "), "assets") else name


def reduced(graph: Graph) -> Graph:
    """`graph` without the imports that follow from others, by way of a package between."""

    @cache
    def reach(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*(reach(below) for below in graph[name]))

    return {
        name: {b for b in below if not any(b in reach(other) for other in below)}
        for name, below in graph.items()
    }


def rows(graph: Graph) -> dict[str, int]:
    """The row of every package, 0 on top: each as high as those that import it allow."""

    @cache
    def row(name: str) -> int:
        return max((1 + row(above) for above, below in graph.items() if name in below), default=0)

    return {name: row(name) for name in graph}


def description(graph: Graph) -> str:
    """The arrows in words, which the picture carries along: what a test can compare."""
    arrows = {name: sorted(below) for name, below in reduced(graph).items()}
    return "; ".join(f"{name} imports {', '.join(b)}" for name, b in arrows.items() if b)


def draw(graph: Graph, file: Path) -> None:
    """The picture: a box a package, an arrow an import that does not follow from others."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height = rows(graph)
    at = {name: (place.column, height[name]) for name, place in PLACES.items()}
    # Text as text, in the font of the page; the same bytes every time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitucb"}):
        figure = Figure(figsize=(9.2, 0.95 * (1 + max(height.values()))))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.5, 3.0), ylim=(max(height.values()) + 0.5, -0.5))
        axes.axis("off")
        for name, below in reduced(graph).items():
            for target in sorted(below):
                _draw_arrow(axes, at[name], at[target])
        for name, place in PLACES.items():
            _draw_box(axes, name, place, at[name])
        _draw_legend(axes)
        words = {"Title": "The packages of vitucb", "Description": description(graph)}
        figure.savefig(file, metadata={**words, "Date": None, "Creator": None})


_WIDTH, _HEIGHT = 0.86, 0.52  # of a box, in columns and rows
_DARK, _GREY = "#1c2030", "#4c5264"
_FONT: dict[str, Any] = {"va": "center", "family": "sans-serif"}


def _draw_box(axes: Axes, name: str, place: Place, at: tuple[float, int]) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (_, fill, edge) = at, KINDS[place.kind]
    width = _WIDTH + 0.02 * max(0, len(name) - 16)
    style = "round,pad=0.05,rounding_size=0.06"
    corner = (x - width / 2 + 0.05, y - _HEIGHT / 2 + 0.05)
    size = (width - 0.1, _HEIGHT - 0.1)
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec=edge, lw=1.1))
    axes.text(x, y - 0.09, name, size=12, weight="bold", color=_DARK, ha="center", **_FONT)
    axes.text(x, y + 0.13, place.job, size=9, color=_GREY, ha="center", **_FONT)


def _draw_arrow(axes: Axes, start: tuple[float, int], end: tuple[float, int]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    # Both ends lean towards each other, so that the arrows of one box stand apart; one that passes
    # a row keeps to its own column.
    lean = max(-0.33, min(0.33, 0.2 * (end[0] - start[0])))
    x, to_x = start[0] + (lean if end[1] == start[1] + 1 else 0), end[0] - lean
    y, to_y = start[1] + _HEIGHT / 2, end[1] - _HEIGHT / 2 - 0.01
    # Straight down past the rows between, then across.
    turn = to_y - (1 - _HEIGHT)
    middle = (turn + to_y) / 2
    points = [(x, y), (x, turn), (x, middle), (to_x, middle), (to_x, to_y)]
    curve = Curve(points, [Curve.MOVETO, Curve.LINETO, *[Curve.CURVE4] * 3])
    style = "-|>,head_length=5,head_width=2.4"
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle=style, color="#8b90a0", lw=1.2))


def _draw_legend(axes: Axes) -> None:
    left, top = -0.43, -0.1
    axes.text(left, top, "The packages of vitucb", size=13, weight="bold", color=_DARK, **_FONT)
    axes.text(left, top + 0.26, "An arrow reads: imports.", size=9, color=_GREY, **_FONT)
    for i, (meaning, fill, edge) in enumerate(KINDS.values()):
        y = top + 0.58 + 0.26 * i
        axes.plot(left + 0.04, y, "s", ms=9, mfc=fill, mec=edge)
        axes.text(left + 0.12, y, meaning, size=9, color=_GREY, **_FONT)


def table(graph: Graph) -> str:
    """The packages, their jobs and all their imports, as a table of Markdown."""
    place = list(PLACES)
    lines = ["| package | what it does | imports |", "|---|---|---|"]
    for name, below in graph.items():
        imports = ", ".join(f"`{b}`" for b in sorted(below, key=place.index)) or "none of these"
        lines.append(f"| `{name}` | {PLACES[name].job} | {imports} |")
    return "\n".join(lines) + "\n"


_TABLE = re.compile(r"(?<=<!-- by scripts/draw_packages.py -->\n\n)(?:\|.*\n)*")


def with_table(page: str, graph: Graph) -> str:
    """The text of the page, its table of imports written anew."""
    return _TABLE.sub(lambda _: table(graph), page)


def main() -> None:
    """Write the picture, and the table of the page beside it."""
    graph = packages()
    draw(graph, PICTURE)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), graph), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
