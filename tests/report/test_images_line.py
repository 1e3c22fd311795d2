"""The line on how often images came again, below the regret table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vitucb.report.analysis import analyse
from vitucb.report.groups import group_runs
from vitucb.report.page_tables import images_line
from vitucb.report.runs import load_runs
from vitucb.report.write import write_report


def add_counts(run: Path, distinct: object, offers: object) -> None:
    path = run / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary |= {"distinct_images": distinct, "offers_per_image": offers}
    path.write_text(json.dumps(summary), encoding="utf-8")


def line(folder: Path, *, include_unfinished: bool = False) -> str:
    (group,) = group_runs(load_runs(folder), include_unfinished=include_unfinished)
    return images_line(analyse(group))


def test_the_line_is_a_mean_over_the_runs_that_know(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    folder = tmp_path / "exp"
    runs = [write_run(folder, "vit-ucb", seed, rounds=25) for seed in range(3)]
    assert line(folder) == ""
    add_counts(runs[0], 1_797, 5.5)
    add_counts(runs[1], 1_797, 5.7)
    text = "Images: 1,797 distinct, each offered 5.6 times on average."
    assert line(folder) == text
    assert text in write_report(folder, tmp_path / "out").read_text(encoding="utf-8")


def test_runs_cut_to_a_common_horizon_have_none(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    folder = tmp_path / "exp"
    add_counts(write_run(folder, "vit-ucb", 0, rounds=30), 100, 3.0)
    write_run(folder, "random", 0, rounds=12, num_rounds=30, finished=False)
    assert line(folder, include_unfinished=True) == ""


def test_a_count_that_is_no_number_is_refused(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    add_counts(write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25), "many", 5.5)
    with pytest.raises(ValueError, match="distinct_images 'many' is not a number"):
        load_runs(tmp_path / "exp")
