"""Regret reports: read run folders, write one self-contained HTML page.

Importing this package is fast: matplotlib is loaded when the first figure is drawn.
"""

from __future__ import annotations

from vitucb.report.runs import Gallery, Run, load_gallery, load_runs
from vitucb.report.write import write_report

__all__ = ["Gallery", "Run", "load_gallery", "load_runs", "write_report"]
