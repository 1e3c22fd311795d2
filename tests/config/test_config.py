"""A config file overrides the defaults partially, and says what is wrong with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vitucb.config import (
    EnvConfig,
    OptimizerConfig,
    RunConfig,
    differences,
    flatten,
    load_config,
    override,
    override_key,
    save_config,
    to_dict,
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "exp.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "agent:\n  optimizer:\n    lr: 1e-4\nseed: 3\n"))
    assert config.agent.optimizer.lr == pytest.approx(1e-4)
    assert config.seed == 3
    assert config.agent.lora == RunConfig().agent.lora


def test_section_may_be_its_name_alone() -> None:
    config = override(RunConfig(), {"agent": {"optimizer": "lora-plus"}})
    assert config.agent.optimizer.name == "lora-plus"
    assert config.agent.optimizer.lr == RunConfig().agent.optimizer.lr


def test_saved_config_loads_to_the_same(tmp_path: Path) -> None:
    config = override(
        RunConfig(),
        {"agent": {"lora": {"blocks": [0, -1]}, "optimizer": {"options": {"ratio": 4}}}},
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_every_default_survives_yaml() -> None:
    plain = to_dict(RunConfig())
    assert override(RunConfig(), yaml.safe_load(yaml.safe_dump(plain))) == RunConfig()


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "agent: {optimizer: {options: {betas: [0.9, null]}}}",
            r"options.betas\[1\]: expected int",
        ),
        ("env: {options: {a: {b: {c: 1}}}}", "env.options.a.b: expected int or float or bool or"),
        ("agent: {options: {a: null}}", "agent.options.a: expected int or float or bool or str or"),
        ("agnet: {}", "unknown config key 'agnet'; did you mean 'agent'"),
        ("agent: {optimizer: {lrr: 1}}", "'agent.optimizer.lrr'; did you mean 'lr'"),
        (
            "agent: {optimizer: {lr: fast}}",
            "agent.optimizer.lr: expected float or nothing, got 'fast'",
        ),
        ("seed: 1.5", "seed: expected int, got 1.5"),
        ("seed: true", "seed: expected int, got True"),
        ("tensorboard: 1", "tensorboard: expected bool, got 1"),
        ("agent: {features: pixels}", "agent.features: expected one of lora-gradient, last-layer"),
        ("agent: {lora: {blocks: [one]}}", r"agent.lora.blocks\[0\]: expected int, got 'one'"),
        (
            "agent: {alpha: 3}",
            r"'agent.alpha'; did you mean agent.lora.alpha, .* policy=\{'alpha': 3",
        ),
        ("discount: 0.9", r"written agent=\{'training': \{'discount': 0.9\}\}\?"),
        (
            "seed: 1\nout: x\nseed: 2",
            "key 'seed' stands twice in one section, in line 1 and in line 3",
        ),
        ("agent: {lora: {rank: 2, rank: 3}}", "key 'rank' stands twice in one section, in line 1;"),
        ("agent: {}\nenv: {}\nagent: {name: ucb1}", "key 'agent' stands twice"),
        ("agent: {options: {1: 2, 0x1: 3}}", "key '0x1' stands twice"),
        ("env: digits", "env: expected a section of settings"),
        ("- 1\n- 2", "expected key: value settings"),
        ("a: [1", "is not valid YAML"),
        ("agent:\n\tname: ucb1", "line 2, column 1; indent with spaces, not with tabs"),
        (
            "agent: {experts: adapted}",
            r"expected list or nothing, got 'adapted'; write a list: \[a",
        ),
        ("env: {data: {classes: cat}}", r"env.data.classes: expected list, got 'cat'; write a li"),
        ("env: {options: [a]}", r"env.options: expected mapping, got \['a'\]"),
        ("agent: {label: 3}", "agent.label: expected str or nothing, got 3; put it in quotes"),
        ("experiment: 2024-01-01", r"experiment: expected str, .*; put it in quotes"),
        ("agent: {label: 2024-01-01}", r"agent.label: expected str or nothing, .* in quotes"),
        ("agent: {lora: {rank: None}}", "expected int or nothing, got 'None'; write null"),
        ("num_rounds: '50'", "num_rounds: expected int, got '50'; write 50 without quotes"),
        ("num_rounds: 50.0", "num_rounds: expected int, got 50.0; write 50"),
        ("agent: {training: {update_every: 0}}", "agent.training.update_every 0 must be at least"),
        ("agent: {training: {gradient_steps: -1}}", "agent.training.gradient_steps -1 must be at"),
        ("agent: {training: {batch_size: 0}}", "agent.training.batch_size 0 must be at least 1"),
        ("threads: 0", r"threads 0 must be in \[1, 10000\]"),
    ],
)
def test_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_sections_merged_by_yaml_itself_may_be_overridden(tmp_path: Path) -> None:
    text = "agent:\n  policy: &base {name: ucb, alpha: 1.0}\n"
    assert load_config(written(tmp_path, text)).agent.policy.alpha == 1.0
    text = "agent:\n  policy:\n    <<: {name: ucb, alpha: 1.0}\n    alpha: 2.0\n"
    assert load_config(written(tmp_path, text)).agent.policy.alpha == 2.0


@pytest.mark.parametrize(
    "text", ["seed: 1.5", "agnet: {}", "threads: 0", "parallel: {seeds: 3}", "a: [1", "- 1"]
)
def test_a_mistake_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}"):
        load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]  # the point of the test


def test_numbers_of_numpy_and_paths_are_taken_and_saved(tmp_path: Path) -> None:
    values = {
        "seed": np.int64(3),
        "out": tmp_path / "runs",
        "agent": {"policy": {"alpha": np.float64(0.5)}, "options": {"hidden": np.int32(7)}},
    }
    config = override(RunConfig(), values)
    save_config(config, tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert (loaded.seed, loaded.agent.policy.alpha, loaded.out) == (3, 0.5, str(tmp_path / "runs"))
    assert loaded.agent.options == {"hidden": 7}


@pytest.mark.parametrize("word", ["false", "False", "FALSE"])
def test_truth_in_options_is_read_in_any_case(word: str) -> None:
    assert EnvConfig(options={"with_replacement": word}).options == {"with_replacement": False}


NESTED = {"betas": [0.9, 0.99], "inner_options": {"betas": [0.8, 0.9], "max_step": 0}}


def test_options_hold_lists_and_mappings(tmp_path: Path) -> None:
    config = override(RunConfig(), {"agent": {"optimizer": {"options": NESTED}}})
    save_config(config, tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert loaded == config
    assert loaded.agent.optimizer.options == NESTED
    assert differences(loaded, config) == {}
    other = override_key(config, "agent.optimizer.options.inner_options.max_step", 1)
    changed = {"agent.optimizer.options.inner_options.max_step": (0, 1)}
    assert differences(config, other) == changed


def test_tuples_in_options_are_lists_as_a_file_would_give_them() -> None:
    options = OptimizerConfig(options={"betas": (0.9, np.float64(0.99))}).options  # type: ignore[dict-item]  # as users do
    assert options == {"betas": [0.9, 0.99]}


def test_a_key_inside_options_leaves_the_others() -> None:
    config = override(RunConfig(), {"agent": {"optimizer": {"options": NESTED}}})
    config = override_key(config, "agent.optimizer.options.ratio", 8)
    config = override_key(config, "agent.optimizer.options.inner_options.max_step", 1)
    inner = NESTED["inner_options"]
    assert isinstance(inner, dict)
    expected = NESTED | {"ratio": 8, "inner_options": inner | {"max_step": 1}}
    assert config.agent.optimizer.options == expected
    config = override_key(config, "agent.optimizer.options", {"eps": 1})
    assert config.agent.optimizer.options == {"eps": 1}


def test_a_setting_that_is_no_more_loads_where_it_changed_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("parallel: {seeds: 1, sync_every: 3}\n")
    assert load_config(path).parallel.sync_every == 3
    path.write_text("parallel: {seeds: 8}\n")
    with pytest.raises(ValueError, match=r"parallel.seeds 8 is no more; play seeds in processes"):
        load_config(path)


@pytest.mark.parametrize(
    "experiment",
    ["../x", "../../x", "/x", "a/../../x", "C:\\x", "\\\\host\\x", "..\\x", "a\nb", "", " "],
)
def test_an_experiment_stays_in_the_folder_of_experiments(experiment: str) -> None:
    with pytest.raises(
        ValueError, match=r"leads out of the folder|control characters|is empty"
    ) as error:
        RunConfig(experiment=experiment)
    assert "\n" not in str(error.value)


def test_experiments_may_lie_in_each_other() -> None:
    assert RunConfig(experiment="sweep/lr=0.1").experiment == "sweep/lr=0.1"


def test_numbers_too_large_to_be_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text in (
        f"agent: {{policy: {{alpha: 1{'0' * 400}}}}}",
        f"agent: {{label: [{'x, ' * 5_000}x]}}",
        f"agent: {{options: {{{'k' * 900}: [[1]]}}}}",
        "agent: {lora: {rank: 100000}}",
        "env: {num_arms: 100000}",
        "agent: {img_size: 100000}",
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"agent|env") as error:
            load_config(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1_000


def test_a_value_that_is_no_more_loads_as_the_nearest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("agent: {training: {rebuild: replay}}\n")
    assert load_config(path).agent.training.rebuild == "doubling"
    assert "rebuild replay is no more, read as doubling" in caplog.text


@pytest.mark.parametrize(
    ("lora", "given"),
    [
        ({"rank": 4, "alpha": 8.0}, (None, None)),  # as older versions wrote what was not given
        ({"rank": 4, "alpha": 8.0, "use_dora": True}, (4, None)),
        ({"rank": 8, "alpha": 4.0}, (8, 4.0)),
    ],
    ids=str,
)
def test_ranks_of_older_runs_are_those_they_had(
    tmp_path: Path, lora: dict[str, Any], given: tuple[int | None, float | None]
) -> None:
    settings = to_dict(RunConfig())
    settings["agent"]["lora"] |= lora
    loaded = load_config(written(tmp_path, yaml.safe_dump(settings))).agent.lora
    assert (loaded.rank, loaded.alpha) == given


def test_a_rank_that_is_given_stays_given(tmp_path: Path) -> None:
    asked = override(RunConfig(), {"agent": {"lora": {"rank": 4, "alpha": 8.0}}})
    save_config(asked, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == asked
    assert asked.agent.lora.rank == 4
    few = load_config(written(tmp_path, "agent: {lora: {rank: 4, alpha: 8}}"))
    assert few.agent.lora.rank == 4


def test_scalars_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    """numpy 2 shows them as np.float64(0.3), which no reader takes for a number."""
    values: dict[str, Any] = {"agent": {"policy": {"alpha": np.float64(0.3)}}, "seed": np.int64(4)}
    config = override(RunConfig(), values)
    save_config(config, tmp_path / "config.yaml")
    assert "np" not in (tmp_path / "config.yaml").read_text().replace("nan", "")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'007'", "007"),
        ("'nan'", "nan"),
        ("['3', '8']", ["3", "8"]),
        ("1e-3", 0.001),
        ("7", 7),
        ("2.5", 2.5),
    ],
)
def test_a_text_option_that_looks_like_a_number_stays_text(
    written: str, read: object, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"env: {{options: {{a: {written}}}}}")
    found = load_config(file).env.options["a"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "values",
    [
        {"out": "runs\udcff"},
        {"agent": {"label": "caf\udce9"}},
        {"env": {"data": {"classes": ["a", "\udce9"]}}},
        {"agent": {"options": {"file": "\udce9"}}},
    ],
)
def test_text_that_no_config_file_can_hold_is_refused(values: dict[str, Any]) -> None:
    key = next(iter(flatten(values)))
    with pytest.raises(ValueError, match=rf"^{key} .* is no text in UTF-8.*give another name"):
        override(RunConfig(), values)


def test_text_of_all_planes_is_read_back(tmp_path: Path) -> None:
    config = override(RunConfig(), {"out": "Fotos/Äpfel 🍏", "agent": {"label": "ucb β"}})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
