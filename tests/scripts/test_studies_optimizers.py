"""The studies of optimizers run in their short versions, and their statistics are right."""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vitucb.config import load_config
from vitucb.envs import load_dataset
from vitucb.models.lora import lora_pairs
from vitucb.optim import ENTRIES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, study: Callable[[str], ModuleType], tmp_path: Path
) -> Callable[..., None]:
    folders = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]

    def main(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, "--quick", *folders, *arguments])
        study(script).main()

    return main


@pytest.mark.slow
def test_regret_by_optimizer_ends_in_tables_and_a_figure(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run("study_optimizers", "--only", "adamw", "lora-rite", "dora", "--workers", "1")
    _, *rows = table(tmp_path / "optimizers_by_law.csv")
    assert [row[1] for row in rows] == ["adamw", "lora-rite", "dora", "no training"]
    (config,) = tmp_path.glob("runs/**/dora__*/config.yaml")
    assert load_config(config).agent.lora.use_dora
    rates = [f"{ENTRIES[name].lr:g}" for name in ("adamw", "lora-rite", "adamw")]
    assert [row[2] for row in rows] == [*rates, "-"]
    assert all(0 < float(row[3]) <= 30 for row in rows)
    # 30 rounds are too few for a step of training.
    assert {row[1] for row in table(tmp_path / "optimizers.csv")[1:]} == {"2.50"}
    assert (tmp_path / "optimizers.png").stat().st_size > 5_000


@pytest.mark.slow
def test_rates_are_looked_for_on_both_sides_and_scores_kept(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_dataset("digits")
    images = np.stack([digits.images[i] for i in range(330)])
    assert digits.labels is not None
    for name in ("mnist", "fashion_mnist"):
        np.savez(tmp_path / f"{name}_train10k.npz", images=images, labels=digits.labels[:330])
    arguments = ("--data", str(tmp_path), "--only", "adamw")
    run("study_rates", *arguments)
    _, *rows = table(tmp_path / "rates.csv")
    assert [row[:2] for row in rows] == [["adamw", x] for x in ("0.0006", "0.002", "0.006")]
    assert capsys.readouterr().out.count(": squared error ") == 8  # 3 rates and softmax, 2 sets
    run("study_rates", *arguments)
    assert ": squared error " not in capsys.readouterr().out
    assert table(tmp_path / "rates.csv")[1:] == rows


@pytest.mark.slow
def test_factor_norms(run: Callable[..., None], tmp_path: Path) -> None:
    run("study_factor_norms", "--only", "adamw", "lora-rite, free")
    _, *rows = table(tmp_path / "factor_norms.csv")
    moved = {row[0]: float(row[4]) for row in rows}
    assert 0.1 < moved["adamw"] < moved["lora-rite, free"]
    shares = {row[0]: float(row[1]) for row in table(tmp_path / "factor_norms_bonus.csv")[1:]}
    assert max(shares["adamw"], shares["lora-rite"]) < 0.5 < 0.95 < shares["lora-rite, free"]
    assert (tmp_path / "factor_norms.png").stat().st_size > 10_000


def test_a_walk_ends_at_a_rate_better_than_both_its_neighbours(
    study: Callable[[str], ModuleType],
) -> None:
    rates = study("study_rates")
    found = rates.walk(2e-3, lambda lr: abs(np.log10(lr / 0.06)))
    assert list(found) == [6e-4, 2e-3, 6e-3, 2e-2, 6e-2, 0.2]
    assert min(found, key=found.__getitem__) == 0.06


def test_a_walk_without_an_end_is_given_up(study: Callable[[str], ModuleType]) -> None:
    rates = study("study_rates")
    assert len(rates.walk(2e-3, lambda lr: -lr)) == 1 + rates.MOST_STEPS


def test_ranks_changes_and_tests_are_those_of_the_pairs(
    study: Callable[[str], ModuleType],
) -> None:
    # lora-plus always a fifth better than adamw, lora-pro always a fifth worse: 2 laws, 6 seeds.
    base = np.linspace(20, 60, 12).reshape(2, 6)
    ends = {
        law: {"adamw": values, "lora-plus": 0.8 * values, "lora-pro": 1.25 * values}
        for law, values in zip("ab", base, strict=True)
    }
    _, *rows = study("study_optimizers").table_of_ranks(ends)
    p = f"{2 * 2.0**-11:.2g}"  # the least possible of 12 pairs, times the two comparisons
    assert rows == [
        ["lora-plus", "1.00", "[1.00, 1.00]", "-20 [-20, -20]", "12 : 0", p],
        ["adamw", "2.00", "[2.00, 2.00]", "-", "-", "-"],
        ["lora-pro", "3.00", "[3.00, 3.00]", "+25 [+25, +25]", "0 : 12", p],
    ]


def test_regrets_are_paired_with_those_of_adamw(study: Callable[[str], ModuleType]) -> None:
    ends = {"a": {"adamw": np.array([10.0, 20.0]), "sgd": np.array([11.0, 23.0])}}
    _, first, second = study("study_optimizers").table_by_law(ends)
    assert first[3:] == ["15.0", "[-48.5, 78.5]", "-", "-", "10 20"]
    assert second[3:] == ["17.0", "[-59.2, 93.2]", "+2.0", "[-10.7, 14.7]", "11 23"]


class Valley:
    """Scores whose best rate is known."""

    def __init__(self, best: float) -> None:
        self.best, self.asked = best, list[float]()

    def relative(self, data: str, seed: int, name: str, lr: float) -> float:
        self.asked.append(lr)
        return float(1 + np.log10(lr / self.best) ** 2)


def test_rates_of_other_ranks_start_from_the_best_of_the_first_and_its_loss_is_told(
    study: Callable[[str], ModuleType],
) -> None:
    transfer = study("study_rate_transfer")
    scores = {"r=8": Valley(2e-4), "r=2": Valley(2e-4), "r=16": Valley(2e-5)}
    found = transfer.walks("adamw", scores, range(100, 101))
    assert scores["r=2"].asked == [2e-4, 6e-5, 6e-4]
    assert transfer.summary("adamw", found) == [
        "adamw", "0.0002", "0.0002", "2e-05", "0.0", "100.0",
    ]  # fmt: skip
    marked = [row for row in transfer.rows_of("adamw", found) if row[-1]]
    assert [row[1:3] for row in marked] == [["r=8", "0.0002"], ["r=2", "0.0002"], ["r=16", "2e-05"]]


def test_ranks_keep_their_scale_and_a_wider_backbone_comes_last(
    study: Callable[[str], ModuleType],
) -> None:
    rates, transfer = study("study_rates"), study("study_rate_transfer")
    asked = argparse.Namespace(
        ranks=[2], backbone=rates.DEFAULT.backbone, wider="vit_tiny.a", weights="w", img_size=28
    )
    networks = transfer.networks(asked)
    assert list(networks) == ["r=8", "r=2", "vit_tiny 28 px"]
    assert networks["r=8"] == rates.DEFAULT
    expert = rates.adapted("sgd", 0.1, 0, 1, networks["r=2"])
    assert {(len(pair.A), pair.scaling) for pair in lora_pairs(expert.network.model)} == {(2, 2.0)}


def test_blocks_and_ranks_are_judged_by_mean_error_and_how_often_they_are_best(
    study: Callable[[str], ModuleType],
) -> None:
    adapters = study("study_adapters")
    rates = study("study_rates")
    networks = adapters.networks(rates.DEFAULT)
    assert (networks["last half"].blocks, networks["all, rank 2"].rank) == ("last-half", 2)
    assert networks["all, rank 4, 0.25 left out"].patch_drop_rate == 0.25
    expert = rates.adapted("sgd", 0.1, 0, 1, networks["all, 0.25 left out"])
    assert expert.network.draw_views(2, np.random.default_rng(0)).kept.shape == (2, 12)
    labels = ["all", "last half"]
    known = {
        f"{data} {seed} {label}": [(1.0 + 0.1 * i) * (1 if label == "all" else 0.9), 10.0 + seed]
        for i, data in enumerate(adapters.SETS)
        for seed in (1, 2)
        for label in labels
    }
    _, *rows = adapters.table(known, labels, range(1, 3))
    assert rows == [
        ["all", "1.000", "1.100", "1.200", "1.100", "1.000", "0.000", "0 of 6", "11.5"],
        ["last half", "0.900", "0.990", "1.080", "0.990", "0.900", "0.000", "6 of 6", "11.5"],
    ]


def test_results_of_another_size_or_weights_are_not_taken_for_those_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    study: Callable[[str], ModuleType],
    run: Callable[..., None],
    tmp_path: Path,
) -> None:
    adapters = study("study_adapters")
    monkeypatch.setattr(adapters, "data_file", lambda data, name: data / name)
    monkeypatch.setattr(adapters, "play_log", lambda *_: None)
    monkeypatch.setattr(adapters, "measure", lambda network, *_: [float(network.img_size), 1.0])
    errors = []
    for size in ("28", "56"):
        run("study_adapters", "--only", "all", "--img-size", size, "--name", "adapters")
        errors.append(table(tmp_path / "adapters.csv")[1][1])
    assert errors == ["28.000", "56.000"]
    kinds = [
        study("study_rates").kind_of(study("study_rates").Network("vit.lvd142m", weights, 28))
        for weights in (None, "a/one.safetensors", "a/two.safetensors")
    ]
    assert kinds == ["-lvd142m-28px", "-lvd142m-28px-one", "-lvd142m-28px-two"]
