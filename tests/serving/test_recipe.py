"""The service of docs/serving.md, as it stands there."""

from __future__ import annotations

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitucb.envs.data.log_files import read_log
from vitucb.evaluation.evaluate import evaluate

pytest.importorskip("fastapi", reason="needs the extra serve")
testclient = pytest.importorskip("fastapi.testclient", reason="needs httpx")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
NAMES = [f"{index}.png" for index in range(6)]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "images").mkdir()
    for index, name in enumerate(NAMES):
        pixels = np.full((40, 40, 3), 40 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    monkeypatch.setenv("SERVICE_FOLDER", str(tmp_path))
    block = re.search(r"```python\n(# service.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    module = ModuleType("service_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block[1], str(PAGE), "exec"), vars(module))
    return module


def play(client: Any, offered: list[str]) -> dict[str, Any]:
    """One decision and its reward: 1 if the picture is a bright one."""
    decided: dict[str, Any] = client.post("/decisions", json={"images": offered}).json()
    reward = float(decided["image"] in NAMES[3:])
    answer = {"decision_id": decided["decision_id"], "reward": reward}
    assert client.post("/rewards", json=answer).json()["outcome"] == "learnt"
    return decided


def test_it_decides_learns_and_logs_from_many_threads(service: Any) -> None:
    offers = [NAMES[i % 3 : i % 3 + 2 + i % 3] for i in range(40)]
    with testclient.TestClient(service.app) as client:
        with ThreadPoolExecutor(8) as pool:
            decided = list(pool.map(lambda offered: play(client, offered), offers))
        counters = client.get("/counters").json()
        health = client.get("/health").json()
    assert [each["image"] in offer for each, offer in zip(decided, offers, strict=True)] == [
        True
    ] * 40
    assert counters["decided"] == counters["learnt"] == 40
    assert health["status"] == "ok"
    assert "decided 40, learnt 40, waiting 0" in health["agent"]
    log = read_log(service.LOG)
    assert len(log) == 40
    assert sorted(set(log.mask.sum(axis=1).tolist())) == [2, 3, 4]
    result = evaluate(service.LOG, service.AGENT, num_resamples=50)
    assert result.facts["rounds"] == 40
    assert result.facts["propensities"] == "logged"


def test_it_goes_on_after_a_restart_with_decisions_that_waited(service: Any) -> None:
    with testclient.TestClient(service.app) as client:
        first = client.post("/decisions", json={"images": NAMES[:3]}).json()
        play(client, NAMES[3:])
    with testclient.TestClient(service.app) as client:
        answer = {"decision_id": first["decision_id"], "reward": 1}
        assert client.post("/rewards", json=answer).json() == {"outcome": "learnt", "reason": ""}
        assert client.post("/rewards", json=answer).json()["outcome"] == "answered"
        assert client.get("/counters").json()["learnt"] == 2
    assert read_log(service.LOG).rewards.tolist() == [1, 1]


def test_what_it_cannot_use_is_refused(service: Any) -> None:
    with testclient.TestClient(service.app) as client:
        waiting = client.post("/decisions", json={"images": NAMES[:2]}).json()["decision_id"]
        refused = [
            client.post("/decisions", json={"images": ["../decisions.jsonl"]}),
            client.post("/decisions", json={"images": ["gone.png"]}),
            client.post("/decisions", json={"images": []}),
            client.post("/rewards", json={"decision_id": "x", "reward": 1}),
            client.post("/rewards", json={"decision_id": waiting, "reward": 2}),
            client.post("/rewards", json={"decision_id": waiting, "reward": "much"}),
        ]
    assert [answer.status_code for answer in refused] == [404, 404, 422, 404, 422, 422]
    assert "not in [0, 1]" in refused[4].json()["detail"]
    written = [json.loads(line) for line in service.LOG.read_text().splitlines()]
    assert [line["decision_id"] for line in written] == [waiting, "x"]


def test_rewards_of_decisions_that_a_crash_made_unknown_are_for_the_log(service: Any) -> None:
    with testclient.TestClient(service.app) as client:
        play(client, NAMES[:2])
    shutil.copytree(service.AGENT, service.FOLDER / "saved")
    with testclient.TestClient(service.app) as client:
        lost = client.post("/decisions", json={"images": NAMES[:3]}).json()["decision_id"]
    shutil.rmtree(service.AGENT)
    (service.FOLDER / "saved").rename(service.AGENT)  # as if it had not been saved since
    with testclient.TestClient(service.app) as client:
        answer = client.post("/rewards", json={"decision_id": lost, "reward": 1})
    assert answer.status_code == 404
    assert read_log(service.LOG).rewards.tolist() == [0, 1]


def test_names_that_no_file_can_have_are_not_found(service: Any) -> None:
    with testclient.TestClient(service.app) as client:
        for name in ("a\0.png", "n" * 300, "."):
            assert client.post("/decisions", json={"images": [name]}).status_code == 404
