"""`vitucb report`: the regret report of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vitucb.cli.arguments import parse


@dataclass(frozen=True)
class ReportArgs:
    """Write the regret report of an experiment."""

    runs: tyro.conf.Positional[str]
    """Folder of run folders, e.g. runs/default."""
    out: str = "report"
    """Folder of the report."""
    main: str | None = None
    """Label of the agent the others are compared with; vit-ucb if not given."""
    include_unfinished: bool = False
    """Count unfinished runs too, up to the common horizon."""
    style: Literal["page", "paper"] = "page"
    """What the figure files are for: paper makes them as wide as a column, with labelled axes."""


def report(words: list[str]) -> None:
    """Write the regret report of an experiment as one HTML file."""
    args = parse(ReportArgs, words, "report")
    write_report_page(args)


def write_report_page(args: ReportArgs) -> None:
    """Write the report and print its path."""
    from vitucb.experiment.preflight import check_writable
    from vitucb.report import write_report

    check_writable(Path(args.out), "--out")
    page = write_report(
        args.runs,
        args.out,
        main=args.main,
        include_unfinished=args.include_unfinished,
        style=args.style,
    )
    print(page.resolve())
