"""An off-policy evaluation as files: JSON for programs, one HTML page for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitucb.evaluation.evaluate import Evaluation
from vitucb.evaluation.verdict import as_data, headline, short_name
from vitucb.inert_text import visible
from vitucb.report.figures.theme import RC, css_variables, inline_svg, to_svg
from vitucb.storage.atomic_files import temporary_beside, write_durably

if TYPE_CHECKING:
    from jinja2 import Environment

_NAME, _SUFFIXES = "evaluation", (".json", ".html")


def out_files(out: str | Path) -> list[Path]:
    """The files that `out` stands for: itself if it ends in .json or .html, else two in a folder.

    Raises:
        ValueError: If they could not be written there.
    """
    path = Path(out)
    is_file = path.suffix in _SUFFIXES
    files = [path] if is_file else [path / f"{_NAME}{suffix}" for suffix in _SUFFIXES]
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        probe = temporary_beside(files[0])
        probe.touch()
        probe.unlink()
        if any(file.is_dir() for file in files):
            raise IsADirectoryError(0, "there is a folder of that name")
    except OSError as error:
        reason = os.fspath(error.strerror or str(error))
        raise ValueError(f"out {str(out)!r} cannot be written: {reason}; name another") from error
    return files


def write_evaluation(evaluation: Evaluation, out: str | Path, command: str = "") -> list[Path]:
    """Write an evaluation to `out`.

    Args:
        evaluation: What was found.
        out: A folder, for `evaluation.json` and `evaluation.html`, or one file that ends so.
        command: The call that makes the page again, for its foot.

    Returns:
        The files.

    Raises:
        ValueError: If `out` cannot be written.
    """
    files = out_files(out)
    for path in files:
        if path.suffix == ".json":
            data = as_data(evaluation)
            text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        else:
            text = evaluation_page(evaluation, command)
        write_durably(path, text)
    return files


def evaluation_page(evaluation: Evaluation, command: str = "") -> str:
    """A complete HTML document, which needs no other file."""
    template = _environment().get_template("evaluation.html.j2")
    return template.render(
        evaluation=evaluation,
        headline=headline(evaluation),
        figure=_figure(evaluation),
        policies=[_cells(row) for row in evaluation.policy_rows()],
        estimators=[_cells(row) for row in evaluation.rows()],
        facts={name: _cell(value) for name, value in evaluation.facts.items()},
        command=command,
    )


def _figure(evaluation: Evaluation) -> str:
    import matplotlib

    from vitucb.report.figures.gains import gains_figure

    with matplotlib.rc_context(dict(RC)):
        document = to_svg(gains_figure(evaluation), "gains")
    return inline_svg(document, "gains", headline(evaluation))


def _cells(row: Mapping[str, object]) -> dict[str, str]:
    signed = ("minus the log", "from", "to")
    shown = {name: _cell(value, name in signed) for name, value in row.items()}
    return shown | ({"policy": short_name(shown["policy"])} if "policy" in row else {})


def _cell(value: object, signed: bool = False) -> str:
    if not isinstance(value, float):
        return str(value)
    text = f"{value:+.4g}" if signed and value else f"{value:.4g}"
    return text.replace("-", "−") if value == value else "–"


def _environment() -> Environment:
    # Imported here so that `vitucb evaluate --help` does not wait for jinja2.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def shown(value: object) -> object:
        is_text = isinstance(value, str) and not hasattr(value, "__html__")
        return visible(str(value), keep="\n\t") if is_text else value

    environment = Environment(
        loader=PackageLoader("vitucb.report"),
        autoescape=True,
        finalize=shown,  # names come from logs and folders
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["css_variables"] = css_variables
    return environment
