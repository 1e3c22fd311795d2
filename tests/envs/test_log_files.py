from __future__ import annotations

import decimal
import json
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitucb.envs.data.log_files import read_log

ARMS = "arm_images,action,reward,propensity\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    for value, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (4, 4), (value, value, value)).save(path / name)
    return path


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_of_arm_images(folder: Path) -> None:
    log = read_log(write(folder, ARMS + 'a.png|b.png,1,0.5,0.25\n"[""c.png""]",0,-2,1\n'))
    assert len(log) == 2
    assert log.num_arms == 2
    assert log.actions.tolist() == [1, 0]
    assert log.rewards.tolist() == [0.5, -2]
    assert log.propensities is not None
    assert log.propensities.tolist() == [0.25, 1]
    assert log.mask.tolist() == [[1, 1], [1, 0]]
    first, second = log.observation(0)["images"], log.observation(1)["images"]
    assert first.shape == (2, 4, 4, 3)
    assert first[:, 0, 0, 0].tolist() == [0, 1]
    assert second[:, 0, 0, 0].tolist() == [2, 0]


def test_a_context_log_shares_its_image_and_sorts_its_actions(folder: Path) -> None:
    rows = [("a.png", "10", 1), ("b.png", "9", 0), ("a.png", "left", 1)]
    lines = [json.dumps({"context_image": c, "action": a, "reward": r}) for c, a, r in rows]
    log = read_log(write(folder, "\n\n".join(lines), "log.jsonl"))
    assert log.action_names == ("9", "10", "left")
    assert log.actions.tolist() == [1, 0, 2]
    assert log.propensities is None
    obs = log.observation(1)
    assert obs["images"].shape == (1, 4, 4, 3)
    assert obs["images"][0, 0, 0, 0] == 1
    assert obs["action_mask"].tolist() == [1, 1, 1]


def test_one_label_in_several_spellings_is_one_action(folder: Path) -> None:
    text = "context_image,action,reward\na.png,1,0\na.png, 1.0 ,0\nb.png, cat,1\nb.png,cat,1\n"
    log = read_log(write(folder, text))
    assert log.action_names == ("1", "cat")
    assert log.actions.tolist() == [0, 0, 1, 1]


def test_numbers_and_texts_of_json_are_the_labels_of_csv(folder: Path) -> None:
    actions = [1, 1.0, "1", " 1.0", 0.5, "0.5"]
    lines = [json.dumps({"context_image": "a.png", "action": a, "reward": 0}) for a in actions]
    log = read_log(write(folder, "\n".join(lines), "log.jsonl"))
    assert log.action_names == ("0.5", "1")
    assert log.actions.tolist() == [1, 1, 1, 1, 0, 0]


def test_actions_are_found_by_their_name_in_any_spelling(folder: Path) -> None:
    log = read_log(write(folder, "context_image,action,reward\na.png,1,0\nb.png,2.0,1\n"))
    renamed = log.with_actions(["2", "1.0", "3"])
    assert renamed.actions.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"'1', '1.0': give at least two, and each once"):
        log.with_actions(["1", "1.0"])


@pytest.mark.parametrize("label", ["", "  ", "NaN", "Infinity", "1e999", "[]", "1" + "0" * 30])
def test_what_is_no_label_is_refused(folder: Path, label: str) -> None:
    text = f'{{"context_image": "a.png", "action": {label or "null"}, "reward": 0}}'
    if not label.strip():
        text = text.replace(label or "null", f'"{label}"')
    with pytest.raises(ValueError, match="field 'action'"):
        read_log(write(folder, text, "log.jsonl"))


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ("b|c", "field 'offered': 'b|c' is no list of labels with the action, 'a'"),
        ("[1", "field 'offered': '\\[1' is no list of labels with the action"),
    ],
)
def test_labels_on_offer_that_cannot_be_are_refused(
    folder: Path, offered: str, message: str
) -> None:
    text = f"context_image,action,reward,offered\na.png,a,1,{offered}\na.png,b,1,\n"
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        read_log(write(folder, text))


def test_images_on_offer_are_told_by_position(folder: Path) -> None:
    text = "arm_images,action,reward,offered\na.png|b.png|c.png,2,1,0|2\na.png|b.png|c.png,1,0,\n"
    log = read_log(write(folder, text))
    assert log.mask.tolist() == [[1, 0, 1], [1, 1, 1]]
    for offered in ("0|1", "2|3", "a.png|c.png"):
        with pytest.raises(ValueError, match="no list of positions 0 to 2 with the action, 2"):
            read_log(write(folder, text.replace("0|2", offered)))


def test_a_propensity_above_1_by_rounding_is_1(folder: Path) -> None:
    rows = "a.png|b.png,0,1,1.0000000000000002\na.png|b.png,1,1,0.5\n"
    propensities = read_log(write(folder, ARMS + rows)).propensities
    assert propensities is not None
    assert propensities.tolist() == [1.0, 0.5]


