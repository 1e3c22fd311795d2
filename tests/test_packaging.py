"""The layout on disk installs as one package, from wheel, sdist and editable alike."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import vitucb

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = SETTINGS["project"], SETTINGS["tool"]["setuptools"]
BOOTSTRAP = "python3 scripts/bootstrap.py"


def source_packages() -> set[str]:
    """Every folder of Python modules under the three source roots, as an installed name."""
    roots = {
        "vitucb": ROOT / "vitucb",
        "vitucb.envs": ROOT / "envs",
        "vitucb.agents": ROOT / "agents",
    }
    found = set()
    for name, root in roots.items():
        for init in root.rglob("__init__.py"):
            inside = init.parent.relative_to(root).parts
            if not (name == "vitucb" and inside[:1] in (("envs",), ("agents",))):
                found.add(".".join((name, *inside)))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution and with the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def files_below(*folders: str) -> set[str]:
    """Every file in the folders, links not followed; what Python compiled is none of them."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix != ".pyc"}


def test_package_list_names_every_package() -> None:
    assert set(SETUPTOOLS["packages"]) == source_packages()


@pytest.mark.skipif((ROOT / "PKG-INFO").exists(), reason="a source distribution has no links")
@pytest.mark.parametrize("name", ["envs", "agents"])
def test_links_lead_to_the_top_level_folders(name: str) -> None:
    link = ROOT / "vitucb" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_bare_import_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0
    assert f"vitucb.{name}" in done.stderr


def test_wheel_holds_all_of_vitucb_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    remapped = {f"vitucb/{file}" for file in files_below("envs", "agents")}
    assert installed == remapped | files_below("vitucb")


def test_sdist_holds_what_the_build_and_the_tests_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {"/".join(name.split("/")[1:]) for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "mkdocs.yml", ".ci/run"} <= names
    assert files_below("vitucb", "envs", "agents", "tests", "scripts", "docs") <= names


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == vitucb.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_hooks_before_a_commit_are_steps_of_the_gate() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    entries = [hook["entry"] for hook in local["hooks"]]
    assert [e for e in entries if e.replace(BOOTSTRAP, "$bootstrap") not in steps] == []
