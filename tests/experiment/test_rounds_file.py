from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitucb.experiment.rounds_file import ROUND_COLUMNS, read_rounds


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, len(ROUND_COLUMNS))) * 10.0 ** np.arange(
        -6, 7
    )
    rows = [",".join(map(repr, row)) for row in values.tolist()]
    columns = read_rounds(
        write(tmp_path / "rounds.csv", "\n".join([",".join(ROUND_COLUMNS), *rows, ""]))
    )
    assert tuple(columns) == ROUND_COLUMNS
    np.testing.assert_array_equal(np.stack(list(columns.values()), axis=1), values)


def test_half_a_row_is_no_round_and_nan_is_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "rounds.csv", "round,bonus\n0,nan\n1,2.0\n2,0.")
    (bonus,) = read_rounds(path, ("bonus",)).values()
    np.testing.assert_array_equal(bonus, [np.nan, 2.0])


def test_first_rounds_are_read_whatever_follows_them(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_bytes(b"round,reward\n0,1.5\n1,0.5\n\xff\0,what power failed on\n")
    assert read_rounds(path, ("reward",), most=2)["reward"].tolist() == [1.5, 0.5]
    with pytest.raises(ValueError, match=r"rounds\.csv is damaged: .* at row 2") as error:
        read_rounds(path, ("reward",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["round,reward\n", "round,reward\n\n", "round,reward\n0,"])
def test_file_without_rounds_has_empty_columns(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "rounds.csv", text)
    assert read_rounds(path, ("reward",))["reward"].tolist() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("round,action\n0,1\n", "lacks the columns reward, regret; record the run again"),
        ("", "lacks the columns action, reward, regret"),
        ("action,reward,regret\n1,0.5\n", "is damaged: .* row"),
        ("action,reward,regret\n1,0.5,#\n", "is damaged: could not convert string '#'"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"rounds\.csv {message}"):
        read_rounds(write(tmp_path / "rounds.csv", text), ("action", "reward", "regret"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rounds\.csv: No such file.*give a run folder"):
        read_rounds(tmp_path / "rounds.csv")
