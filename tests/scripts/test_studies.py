"""The studies run, in their short versions, and write their tables and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scripts.studies import folders, run, table


@pytest.mark.slow
def test_invariance(tmp_path: Path) -> None:
    run("study_invariance.py", "--quick", "--out", str(tmp_path))
    _, *rows = table(tmp_path / "invariance.csv")
    far = {name: max(float(cell) for cell in cells) for name, _, *cells in rows}
    assert far["lora-rite"] < 1e-10 < 0.01 < far["adamw"]
    assert (tmp_path / "invariance.png").stat().st_size > 10_000


@pytest.mark.slow
def test_estimators(tmp_path: Path) -> None:
    asked = ["--only", "gd", "mvr", "federated", "--full-limit", "32"]
    run("study_estimators.py", "--quick", *asked, *folders(tmp_path))
    _, *rows = table(tmp_path / "estimators.csv")
    cells = {label: rest for label, *rest in rows}
    assert float(cells["gd"][4]) > 0
    assert float(cells["mvr"][4]) > 0
    assert cells["federated"][4] == ""
    assert all(0 < float(rest[1]) < 90 for rest in cells.values())
    assert all(float(rest[3]) > 5 for rest in cells.values())


@pytest.mark.slow
def test_published_laws(tmp_path: Path) -> None:
    agents = ["--agents", "lin-ucb", "random", "--workers", "1"]
    run("study_bandits.py", "digits-normal", "--quick", *agents, *folders(tmp_path))
    _, *rows = table(tmp_path / "digits-normal.csv")
    regret = {name: float(cells[2]) for name, *cells in rows}
    assert regret["lin-ucb"] < regret["random"] == pytest.approx(147, abs=1)
    assert (tmp_path / "digits-normal.png").stat().st_size > 10_000


@pytest.mark.slow
def test_thirds_by_rating_and_the_agents_of_earlier_calls(tmp_path: Path) -> None:
    ratings = np.random.default_rng(0).permutation(30).astype(np.float32)
    images = np.repeat(ratings.astype(np.uint8), 64).reshape(30, 8, 8)
    names = np.array(["aro_mean_us", "val_mean_us"])
    scores = np.stack([np.zeros_like(ratings), ratings], axis=1)
    rated = tmp_path / "bass_affect_safe_128px.npz"
    np.savez(rated, images=images, scores=scores, score_names=names)
    options = ["--quick", "--data", str(tmp_path), "--workers", "1", *folders(tmp_path)]
    run("study_bandits.py", "rated-2", "--agents", "random", *options)
    run("study_bandits.py", "rated-2", "--agents", "ucb1", *options)
    _, *rows = table(tmp_path / "rated-2.csv")
    assert [row[0] for row in rows] == ["ucb1", "random"]
    with np.load(tmp_path / "runs" / "rated-2.npz") as file:
        thirds = file["images"][:, 0, 0] // 10
        assert file["labels"].tolist() == thirds.tolist()
        assert file["scores"] == pytest.approx(np.array([5.5, 6.5, 7.4])[thirds])
