"""Packages import only packages below them, light ones without torch; modules stay short."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from draw_packages import PACKAGE, ROOT, Import, modules, read_imports

# Bottom up: each imports only those before it. Nothing imports the other modules of the root, the
# public face of the package and its forwarders.
ORDER = (
    *("types", "registry", "seeding", "inert_text", "devices", "assets"),
    *("storage", "envs", "statistics", "config"),
    *("models", "covariance", "policies", "optim", "learning", "agents"),
    *("experiment", "serving", "evaluation", "report", "cli"),
)
# Importing these loads none of `HEAVY`, save for the parts that work with tensors.
LIGHT = {*ORDER} - {"storage", "models", "covariance", "optim", "learning", "agents"}
TENSOR_PARTS = ("cli.bench", "experiment.distributed", "experiment.checkpoints")
HEAVY = {"torch", "timm", "peft", "transformers", "torchvision"}
LONGEST_MODULE = 350

IMPORTS = read_imports()
OURS = [found for found in IMPORTS if found.is_ours and found.module != found.target]
OURS_AT_ONCE: dict[str, set[str]] = {}
for found in OURS:
    if found.at_module_level:
        OURS_AT_ONCE.setdefault(found.module, set()).add(found.target)
LOAD_TORCH = {i.module for i in IMPORTS if i.at_module_level and i.target in HEAVY}


def package(module: str) -> str:
    return module.partition(".")[0]


def is_upwards(found: Import) -> bool:
    importer, imported = package(found.module), package(found.target)
    if importer not in ORDER:
        return False
    return imported not in ORDER or ORDER.index(imported) > ORDER.index(importer)


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(ORDER)
    assert {name for name in ORDER if name not in packages and name not in modules()} == set()


def test_imports_point_downwards() -> None:
    assert [found for found in OURS if is_upwards(found)] == []


def test_imports_run_in_no_circle() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for found in OURS:
        sorter.add(found.module, found.target)
    sorter.prepare()  # raises CycleError, which names the circle


def loaded_with(module: str) -> set[str]:
    """The modules that importing `module` runs: those it imports, and the packages around them."""
    loaded: set[str] = set()
    pending = {module}
    while pending:
        name = pending.pop()
        loaded.add(name)
        pending |= ({name.rpartition(".")[0]} | OURS_AT_ONCE.get(name, set())) - loaded
    return loaded


@pytest.mark.parametrize("layer", sorted(LIGHT))
def test_light_package_loads_no_torch(layer: str) -> None:
    names = [name for name in modules() if package(name) == layer]
    light = [name for name in names if not name.startswith(TENSOR_PARTS)]
    assert [(n, m) for n in light for m in loaded_with(n) if m in LOAD_TORCH] == []


def test_only_the_command_line_imports_tyro() -> None:
    readers = {found.module for found in IMPORTS if found.target == "tyro"}
    assert {package(module) for module in readers} == {"cli"}


def test_imports_are_absolute_and_never_of_bare_envs_or_agents() -> None:
    assert [i for i in IMPORTS if not i.is_ours and i.target in ("envs", "agents", "")] == []


def test_root_holds_at_most_ten_modules() -> None:
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(names) <= 10


def test_modules_are_short() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}


@pytest.mark.parametrize(
    ("command", "spared"),
    [
        ("--help", HEAVY | {"tyro"}),
        ("list", HEAVY | {"tyro"}),
        ("run --help", HEAVY),
        ("report -h", HEAVY),
    ],
)
def test_light_commands_load_no_torch(command: str, spared: set[str]) -> None:
    code = (
        "import sys, contextlib\n"
        "from vitucb.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({command.split()!r})\n"
        f"sys.exit(any(name in sys.modules for name in {sorted(spared)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
