from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.envs.logged import made_up_log
from vitucb.evaluation.evaluate import Evaluation, evaluate
from vitucb.evaluation.verdict import as_data, headline
from vitucb.report.evaluation_page import evaluation_page, out_files, write_evaluation
from vitucb.types import Observation


def brightest(obs: Observation) -> NDArray[np.float64]:
    chosen: NDArray[np.float64] = np.eye(4)[obs["images"].mean(axis=(1, 2, 3)).argmax()]
    return chosen


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    log = made_up_log(60)
    named = dataclasses.replace(log, name="<b>log</b>")
    return evaluate(named, brightest, num_resamples=50)


def test_the_page_says_what_the_numbers_say(evaluation: Evaluation) -> None:
    page = evaluation_page(evaluation, "vitucb evaluate log.csv")
    read = evaluation.advised
    assert f"brightest would have earned {read.value:.4g} a round" in page
    assert f"Read <b>{evaluation.advice.estimator}</b>" in page
    assert page.count("<tr>") == 1 + 4 + 1 + 7
    assert '<svg role="img"' in page
    assert "vitucb evaluate log.csv" in page
    assert "<b>log</b>" not in page
    assert "&lt;b&gt;log&lt;/b&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_both_files_or_the_one_that_is_named(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = write_evaluation(evaluation, folder)
    assert [path.name for path in paths] == ["evaluation.json", "evaluation.html"]
    one = write_evaluation(evaluation, tmp_path / "result.json")
    assert one == [tmp_path / "result.json"]
    data = json.loads(one[0].read_text())
    assert data == as_data(evaluation)
    assert data["gain"]["low"] <= data["gain"]["value"] <= data["gain"]["high"]
    assert data["references"][0]["policy"] == "uniform"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "new", tmp_path / "result.json"]


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out '.*file/x' cannot be written: .*; name another"):
        out_files(tmp_path / "file" / "x")
    (tmp_path / "dir.html").mkdir()
    with pytest.raises(ValueError, match="there is a folder of that name"):
        out_files(tmp_path / "dir.html")


def test_the_headline_decides_by_the_interval(evaluation: Evaluation) -> None:
    read = evaluation.advised

    def with_interval(low: float, high: float, gain: float = 0.1) -> Evaluation:
        new = dataclasses.replace(read, gain=gain, gain_low=low, gain_high=high)
        rest = [e for e in evaluation.estimates if e is not read]
        return dataclasses.replace(evaluation, estimates=(new, *rest))

    assert headline(with_interval(0.05, 0.2)).endswith("It is better than the log.")
    assert headline(with_interval(-0.2, -0.05)).endswith("It is worse than the log.")
    assert headline(with_interval(-0.1, 0.2)).endswith("does not tell it apart from the log.")
    guess = dataclasses.replace(evaluation.advice, is_covered=False)
    uncovered = dataclasses.replace(with_interval(0.05, 0.2), advice=guess)
    assert headline(uncovered).endswith("the log does not cover what it does.")
    unknown = with_interval(math.nan, math.nan, math.nan)
    assert "the log says nothing about it" in headline(unknown)
    assert as_data(unknown)["gain"] == {"value": None, "low": None, "high": None}
    assert "–" in evaluation_page(unknown)
