"""Who may import whom: dependencies point one way, and the light commands never load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vitucb"

FOUNDATION = {
    "types",
    "registry",
    "seeding",
    "config",
    "noise",
    "vit_layers",
    "adapters",
    "fast_linear",
    "grad_mode",
    "image_cache",
}
PARTS = {"covariance", "policies", "replay", "optim", "backbone", "assets"}
MODEL = {
    "adapted_layers",
    "adapter_stack",
    "frozen_prefix",
    "gradient_features",
    "pooled_block",
    "reward_model",
}
ONLINE = {
    "links",
    "ridge_head",
    "logistic_head",
    "change_detection",
    "feature_maps",
    "feature_history",
    "trainer",
}
# Layer -> the vitucb modules it may import, at any depth of nesting.
ALLOWED = {
    "types": set(),
    "registry": set(),
    "seeding": set(),
    "noise": {"types"},
    "config": {"registry", "durable", "free_options", "typed_override"},
    "free_options": {"typed_override"},
    "typed_override": set(),
    "durable": set(),
    "pieces": {"durable"},
    "provenance": set(),
    "run_lock": set(),
    "event_log": {"types"},
    "vit_layers": set(),
    "adapters": {"vit_layers"},
    "fast_linear": set(),
    "grad_mode": set(),
    "image_cache": set(),
    "covariance": FOUNDATION | {"covariance"},
    "policies": FOUNDATION | {"policies"},
    "replay": FOUNDATION,
    "optim": FOUNDATION | {"optim"},
    "backbone": FOUNDATION | {"assets"},
    "assets": set(),
    "adapted_layers": FOUNDATION,
    "frozen_prefix": FOUNDATION,
    "pooled_block": set(),
    "reward_model": FOUNDATION | PARTS | {"frozen_prefix", "pooled_block"},
    "gradient_features": FOUNDATION | PARTS | MODEL,
    "adapter_stack": FOUNDATION | MODEL,
    "lockstep": set(),
    "parallel_seeds": {"config", "types", "lockstep", "adapter_stack", "agents", "optim"},
    "head_history": {"types"},
    "ridge_head": {"types", "head_history"},
    "logistic_head": {"types", "head_history"},
    "change_detection": {"types"},
    "links": FOUNDATION,
    "feature_maps": FOUNDATION | MODEL,
    "feature_history": FOUNDATION | PARTS | {"adapter_stack", "feature_maps", "links"},
    "trainer": FOUNDATION | PARTS | MODEL | {"links"},
    "saved_agent": {"types", "config", "durable", "checkpoint"},
    "unanswered": {"types"},
    "agents": FOUNDATION | PARTS | MODEL | ONLINE | {"agents", "saved_agent"},
    "envs": {"envs"},
    "runner": {"types", "seeding"},
    "checkpoint": {"types", "durable", "pieces"},
    "snapshots": {"types", "durable", "pieces", "checkpoint"},
    "recorder": {"types", "config", "durable", "event_log", "provenance"},
    "statistics": {"significance", "resampling"},
    "resampling": set(),
    "ope": {"resampling"},
    "cross_fitting": set(),
    "logged_data": {"config", "cross_fitting", "envs", "experiment", "ranks", "seeding", "types"},
    "saved_run": {"types", "config", "checkpoint", "experiment", "resume", "saved_agent"},
    "deployment": {
        "agents",
        "config",
        "experiment",
        "runner",
        "saved_agent",
        "saved_run",
        "types",
        "unanswered",
    },
    "saved_policy": {"types", "deployment"},
    "significance": set(),
    "report": {"config", "statistics", "significance", "resampling", "report"},
}
TORCH_FREE = (
    "event_log",
    "provenance",
    "resume",
    "run_lock",
    "types",
    "registry",
    "seeding",
    "config",
    "policies",
    "replay",
    "runner",
    "recorder",
    "statistics",
    "ope",
    "cross_fitting",
    "logged_data",
    "saved_policy",
    "saved_agent",
    "saved_run",
    "unanswered",
    "deployment",
    "evaluate",
    "report",
    "cli",
    "sweep_command",
    "catalog",
    "engines",
    "sweep",
    "envs",
    "experiment",
    "lockstep",
    "parallel_seeds",
)
HEAVY = {"torch", "timm", "peft", "transformers", "torchvision"}


def modules_of(layer: str) -> list[Path]:
    folder = PACKAGE / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(path: Path, *, module_level_only: bool) -> set[str]:
    """Dotted names of the modules `path` imports, `TYPE_CHECKING` blocks left out."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if module_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import of {node.module}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_layer_imports_only_layers_below(layer: str) -> None:
    for path in modules_of(layer):
        for name in imported(path, module_level_only=False):
            root, _, rest = name.partition(".")
            if root == "vitucb":
                assert rest.split(".")[0] in ALLOWED[layer], f"{path.name} imports {name}"


@pytest.mark.parametrize("layer", TORCH_FREE)
def test_light_layer_does_not_import_torch_at_module_level(layer: str) -> None:
    for path in modules_of(layer):
        roots = {name.split(".")[0] for name in imported(path, module_level_only=True)}
        assert not roots & HEAVY, f"{path} imports {roots & HEAVY}"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["report", "-h"]])
def test_light_commands_load_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, contextlib\n"
        "from vitucb.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({arguments!r})\n"
        f"loaded = {sorted(HEAVY)!r}\n"
        "sys.exit(any(name in sys.modules for name in loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_envs_and_agents_are_never_imported_under_their_bare_names() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        roots = {name.split(".")[0] for name in imported(path, module_level_only=False)}
        assert not roots & {"envs", "agents"}, path
