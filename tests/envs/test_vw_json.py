from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitucb.envs.data.log_files import read_log
from vitucb.envs.logged import LoggedEnv

# Lines as Vowpal Wabbit's documentation and tests have them.
ANNA = (
    '{"_label_cost":-1.0,"_label_probability":0.5,"_label_Action":2,"_labelIndex":1,'
    '"o":[{"v":1.0,"EventId":"38c","ActionTaken":false}],"Timestamp":"2020-11-15T17:09:31.83Z",'
    '"Version":"1","EventId":"38c","a":[2,1],"c":{"GUser":{"id":"Anna","hour":9,"_age":40},'
    '"_multi":[{"_tag":"ski","TAction":{"topic":"SkiConditions-VT"}},{"_tag":"herb","TAction":'
    '{"topic":"HerbGarden"}}]},"p":[0.5,0.5],"VWState":{"m":"N/A"}}'
)
TOM = (
    ANNA.replace('"Anna"', '"Tom"').replace("-1.0", "-0.0").replace("0.5,", "0.05000000074505806,")
)


def write(folder: Path, *lines: str | dict[str, Any], name: str = "log.dsjson") -> Path:
    path = folder / name
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def plain(position: int = 0, cost: float = 1.0, arms: int = 3, **more: object) -> dict[str, Any]:
    """A line of `--json`, whose features are at the top."""
    label = {"_label_Cost": cost, "_label_Probability": 0.25, "_labelIndex": position}
    return label | {"s": "1", "_multi": [{"b": str(i)} for i in range(arms)]} | more


def test_a_decision_service_log_has_rewards_names_and_hashed_contexts(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, ANNA, TOM, ANNA))
    assert log.action_names == ("ski", "herb")
    assert log.actions.tolist() == [1, 1, 1]
    assert log.rewards.tolist() == [1.0, 0.0, 1.0]
    assert not np.signbit(log.rewards).any()
    assert log.propensities is not None
    np.testing.assert_allclose(log.propensities, [0.5, 0.05, 0.5], rtol=1e-6)
    assert log.contexts is not None
    assert log.items[:, 0].tolist() == [log.items[0, 0], log.items[1, 0], log.items[0, 0]]
    seen = log.observation(0)
    assert seen["context"].shape == (64,)
    assert sorted(abs(seen["context"][seen["context"] != 0])) == [1, 9]  # without _age
    assert seen["images"].max() == 0


def test_json_with_features_at_the_top_and_labels_in_an_action(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [plain(2, 1.5), plain(0, -2), plain(1)]
    for label in ("2:0.5:0.25", {"Action": 9, "Cost": 0.5, "Probability": 0.25}):
        entries = [{"b": "0"}, {"b": "1", "_label": label}, {"b": "2"}]
        lines.append({"s": "2", "_multi": entries})
    log = read_log(write(tmp_path, *lines, name="log.json"))
    assert log.action_names == ("0", "1", "2")
    assert log.actions.tolist() == [2, 0, 1, 1, 1]
    assert log.rewards.tolist() == [-1.5, 2, -1, -0.5, -0.5]
    assert log.propensities is not None
    assert log.propensities.tolist() == [0.25] * 5


def test_pictures_of_the_actions_make_it_a_log_of_image_arms(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index}.png")
    lines = [
        plain(1, -1, _multi=[{"_image": "2.png"}, {"_image": "0.png"}]),
        plain(2, 0, _multi=[{"_image": f"{i}.png"} for i in range(3)]),
    ]
    log = read_log(write(tmp_path, *lines, name="log.jsonl"))
    assert log.action_names == ()
    assert log.contexts is None
    assert log.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert log.observation(0)["images"][:2, 0, 0, 0].tolist() == [2, 0]
    assert log.rewards.tolist() == [1, 0]
    lines[1]["_multi"][0]["_image"] = "gone.png"
    with pytest.raises(ValueError, match=r"log.jsonl:2: field 'arm_images': no file 'gone.png'"):
        read_log(write(tmp_path, *lines, name="log.jsonl"))


def test_a_picture_of_the_context_is_shared(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (7, 0, 0)).save(tmp_path / "seen.png")
    lines = [plain(i, -i, arms=2, _image="seen.png") for i in (0, 1)]
    log = read_log(write(tmp_path, *lines))
    assert log.action_names == ("0", "1")
    lines = [plain(0, -1, arms=3, _image="seen.png"), plain(1, 0, arms=2, _image="seen.png")]
    assert read_log(write(tmp_path, *lines)).mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert log.observation(1)["images"].shape == (1, 4, 4, 3)
    assert log.observation(1)["images"][0, 0, 0, 0] == 7


def test_lines_without_a_cost_are_left_out_and_counted(tmp_path: Path) -> None:
    unlabelled = {"s": "1", "_multi": [{}, {}, {}]}
    dangling = {"EventId": "38c", "RewardValue": 1.0}
    skipped = plain() | {"_skipLearn": True}
    log = read_log(write(tmp_path, dangling, plain(), unlabelled, skipped, plain(1)))
    assert (len(log), log.dropped) == (2, 3)
    with pytest.raises(ValueError, match=r"log.dsjson: no line has a cost; give _label_cost"):
        read_log(write(tmp_path, unlabelled))


def test_tagged_actions_may_come_and_go(tmp_path: Path) -> None:
    three = plain(2, 0, _multi=[{"_tag": tag} for tag in ("b", "a", "c")])
    two = plain(0, -1, _multi=[{"_tag": tag} for tag in ("c", "a")])
    log = read_log(write(tmp_path, three, two))
    assert log.action_names == ("b", "a", "c")
    assert log.mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert log.actions.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_label_Cost": "much"}, "field '_label_cost': 'much' is no finite number"),
        ({"_label_Probability": 0}, r"field '_label_probability': 0 is not in \(0, 1\]"),
        ({"_label_Probability": None}, "field '_label_probability': give it in all lines"),
        ({"_labelIndex": 3}, r"field '_labelIndex': .* is no one of 3 actions"),
        ({"_labelIndex": 0.0}, "field '_labelIndex'"),
        ({"_label_Action": 3}, "field '_labelIndex': .*'_label_action': 3"),
        ({"_multi": []}, "field '_multi': give a list with an object per action"),
        ({"_multi": [1, 2]}, "field '_multi'"),
        ({"_multi": [{}, {}]}, "field '_multi': 2 actions without '_tag' here, 3 before"),
        ({"_multi": [{"_tag": "a"}, {"_tag": "a"}, {}]}, "field '_tag': the same for two actions"),
        ({"c": 3}, "field 'c': is no JSON object"),
        ({"_image": "a.png"}, "field '_image': a log has it in the same place in all lines"),
        ({"pdrop": 0.5}, "field 'pdrop': 0.5 here and 0 before"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    wrong = plain(1) | change
    with pytest.raises(ValueError, match=rf"log.dsjson:2: {message}") as caught:
        read_log(write(tmp_path, plain(), wrong))
    assert "\n" not in str(caught.value)


def test_a_log_without_images_is_not_replayed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images to replay"):
        LoggedEnv(write(tmp_path, plain(), plain(1)))
