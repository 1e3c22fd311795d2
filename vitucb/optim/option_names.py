"""Names of the options of an optimizer, read from its source: to import it takes torch.

What cannot be told so is left to `options.check_options`, which looks at the class itself: values,
and everything about optimizers of other modules.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitucb.optim.table import OPTIMIZERS

_GIVEN = {"self", "params", "pairs", "lr", "other_params", "draws"}
"""Arguments that are no options of the user."""

_OF_ALL = {"other_lr", "max_step"}
_TORCH_BASES = {"sgd": "torch.optim:SGD", "adamw": "torch.optim:AdamW"}


def check_option_names(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the optimizer `name` of `OPTIMIZERS` does not have.

    Raises:
        ValueError: Names the option and the known ones.
    """
    known = _option_names(name, options)
    for option in options if known else ():
        if option not in known:
            raise ValueError(
                f"agent.optimizer.options: optimizer {name!r} has no option {option!r}; options: "
                f"{', '.join(sorted(known))}"
            )
    inner, inner_options = options.get("inner", "adamw"), options.get("inner_options")
    if "inner_options" in known and isinstance(inner_options, dict) and isinstance(inner, str):
        check_option_names(inner, inner_options)


def _option_names(name: str, options: Mapping[str, Any]) -> set[str]:
    """The options of an optimizer; empty if they cannot be told."""
    path = OPTIMIZERS.get(name)
    if path is None:
        return set()
    names, is_open = _arguments(path)
    if is_open:  # the rest goes to an optimizer of torch
        base = options.get("base", "adamw") if "base" in names else name
        base_names, _ = _arguments(_TORCH_BASES.get(str(base), ""))
        names = names | base_names if base_names else set()
    elif path.startswith("torch."):
        names = names | _OF_ALL if names else set()
    return names - _GIVEN


def _arguments(path: str) -> tuple[set[str], bool]:
    """Arguments of the constructor of `module:Class`, and whether it takes any further ones."""
    source = _source(path)
    class_name = path.partition(":")[2]
    if source is None or not source.is_file():
        return set(), False
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    listed = [*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs]
                    return {each.arg for each in listed}, part.args.kwarg is not None
    return set(), False


def _source(path: str) -> Path | None:
    """The file of a class of ours, or of one that `torch.optim` re-exports."""
    module, _, class_name = path.partition(":")
    if module == "torch.optim":
        module = f"{module}.{class_name.lower()}"
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.joinpath(*rest).with_suffix(".py")
