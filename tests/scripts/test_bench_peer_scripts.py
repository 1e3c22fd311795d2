"""Comparisons with published libraries: they start, name what is missing, and agree with torch."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.scripts.studies import SCRIPTS, run, table

NAMES = ("gradients", "widths", "optimizers", "linear")


@pytest.fixture
def tools() -> ModuleType:
    return importlib.import_module("peer_tools")


def test_a_missing_peer_is_one_line_that_says_how_to_install_it(
    tools: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "is_installed", lambda module: False)
    modules = {"ours": None, "theirs": "opacus"}
    parser = tools.peer_parser("", modules, repeats=3)
    with pytest.raises(SystemExit) as stop:
        tools.chosen_rows(parser, parser.parse_args([]), modules)
    assert stop.value.code == 2
    (*_, line) = capsys.readouterr().err.splitlines()
    assert "pip install --target PEERS --no-deps opacus opt-einsum" in line
    assert "--rows of 'ours'" in line
    assert tools.chosen_rows(parser, parser.parse_args(["--rows", "ours"]), modules) == ["ours"]


def test_ratios_are_of_the_same_turn(tools: ModuleType) -> None:
    times = {"a": np.array([1.0, 2.0, 9.0]), "b": np.array([2.0, 4.0, 3.0])}
    assert tools.time_cells(times, "b", "a") == ["3000", "2.00"]


def test_peak_memory_is_that_of_tensors_alive_at_one_time(tools: ModuleType) -> None:
    torch = importlib.import_module("torch")

    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(2**18).sum()

    assert 1.0 <= tools.peak_mib(one_after_the_other) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [*(f"bench_peer_{name}.py" for name in NAMES), "bench_peers.py", "bench_frozen_forward.py"],
)
def test_script_starts_in_a_process_of_its_own(script: str) -> None:
    assert len(list(SCRIPTS.rglob(script))) == 1
    run(script, "--help")


@pytest.mark.slow
def test_the_frozen_forward_is_that_of_timm(tmp_path: Path) -> None:
    ways = ["vitucb", "timm"]
    run("bench_frozen_forward.py", "--quick", "--out", str(tmp_path), "--rows", *ways)
    _, *rows = table(tmp_path / "frozen-forward.csv")
    assert [row[1:3] for row in rows] == [[batch, way] for batch in ("1", "10") for way in ways]
    assert all(float(row[5]) < 2e-6 for row in rows)


@pytest.mark.slow
def test_gradients_are_those_of_vmap(tmp_path: Path) -> None:
    ways = ["vitucb", "torch vmap(grad)"]
    run("bench_peer_gradients.py", "--quick", "--out", str(tmp_path), "--rows", *ways)
    _, *rows = table(tmp_path / "peers-gradients.csv")
    assert [row[1] for row in rows] == ways
    assert all(float(row[2]) < 1e-5 for row in rows)


@pytest.mark.slow
def test_optimizers_of_peft_walk_as_ours(tmp_path: Path) -> None:
    names = ["lora-plus", "lora-plus, PEFT", "scaled-adam", "scaled-adam, PEFT"]
    run("bench_peer_optimizers.py", "--quick", "--out", str(tmp_path), "--rows", *names)
    _, *rows = table(tmp_path / "peers-optimizers.csv")
    assert [row[1] for row in rows] == names
    assert all(float(row[2]) < 1e-3 for row in rows)


@pytest.mark.slow
def test_widths_are_those_of_the_dense_system(tmp_path: Path) -> None:
    run("bench_peer_widths.py", "--quick", "--out", str(tmp_path), "--rows", "vitucb exact")
    _, *rows = table(tmp_path / "peers-widths.csv")
    assert all(float(row[2]) < 1e-5 for row in rows)


@pytest.mark.slow
def test_linear_bandits_of_ours_play(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs"), "--rows", "lin-ucb"]
    run("bench_peer_linear.py", "--quick", *options)
    _, row = table(tmp_path / "peers-linear.csv")
    assert row[0] == "lin-ucb"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("pytorch_optimizer") is None, reason="an optional peer is missing"
)
def test_port_of_lora_rite_is_ours_but_for_eps_squared_under_the_root() -> None:
    script = importlib.import_module("bench_peer_optimizers")
    torch = importlib.import_module("torch")

    def without_it(model: Any) -> Any:
        optimizer = script.pytorch_optimizer_rite(model)
        optimizer.param_groups[0]["eps_root"] = 0.0
        return optimizer

    ours = script.ROWS["lora-rite, compat official"]
    before, reference = script.played(ours, "vitucb-nano", torch.float64)
    _, port = script.played(script.Row(without_it, ""), "vitucb-nano", torch.float64)
    assert script.difference([port, reference], before) < 1e-9
