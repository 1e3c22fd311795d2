"""Any text as a config file: it loads, or one line says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitucb.config import RunConfig, load_config, override, save_config, to_dict

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def paths(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += paths(value, (*prefix, key))
    return found


FIELDS = st.sampled_from(paths(to_dict(RunConfig())))


def loads_or_says_why(path: Path) -> None:
    try:
        config = load_config(path)
    except ValueError as error:
        message = str(error)
        assert message
        assert "\n" not in message
    else:
        save_config(config, path)
        again = load_config(path)
        assert yaml.safe_dump(to_dict(again)) == yaml.safe_dump(to_dict(config))


@QUICK
@given(text=st.text(max_size=60))
def test_any_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    loads_or_says_why(path)


@QUICK
@given(data=st.binary(max_size=60))
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_bytes(data)
    loads_or_says_why(path)


@QUICK
@given(field=FIELDS, value=VALUES)
def test_any_value_in_any_field(field: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    tree = value
    for key in reversed(field):
        tree = {key: tree}
    path = tmp_path / "exp.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    loads_or_says_why(path)


@QUICK
@given(key=st.text(min_size=1, max_size=12))
def test_any_unknown_key(key: str) -> None:
    if key in to_dict(RunConfig()):
        return
    with pytest.raises(ValueError, match="unknown config key"):
        override(RunConfig(), {key: 1})
