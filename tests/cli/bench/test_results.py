from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch import Tensor

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.command import SUITES, bench, suites
from vitucb.cli.bench.contestant import Contestant, keep_asleep, model_settings
from vitucb.cli.bench.end_to_end import PLAYED_BEFORE
from vitucb.cli.bench.figures import draw_figures
from vitucb.cli.bench.results import Row, Tables, compare_tables, read_tables, write_tables
from vitucb.cli.bench.scale import point
from vitucb.cli.output import UsageError


def test_tables_come_back_and_are_compared_row_by_row(tmp_path: Path) -> None:
    old: Tables = {
        "scale": [{"quantity": "arms", "value": 10, "ms": 2.0}, {"quantity": "rank", "ms": 1.0}]
    }
    new: Tables = {
        "scale": [{"quantity": "arms", "value": 10, "ms": 1.0}, {"quantity": "new", "ms": 1.0}]
    }
    for name, tables in (("old", old), ("new", new)):
        write_tables(tmp_path / f"{name}.json", tables, {"python": "3"})
    read = [read_tables(tmp_path / f"{name}.json") for name in ("old", "new")]
    assert read == [old, new]
    rows = compare_tables(*read)
    assert [(row["of"], row["old"], row["new"], row["new / old"]) for row in rows] == [
        ("arms, 10", 2.0, 1.0, 0.5)
    ]


def test_a_step_of_fewer_operations_is_compared_with_what_it_was() -> None:
    old: Tables = {"optimizers": [{"optimizer": "lora-rite", "ms": 2.0, "operations": 90}]}
    new: Tables = {"optimizers": [{"optimizer": "lora-rite", "ms": 1.0, "operations": 60}]}
    (row,) = compare_tables(old, new)
    assert (row["of"], row["new / old"]) == ("lora-rite", 0.5)


@pytest.mark.parametrize("text", ["[]", '{"suites": []}', '{"suites": {"scale": [3]}}', "{"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"bench file .*x.json cannot be read"):
        read_tables(tmp_path / "x.json")


def test_a_time_of_nothing_has_no_ratio_and_no_common_time_is_refused() -> None:
    old: Tables = {"scale": [{"quantity": "arms", "ms": 0.0}]}
    (row,) = compare_tables(old, old)
    assert math.isnan(float(row["new / old"]))
    with pytest.raises(ValueError, match="hold no time of the same thing"):
        compare_tables(old, {"scoring": [{"quantity": "arms", "ms": 1.0}]})


def test_a_comparison_takes_no_other_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--compare measures nothing; leave out"):
        bench(["--compare", "a.json", "b.json", "--out", str(tmp_path / "c.json")])


def test_time_of_a_round_is_split_among_its_phases(tmp_path: Path) -> None:
    contestant = Contestant(
        "vit-ucb",
        {"experts": ["adapted"], "lora": {"rank": 1}},
        model_settings("vitucb-nano", None, tmp_path),
    )
    for _ in range(2):
        contestant.play()
    contestant.measure_network(rounds=1)
    spent = contestant.phases.seconds
    assert spent.keys() == {"scoring", "covariance", "training", "rebuild"}
    assert 0 < sum(spent.values()) < sum(contestant.seconds)
    assert contestant.network > 0
    contestant.forget_times()
    assert not contestant.seconds
    assert not contestant.phases.seconds


def test_scoring_arms_by_the_covariance_is_time_of_the_covariance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"experts": ["adapted"], "lora": {"rank": 1}}
    contestant = Contestant("vit-ucb", settings, model_settings("vitucb-nano", None, tmp_path))
    assert isinstance(contestant.agent, ViTUCB)
    covariance = contestant.agent.covariance
    score, phases = covariance._checked_score, list[str | None]()

    def scored(*rows: Tensor) -> object:
        phases.append(contestant.phases.phase)
        return score(*rows)

    monkeypatch.setattr(covariance, "_checked_score", scored)
    contestant.skip(3)
    assert "covariance" in phases
    assert set(phases) <= {"covariance", "rebuild"}


def test_an_expert_that_is_kept_asleep_does_not_wake(tmp_path: Path) -> None:
    awake, asleep = (
        Contestant(
            "vit-ucb",
            {"experts": ["linear", "adapted"]},
            model_settings("vitucb-nano", None, tmp_path),
            has_labels=True,
        )
        for _ in range(2)
    )
    keep_asleep(asleep.agent, "adapted")
    for contestant, expected in ((awake, frozenset()), (asleep, {"adapted"})):
        contestant.skip(PLAYED_BEFORE["vit-ucb, labels, adapted awake"])
        assert isinstance(contestant.agent, ExpertAgent)
        assert contestant.agent.weights.asleep == expected


def test_an_expert_that_is_kept_asleep_for_two_rewards_wakes_with_the_second(
    tmp_path: Path,
) -> None:
    contestant = Contestant(
        "vit-ucb",
        {"experts": ["linear", "adapted"]},
        model_settings("vitucb-nano", None, tmp_path),
        has_labels=True,
        num_images=60,
    )
    agent = contestant.agent
    assert isinstance(agent, ExpertAgent)
    contestant.skip(3)
    keep_asleep(agent, "adapted", rewards=2)
    contestant.skip(1)
    assert agent.weights.asleep == {"adapted"}
    contestant.skip(1)
    assert not agent.weights.asleep


def test_a_point_of_the_scale_has_its_size() -> None:
    small, large = (point("features", p, repeats=1) for p in (2_000, 20_000))
    assert float(large["MiB"]) > float(small["MiB"]) > 0


def test_every_suite_has_a_figure(tmp_path: Path) -> None:
    rows: dict[str, Row] = {
        "scoring": {"model": "m", "what": "forward", "x bare forward": 1.0},
        "optimizers": {"pairs": "p", "optimizer": "adamw", "x fused AdamW": 2.0},
        "covariance": {
            "features": "f",
            "covariance": "exact",
            "rounds": 1000,
            "score and update, ms": 0.5,
        },
        "end-to-end": {"model": "m", "agent": "vit-ucb", "x bare forward": 3.0},
        "scale": {"quantity": "arms", "value": 10, "x first": 1.0},
    }
    files = draw_figures({suite: [row, row] for suite, row in rows.items()}, tmp_path / "b.json")
    assert set(rows) == set(SUITES)
    assert [file.name for file in files] == [f"b-{suite}.png" for suite in rows]
    assert all(file.stat().st_size > 2_000 for file in files)


def test_suites_are_named_one_by_one_in_a_list_or_all() -> None:
    assert suites("scale") == ("scale",)
    assert suites("scoring, covariance,scoring") == ("scoring", "covariance")
    assert suites("all") == SUITES


@pytest.mark.parametrize("names", ["speed", "scoring,speed", "scoring,"])
def test_an_unknown_suite_is_named_before_anything_is_measured(names: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown suite '(speed)?';.* known: all, cov.*, scoring$"
    ):
        suites(names)


def test_a_file_that_tables_cannot_go_to_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ValueError, match=r"--out 'bench.csv' must be a .json file"):
        bench(["--out", "bench.csv"])


def test_tables_are_kept_after_every_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> None:
        raise KeyboardInterrupt

    rows = [{"quantity": "arms", "value": 10.0, "ms": 2.0}]
    monkeypatch.setattr("vitucb.cli.bench.scale.run_suite", lambda device: rows)
    monkeypatch.setattr("vitucb.cli.bench.scoring.run_suite", fail)
    out = tmp_path / "new" / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        bench(["--suite", "scale,scoring", "--out", str(out)])
    assert read_tables(out) == {"scale": rows}
