"""The page as a browser lays it out: on a phone, on screens, and on paper.

Needs Chromium (Debian: `apt-get install chromium`) and is skipped without it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from vitucb.report import write_report

WriteRun: TypeAlias = Callable[..., Path]

BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium or google-chrome on this machine")
# A4 less margins of 14 mm, in CSS pixels.
PRINTED_WIDTH = 688
MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, width = frame.clientWidth;
  const found = {overflow: page.documentElement.scrollWidth - width, outside: [], overlaps: [],
                 small: [], titles: 0, legends: 0};
  for (const svg of page.querySelectorAll("svg")) {
    if (!svg.getClientRects().length) continue;
    const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
    const boxes = texts.map(text => {
      const box = text.getBoundingClientRect();
      const bold = getComputedStyle(text).fontWeight >= 600;
      found.titles += bold;
      return {text: text.textContent, box, bold};
    });
    found.legends += svg.querySelectorAll("[id*=legend]").length;
    for (const {text, box} of boxes) {
      if (box.left < -1 || box.right > width + 1) found.outside.push(text);
      if (Math.max(box.height, box.width / 30) < 7.5) found.small.push(text);
    }
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const a = boxes[i].box, b = boxes[j].box;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 3 && down > 4) found.overlaps.push(boxes[j].text + " / " + boxes[i].text);
    }
  }
  for (const part of page.querySelectorAll("h1, h2, p, li, figcaption")) {
    if (part.scrollWidth > part.clientWidth + 1) found.outside.push(part.textContent);
  }
  return found;
}
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("found").textContent = JSON.stringify(found);
});
"""


def chromium(*words: str) -> str:
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
    )
    done = subprocess.run(
        [BROWSER, *flags, *words], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout


def measured(page: str, width: int, folder: Path) -> dict[str, Any]:
    frame = f'<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{html.escape(page)}">'
    host = folder / f"host-{width}.html"
    host.write_text(
        f"<!doctype html><script>{MEASURE}</script>{frame}</iframe><pre id=found></pre>",
        encoding="utf-8",
    )
    document = chromium("--dump-dom", host.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', document, flags=re.DOTALL)
    assert found is not None
    (result,) = json.loads(html.unescape(found[1]))
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def page(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(experiment, tmp_path_factory.mktemp("seen"))


@pytest.mark.parametrize("width", [390, 800, 1200])
def test_nothing_overflows_or_overlaps_on_a_screen(page: Path, width: int) -> None:
    found = measured(page.read_text(encoding="utf-8"), width, page.parent)
    assert found["overflow"] <= 0
    assert found["outside"] == []
    assert found["overlaps"] == []
    assert found["small"] == []
    assert found["titles"] >= 8


def test_legends_are_below_charts_on_narrow_screens_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    narrow, wide = (measured(text, width, page.parent)["legends"] for width in (390, 1200))
    assert narrow > wide


def test_nothing_is_clipped_in_print(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("@media print{", "@media all{")
    found = measured(text, PRINTED_WIDTH, page.parent)
    assert found["overflow"] <= 0
    assert found["outside"] == []
    assert found["overlaps"] == []


def test_no_printed_page_is_half_empty(page: Path) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    target = page.parent / "printed.pdf"
    chromium("--no-pdf-header-footer", f"--print-to-pdf={target}", page.as_uri())
    document = pdfium.PdfDocument(target)
    pictures = [page.render(scale=0.5).to_numpy().min(axis=2) for page in document]
    inked = [np.flatnonzero((picture < 200).any(axis=1)) for picture in pictures]
    filled = [rows[-1] / len(p) for rows, p in zip(inked, pictures, strict=True)]
    assert min(filled[:-1]) > 0.55
