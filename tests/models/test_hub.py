"""A hub that does not answer is asked once, and then for nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from vitucb.models.backbone import create_backbone
from vitucb.models.hub import asked_if_it_answers


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The hub is a port of this machine where nobody listens, and its cache is empty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return address


def test_it_is_not_asked_again_while_the_context_lasts(closed_port: str) -> None:
    with asked_if_it_answers() as unreachable:
        assert unreachable == closed_port
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:nobody/nothing"])
def test_a_name_of_the_hub_is_refused_without_retries(
    name: str, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"does not answer|out of reach") as caught:
        create_backbone(name)
    assert "--agent.weights" in str(caught.value)
    assert "etrying" not in caplog.text
