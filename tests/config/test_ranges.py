"""Values out of range are refused where a config is made, by name and with what is allowed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from vitucb.config import RunConfig, flatten, override, override_key, to_dict


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("agent.policy.alpha", -1, "-1.0 must be at least 0"),
        ("agent.policy.alpha", math.nan, "nan must be at least 0"),
        ("agent.policy.alpha", math.inf, "inf must be at least 0, and finite"),
        ("agent.policy.norm_bound", -1, "-1.0 must be at least 0"),
        ("agent.policy.delta", 1, r"1.0 must be in \(0, 1\)"),
        ("agent.policy.epsilon", 2, r"2.0 must be in \[0, 1\] unless decay is above 0"),
        ("agent.policy.temperature", 0, "0.0 must be above 0"),
        ("agent.policy.decay", -1, "-1.0 must be"),
        ("agent.policy.gamma", -1, "-1.0 must be"),
        ("agent.policy.growth", math.nan, "nan must be"),
        ("agent.policy.draws", 0, "0 must be at least 1"),
        ("agent.lora.rank", 0, "0 must be at least 1"),
        ("agent.lora.alpha", math.nan, "nan must be a finite number"),
        ("agent.lora.targets", [], "name one or more of qkv, proj, fc1, fc2"),
        (
            "agent.lora.init",
            "adalora",
            "'adalora' prunes ranks by a schedule over a number of steps",
        ),
        ("agent.lora.init_samples", 0, "0 must be at least 1"),
        ("agent.optimizer.lr", -1, "-1.0 must be at least 0"),
        ("agent.optimizer.head_lr", math.inf, "inf must be at least 0, and finite"),
        ("agent.covariance.ridge", 0, "0.0 must be above 0"),
        ("agent.covariance.rank", 0, "0 must be at least 1"),
        ("agent.covariance.budget_mib", 0, "0 must be at least 1"),
        ("agent.training.discount", 0, r"0.0 must be in \(0, 1\]"),
        ("agent.training.drift_threshold", 0, "0.0 must be above 0"),
        ("agent.head_ridge", -1, "-1.0 must be above 0"),
        ("agent.prefix_cache_mib", -1, "-1 must be at least 0"),
        ("agent.img_size", 0, "0 must be at least 1"),
        ("agent.img_size", 33, "33 is not a multiple of 8, .* vitucb-nano-2; choose 32 or 40"),
        ("agent.img_size", 7, "7 is not a multiple of 8, .* vitucb-nano-2; choose 8"),
        ("agent.experts", [], "none: name at least one, each once"),
        ("agent.experts", ["linear", "linear"], "linear, linear: name at least one, each once"),
        ("env.num_arms", 0, "0 must be at least 1"),
        ("env.noise_std", -1, "-1.0 must be at least 0"),
        ("env.data.image_size", 0, "0 must be at least 1"),
        ("env.delay.rounds", -1, r"-1 must be in \[0, 1e\+09\]"),
        ("env.delay.loss_probability", 1.5, r"1.5 must be in \[0, 1\]"),
        ("env.delay.tail", 1, r"1.0 must be in \(1, 1e\+06\]"),
        ("env.delay.tail", 1e308, r"1e\+308 must be in \(1, 1e\+06\]"),
        ("env.delay.rounds", 10**20, r"10{20} must be in \[0, 1e\+09\]"),
        ("agent.policy.growth", 1e308, r"1e\+308 must be in \[0, 10\]"),
        ("agent.policy.decay", 11, r"11.0 must be in \[0, 10\]"),
        ("threads", 100_000, r"100000 must be in \[1, 10000\]"),
        ("env.drift.at", -1, "-1 must be at least 0"),
        ("env.drift.period", 0, "0 must be at least 1"),
        ("env.arm_subset.min_arms", 0, "0 must be at least 1"),
        ("env.slate.slots", 0, "0 must be at least 1"),
        ("num_rounds", 0, "0 must be at least 1"),
        ("seed", -1, "-1 must be at least 0"),
        ("parallel.timeout_s", 0, "0.0 must be above 0"),
    ],
)
def test_value_out_of_range_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}:? {message}"):
        override_key(RunConfig(), key, value)


def test_img_size_is_held_against_the_patch_of_a_named_backbone_alone() -> None:
    big = {"backbone": "vit_small_patch14_dinov2.lvd142m", "img_size": 224}
    assert override(RunConfig(), {"agent": big}).agent.img_size == 224
    with pytest.raises(ValueError, match="225 is not a multiple of 14"):
        override(RunConfig(), {"agent": {**big, "img_size": 225}})
    named = {"backbone": "local-dir:my_patch16_model", "img_size": 33}
    assert override(RunConfig(), {"agent": named}).agent.img_size == 33


NUMBERS = [
    key
    for key, value in flatten(to_dict(RunConfig())).items()
    if isinstance(value, float) and not isinstance(value, bool)
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_infinite_or_none_at_all(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        override_key(RunConfig(), key, value)


def test_every_section_checks_itself() -> None:
    def sections(config: Any) -> list[type]:
        found = [type(config)]
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                found += sections(value)
        return found

    assert [kind for kind in sections(RunConfig()) if "__post_init__" not in vars(kind)] == []
