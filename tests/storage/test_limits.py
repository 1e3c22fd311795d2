from __future__ import annotations

import dataclasses

import pytest

from vitucb.storage.limits import Limits, check_limit, check_observation, limit, limits


def test_every_limit_can_be_changed_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits()
    for field in dataclasses.fields(Limits):
        monkeypatch.setenv(f"VITUCB_LIMIT_{field.name.upper()}", "7")
        assert limit(field.name) == 7
    assert set(dataclasses.asdict(limits()).values()) == {7}


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_what_is_no_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITUCB_LIMIT_ARMS", text)
    with pytest.raises(ValueError, match=r"VITUCB_LIMIT_ARMS .* is no limit"):
        limit("arms")


def test_a_refusal_names_value_limit_and_variable() -> None:
    check_limit("arms", 10_000, "agent.json: num_arms")
    with pytest.raises(
        ValueError,
        match=r"agent\.json: num_arms 10,001 is above the limit of 10,000; .*VITUCB_LIMIT_ARMS",
    ):
        check_limit("arms", 10_001, "agent.json: num_arms")
    with pytest.raises(ValueError, match=r"num_arms \(a huge number\) is above"):
        check_limit("arms", 10**400, "num_arms")


def test_an_observation_is_limited_in_images_and_in_bytes() -> None:
    check_observation(1_000, 224 * 224 * 3, "images")
    with pytest.raises(ValueError, match="images: its images, 10,001 is above"):
        check_observation(10_001, 1, "images")
    with pytest.raises(ValueError, match="images: the size of its images in MiB, 1,000 is above"):
        check_observation(1_000, 1 << 20, "images")
