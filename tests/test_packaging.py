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


def build(kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def test_package_list_names_every_package() -> None:
    assert set(SETUPTOOLS["packages"]) == source_packages()


@pytest.mark.skipif((ROOT / "PKG-INFO").exists(), reason="a source distribution has no links")
@pytest.mark.parametrize("name", ["envs", "agents"])
def test_links_lead_to_the_top_level_folders(name: str) -> None:
    link = ROOT / "vitucb" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def templates() -> set[str]:
    """What the report's page is made of."""
    return {f"vitucb/report/templates/{p.name}" for p in ROOT.glob("vitucb/report/templates/*")}


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_bare_import_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0
    assert f"vitucb.{name}" in done.stderr


def test_wheel_holds_only_vitucb_with_weights_and_remapped_packages(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"vitucb"}
    assert "vitucb/envs/image_arms.py" in names
    assert "vitucb/agents/vit_ucb.py" in names
    assert "vitucb/py.typed" in names
    assert {"vitucb/report/templates/style.css"} < templates() <= set(names)
    assert any(n.startswith("vitucb/assets/") and n.endswith(".safetensors") for n in names)


def test_sdist_holds_what_the_build_and_the_tests_need(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {"/".join(name.split("/")[1:]) for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "envs/__init__.py", "mkdocs.yml"} <= names
    assert templates() <= names
    assert any(n.startswith("vitucb/assets/") and n.endswith(".safetensors") for n in names)
    parts = [path for part in ("tests", "scripts", "docs") for path in (ROOT / part).rglob("*")]
    files = {path.relative_to(ROOT).as_posix() for path in parts if path.is_file()}
    assert {file for file in files if not file.endswith(".pyc")} <= names


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