def test_columns_can_have_other_names_and_further_columns_are_ignored(folder: Path) -> None:
    path = write(folder, "arm_images,click,shown,when\na.png|b.png,1,0,today\n")
    log = read_log(path, columns={"reward": "click", "action": "shown"})
    assert log.rewards.tolist() == [1]
    with pytest.raises(ValueError, match="unknown field 'rewards'; known: context_image"):
        read_log(path, columns={"rewards": "click"})


def test_missing_images_are_counted_or_left_out(folder: Path) -> None:
    path = write(folder, ARMS + "a.png|b.png,0,1,1\na.png|no.png,0,1,1\nb.png|gone.png,0,1,1\n")
    with pytest.raises(ValueError, match=r"log.csv:3: field 'arm_images': no file 'no.png' \(.* 2"):
        read_log(path)
    log = read_log(path, skip_missing=True)
    assert (len(log), log.dropped) == (1, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png|b.png,2,1,1", r":2: field 'action': '2' is not a position 0 to 1"),
        ("a.png|b.png,0.5,1,1", r":2: field 'action'"),
        ("a.png|b.png,,1,1", r":2: field 'action': is missing"),
        ("a.png|b.png,0,one,1", r":2: field 'reward': 'one' is no finite number"),
        ("a.png|b.png,0,nan,1", r":2: field 'reward'"),
        ("a.png|b.png,0,1,0", r":2: field 'propensity': '0' is not in \(0, 1\]"),
        ("a.png|b.png,0,1,1.5", r":2: field 'propensity'"),
        ("a.png|b.png,0,1,1\na.png,0,1,", r":3: field 'propensity': give it in all rows"),
        (",0,1,1", r":2: field 'arm_images': give either it or 'context_image'"),
        ("[7],0,1,1", r":2: field 'arm_images': '\[7\]' is no list of paths"),
        ('"a.png|b.png,0,1,1', r":2: cannot be read as CSV: unexpected end of data; write"),
        ("a.png|b.png,0,1,1,5", r":2: 5 fields under 4 column names"),
        ("a.png,0,1,1", "one action throughout"),
        ("", "no rounds in it"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_log(write(folder, ARMS + rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe{}", r"log.jsonl:1: no JSON in UTF-8"),
        (b"{}\n[1]", r"log.jsonl:1: field 'action': is missing"),
        (b"[1]", r"log.jsonl:1: not a JSON object"),
        (b'{"a": {"x": 1, "x": 2}, "reward": 1, "reward": 2}', r":1: field 'reward' is there twi"),
        (b"[" * 100_000, r"log.jsonl:1: no JSON"),
        (b'{"arm_images": ["a.png", "b.png"], "action": true, "reward": 1}', "field 'action'"),
        (b'{"arm_images": ["a.png"], "action": 0, "reward": 1e999}', "field 'reward': inf"),
        (b'{"context_image": ["a.png"], "action": 0, "reward": 1}', "is no path"),
        (b'{"context_image": "a.png", "action": {}, "reward": 1}', "is not a label"),
    ],
)
def test_bad_json_lines_are_named(folder: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_log(write(folder, text, "log.jsonl"))


def test_files_that_are_no_log_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown kind of file; give .csv, .jsonl, .parquet"):
        read_log(folder / "a.png")
    with pytest.raises(ValueError, match="no such file"):
        read_log(folder / "absent.csv")
    with pytest.raises(ValueError, match=r"log.csv:1: the header names column 'action' twice"):
        read_log(write(folder, "action,action\n"))


def test_space_in_the_header_and_unused_columns_of_one_name_do_no_harm(folder: Path) -> None:
    path = write(folder, "arm_images, action, reward,note,note\na.png|b.png,1,0.5,x,y\n")
    assert read_log(path).actions.tolist() == [1]


def test_an_empty_field_is_missing_in_every_kind_of_table(folder: Path) -> None:
    path = write(folder, '{"context_image": "a.png", "action": "", "reward": 1}', "log.jsonl")
    with pytest.raises(ValueError, match=r"log.jsonl:1: field 'action': is missing"):
        read_log(path)


def test_a_wrong_byte_is_not_said_to_be_in_the_first_line(folder: Path) -> None:
    text = ARMS.encode() + b"a.png|b.png,1,0.5,0.25\nb.png|\xe9.png,1,0.5,0.25\n"
    with pytest.raises(ValueError, match=r"log .*log.csv: cannot be read as CSV: 'utf-8' codec"):
        read_log(write(folder, text))


def test_parquet_without_pyarrow_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read_log(write(folder, b"PAR1", "log.parquet"))


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    from pyarrow import parquet, table

    parquet.write_table(table(columns), path, **options)
    return path


def test_parquet_equals_json_lines(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"arm_images": ["a.png", "b.png"], "action": 1, "reward": 0.5, "propensity": 0.5},
        {"arm_images": ["c.png", "b.png"], "action": 0, "reward": 1.0, "propensity": 0.25},
    ] * 30
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    # More than one row group, as large files have, and a column that nobody asks for.
    extra = {"when": [{"day": index} for index in range(len(rows))]}
    options = {"row_group_size": 7, "compression": "zstd"}
    one = read_log(write_parquet(folder / "log.parquet", columns | extra, **options))
    lines = "\n".join(json.dumps(row) for row in rows)
    two = read_log(write(folder, lines, "log.jsonl"))
    for field in ("items", "mask", "actions", "rewards", "propensities"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_parquet_of_labels_in_dictionaries_and_small_numbers(folder: Path) -> None:
    import pyarrow

    columns = {
        "context_image": pyarrow.array(["a.png", "b.png"] * 3).dictionary_encode(),
        "action": pyarrow.array(["cat", "dog", "cat"] * 2).dictionary_encode(),
        "reward": pyarrow.array([0, 1] * 3, pyarrow.int8()),
        "propensity": pyarrow.array([0.25] * 6, pyarrow.float32()),
    }
    log = read_log(write_parquet(folder / "log.parquet", columns))
    assert log.action_names == ("cat", "dog")
    assert log.rewards.tolist() == [0, 1, 0, 1, 0, 1]
    assert log.propensities is not None
    assert log.propensities.tolist() == [0.25] * 6


def test_parquet_decimals_are_numbers(folder: Path) -> None:
    rewards = [decimal.Decimal("0.25"), decimal.Decimal("1.50")]
    columns = {"arm_images": [["a.png", "b.png"]] * 2, "action": [0, 1], "reward": rewards}
    log = read_log(write_parquet(folder / "log.parquet", columns))
    assert log.rewards.tolist() == [0.25, 1.5]


def test_parquet_with_holes_is_refused_where_they_are(folder: Path) -> None:
    columns: dict[str, Any] = {
        "arm_images": [["a.png", "b.png"]] * 3,
        "action": [0, 1, 0],
        "reward": [1.0, None, 0.0],
    }
    with pytest.raises(ValueError, match=r"log.parquet:2: field 'reward': is missing"):
        read_log(write_parquet(folder / "log.parquet", columns))
    columns |= {"reward": [1.0, 0.0, 1.0], "propensity": [0.5, 0.5, None]}
    with pytest.raises(ValueError, match=r"log.parquet:3: field 'propensity': give it in all"):
        read_log(write_parquet(folder / "log.parquet", columns))


def test_a_torn_parquet_file_is_named(folder: Path) -> None:
    path = write_parquet(folder / "log.parquet", {"reward": [1.0] * 100})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"log.parquet: cannot be read as Parquet"):
        read_log(path)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a.png", "b.png", "a.png|b.png", '["a.png"]', "0", "1", "0.5", "1e999", "["]),
    st.lists(st.sampled_from(["a.png", "b.png", "", "../.."]), max_size=3),
    st.just(10**400),
)
NAMES = st.sampled_from(["context_image", "arm_images", "action", "reward", "propensity", "other"])
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_or_refuse(path: Path) -> None:
    """Either a log in which everything fits, or a ValueError of one line that names the file."""
    message = ""
    try:
        log = read_log(path)
    except ValueError as error:
        message = str(error)
    if message:
        assert path.name in message
        assert "\n" not in message
        return
    assert len(log) == len(log.rewards) == len(log.items)
    assert np.isfinite(log.rewards).all()
    assert log.mask[np.arange(len(log)), log.actions].all()
    log.observation(0)


@given(st.lists(st.dictionaries(NAMES, VALUES), max_size=4))
@SETTINGS
def test_fuzzed_json_lines(folder: Path, rows: list[dict[str, Any]]) -> None:
    text = "\n".join(json.dumps(row, default=str) for row in rows)
    read_or_refuse(write(folder, text, "fuzz.jsonl"))


@given(st.text(alphabet=string.printable + "é\0", max_size=120), st.booleans())
@SETTINGS
def test_fuzzed_csv_text(folder: Path, text: str, header: bool) -> None:
    read_or_refuse(write(folder, ARMS * header + text, "fuzz.csv"))


@given(st.lists(st.lists(VALUES.map(str), min_size=4, max_size=4), max_size=4))
@SETTINGS
def test_fuzzed_csv_cells(folder: Path, rows: list[list[str]]) -> None:
    text = "\n".join(",".join(cell.replace("\n", "") for cell in row) for row in rows)
    read_or_refuse(write(folder, ARMS + text, "fuzz.csv"))


@given(st.binary(max_size=80), st.sampled_from(["csv", "jsonl", "parquet"]))
@SETTINGS
def test_fuzzed_bytes(folder: Path, content: bytes, kind: str) -> None:
    read_or_refuse(write(folder, content, f"fuzz.{kind}"))
