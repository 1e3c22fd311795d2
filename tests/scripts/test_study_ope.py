"""The study of off-policy intervals writes its page from whole runs only."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import study_ope

BEGIN, END = "<!-- study_ope begins -->", "<!-- study_ope ends -->"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nlong\n{END}\nafter\n")
    monkeypatch.setattr(study_ope, "PAGE", path)
    monkeypatch.setattr(study_ope, "table", lambda replications, sizes: f"{replications} {sizes}")
    return path


@pytest.mark.parametrize("arguments", [["--replications", "10"], ["--sizes", "200"]])
def test_a_short_run_is_printed_and_not_written(
    page: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = page.read_text()
    monkeypatch.setattr("sys.argv", ["study_ope.py", *arguments])
    study_ope.main()
    assert page.read_text() == before
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert "page.md is left as it is: its text cites 400 logs a row" in printed.err


def test_an_adaptive_log_has_all_its_rounds() -> None:
    for rounds in (17, 200, 205):
        log = study_ope.adaptive_log(rounds, np.random.default_rng(0))
        assert [len(column) for column in log] == [rounds] * 4


def test_a_whole_run_replaces_its_section(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["study_ope.py"])
    study_ope.main()
    assert page.read_text() == f"before\n{BEGIN}\n400 [200, 1000, 5000]\n{END}\nafter\n"


def test_the_page_has_the_table_that_its_text_is_about() -> None:
    section = study_ope.PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert f"{study_ope.LOGS} logs per row" in section
    assert len(section.strip().splitlines()) == 4 + 4 * len(study_ope.SIZES)


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("study_ope", ["--against-obp"], "--against-obp needs Open Bandit Pipeline; pip install"),
        ("prove_ray", [], r"needs Ray; pip install 'vitucb\[ray\]'"),
        ("bench_data", ["none.npz"], "no file none.npz; name an .npz with arrays jpeg"),
    ],
)
def test_what_a_script_lacks_is_said_in_a_line(
    script: str,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^2$"):
        importlib.import_module(script).main()
    assert re.search(said, capsys.readouterr().err)
