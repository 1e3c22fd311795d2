"""The layout on disk installs as one package, from wheel, sdist and editable alike."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


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


def test_wheel_holds_only_vitucb_with_weights_and_remapped_packages(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"vitucb"}
    assert "vitucb/envs/image_arms.py" in names
    assert "vitucb/agents/vit_ucb.py" in names
    assert "vitucb/py.typed" in names
    assert any(n.startswith("vitucb/assets/") and n.endswith(".safetensors") for n in names)


def test_sdist_holds_what_the_build_needs(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {"/".join(name.split("/")[1:]) for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "envs/__init__.py"} <= names
    assert any(n.startswith("vitucb/assets/") and n.endswith(".safetensors") for n in names)
