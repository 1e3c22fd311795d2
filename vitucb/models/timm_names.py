"""Names of timm's models, read from its sources: to import timm takes as long as torch does."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from vitucb.assets import EMBEDDED_BACKBONES

_REGISTERED = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)", re.MULTILINE)


def check_architecture_name(backbone: str) -> None:
    """Refuse the name of a backbone that occurs nowhere in timm.

    Names with a source or a module (`local-dir:...`, `my_module:name`) and the tags of weights are
    not looked at; nor is anything where timm has no sources.

    Raises:
        ValueError: Names the nearest ones.
    """
    architecture = backbone.partition(".")[0]
    if ":" in backbone or backbone in EMBEDDED_BACKBONES:
        return
    text = "\n".join(path.read_text(encoding="utf-8") for path in _sources())
    # Any mention is enough: timm registers some names in other ways, old ones among them.
    if not text or re.search(rf"\b{re.escape(architecture)}\b", text):
        return
    if any(architecture == name.partition(".")[0] for name, _ in EMBEDDED_BACKBONES.values()):
        return
    raise ValueError(
        f"unknown backbone '{backbone}'; "
        f"{nearest(architecture, [*EMBEDDED_BACKBONES, *_REGISTERED.findall(text)])}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The names of `known` that are nearest to `name`, and where to see more, for a message."""
    names = list(known)
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    return f"nearest: {', '.join(matches)}; see 'vitucb list backbones'"


def _sources() -> list[Path]:
    spec = importlib.util.find_spec("timm")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return [path for folder in folders for path in sorted((Path(folder) / "models").glob("*.py"))]
