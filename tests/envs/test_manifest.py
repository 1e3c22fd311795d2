from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.image_context import ImageContextEnv
from vitucb.envs.rated_items import RatedItemsEnv


def _manifest(tmp_path: Path, text: str, name: str = "set.csv") -> Path:
    """The table beside four images a.png ... d.png of one gray level each."""
    for level, letter in enumerate("abcd"):
        Image.new("RGB", (4, 4), (level, level, level)).save(tmp_path / f"{letter}.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_labels_of_a_manifest_are_its_classes_in_sorted_order(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "label,path,more\nzebra,a.png,1\nant,b.png,2\nzebra,c.png,3\n")
    dataset = load_dataset(path)
    assert dataset.class_names == ("ant", "zebra")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.scores is None
    assert dataset.images[np.arange(3)][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert ImageContextEnv(path).num_arms == 2


def test_whole_numbers_written_as_floats_are_the_same_labels(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,label\na.png,10.0\nb.png,9\nc.png,10\n")
    assert load_dataset(path).class_names == ("9", "10")


def test_whole_numbers_as_labels_are_ordered_as_numbers(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,label\na.png,10\nb.png,9\nc.png,100\n")
    assert load_dataset(path).class_names == ("9", "10", "100")


def test_scores_of_a_manifest_rate_its_images(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,score,joy\na.png,1.5,4\nb.png,-2,5\nc.png,0,6\n")
    scores = load_dataset(path).scores
    assert scores is not None
    assert scores.tolist() == [1.5, -2, 0]
    joy = load_dataset(f"{path}#joy").scores
    assert joy is not None
    assert joy.tolist() == [4, 5, 6]
    env = RatedItemsEnv(path, num_arms=2)
    env.reset(seed=0)
    assert set(env.expected_rewards) < {1.5, -2, 0}


def test_paths_may_be_absolute_or_in_subfolders_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "deep" / "r.png")
    text = f'path,label\n"{tmp_path}/a.png",x\n\ndeep/r.png,y\n'
    dataset = load_dataset(_manifest(tmp_path, "\ufeff" + text))
    assert dataset.images[1][0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows; write one per image"),
        ("path,label\n", "has no rows"),
        ("file,label\na.png,x\n", "has columns file, label; it needs path, and label or score"),
        ("path,tag\na.png,x\n", "has columns path, tag; it needs path, and label or score"),
        ("path,label\na.png,x\nb.png\n", "line 3: 1 fields under 2 column names; quote commas"),
        ("path,label\na.png,x\nb.png,y,z\n", "line 3: 3 fields under 2 column names; quote commas"),
        ("path,label\na.png,x\n,y\n", "line 3: path '' is no name; fill it in"),
        ("path,label\na.png,x\nb.png, \n", "line 3: label ' ' is no name"),
        ("path,score\na.png,1\nb.png,high\n", "line 3: score 'high' is no finite number"),
        ("path,score\na.png,1\nb.png,inf\n", "line 3: score 'inf' is no finite number"),
        (
            f"path,score\na.png,{'9é' * 500}\n",
            r"line 2: score '(9é){99}9\.\.\. is no finite number",
        ),
        ("path,score\na.png,1e39\n", "line 2: score '1e39' is no finite number"),
        ("path,label\na.png,x\nb.png,x\n", "only one class, 'x'; give at least two"),
        ('path,label\n"a.png,x\n', "line 2: cannot be read as CSV: unexpected end of data; write"),
        ("path,label,label\na.png,x,y\n", "line 1: the header names column 'label' twice"),
        ("path,label\na.png,x\ne.png,y\n", "1 of 2 images cannot be read; .*e.png: no such file"),
        ("path,label\na.png,x\n.,y\n", "1 of 2 images cannot be read; .*: no such file"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match="set.csv.*" + message) as caught:
        load_dataset(_manifest(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unused_columns_of_one_name_and_a_suffix_in_capitals_do_no_harm(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,label,,\na.png,x,,\nb.png,y,,\n", "SET.CSV")
    assert load_dataset(path).class_names == ("x", "y")


def test_an_unknown_score_column_is_refused(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,score\na.png,1\n")
    with pytest.raises(ValueError, match="has columns path, score; it needs path and joy"):
        load_dataset(f"{path}#joy")


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "")
    path.write_bytes("path,label\na.png,é\n".encode("latin-1"))
    with pytest.raises(
        ValueError,
        match=r"set.csv': cannot be read as CSV: 'utf-8' codec.*; write it as CSV in UTF",
    ):
        load_dataset(path)


def test_missing_files_are_left_out_on_request(tmp_path: Path) -> None:
    path = _manifest(tmp_path, "path,label\na.png,x\ne.png,y\nb.png,y\nf.png,z\n")
    dataset = load_dataset(path, skip_bad=True)
    assert dataset.class_names == ("x", "y")
    assert dataset.images[np.arange(2)][:, 0, 0, 0].tolist() == [0, 1]


def _fake_pyarrow(monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    class Batch:
        nbytes = 100

        def to_pylist(self) -> Any:
            if isinstance(rows, Exception):
                raise rows
            return rows

    class File:
        def iter_batches(self, batch_size: int) -> Any:
            return [Batch()]

    module = types.ModuleType("pyarrow")
    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = lambda file: File()  # type: ignore[attr-defined]  # a stand-in
    module.parquet = parquet  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "pyarrow", module)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


def test_parquet_rows_are_read_like_csv_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"path": "a.png", "label": 3, "score": 0.5}, {"path": "b.png", "label": 1, "score": 2}]
    _fake_pyarrow(monkeypatch, rows)
    dataset = load_dataset(_manifest(tmp_path, "", "set.parquet"))
    assert dataset.class_names == ("1", "3")
    assert dataset.scores is not None
    assert dataset.scores.tolist() == [0.5, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": None, "label": 1}], "line 1: path None is no name"),
        ([{"path": "a.png", "score": None}], "line 1: score None is no finite number"),
        (RuntimeError("bad footer\nat 7"), "cannot be read as Parquet: bad footer"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any, message: str
) -> None:
    _fake_pyarrow(monkeypatch, rows)
    with pytest.raises(ValueError, match=message):
        load_dataset(_manifest(tmp_path, "", "set.parquet"))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="reading Parquet needs pyarrow; pip install pyarrow"):
        load_dataset(_manifest(tmp_path, "", "set.parquet"))


def test_parquet_written_by_pyarrow_is_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa  # type: ignore[import-not-found,unused-ignore]  # optional

    path = _manifest(tmp_path, "", "set.parquet")
    parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["x", "y"]}), path)
    assert load_dataset(path).class_names == ("x", "y")
