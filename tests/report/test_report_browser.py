"""The page in Chromium: every figure draws, nothing is cut off, nothing is asked of the network."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.report.page import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
HOSTILE = "</script><img src=x onerror=alert(1)>%{x}"

EARLY = """<script>
window.complaints = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  window.addEventListener(kind, (event) => complaints.push(
    kind + ": " + (event.message || event.reason || event.violatedDirective)), true);
for (const level of ["error", "warn"])
  console[level] = (...said) => complaints.push(level + ": " + said.join(" "));
</script>"""
"""Goes into the test's copy of the page, before its own scripts."""

LATE = """<script>
setTimeout(() => {
  const plots = [...document.querySelectorAll(".plot")];
  const cut = (plot) => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll("text")].filter((text) => {
      const own = text.getBoundingClientRect();
      return own.width && (own.left < box.left - 1 || own.right > box.right + 1
        || own.top < box.top - 1 || own.bottom > box.bottom + 1);
    }).map((text) => plot.id + ": " + text.textContent);
  };
  const shown = () => document.querySelectorAll("#validation-loss .scatterlayer .trace").length;
  const told = {
    width: innerWidth,
    wide: document.documentElement.scrollWidth,
    undrawn: plots.filter((plot) => !plot.querySelector("svg.main-svg .scatterlayer .trace path"))
      .map((plot) => plot.id),
    figures: plots.length,
    cut: plots.flatMap(cut),
    ticks: [...document.querySelectorAll("#paired-difference .ytick text")]
      .map((text) => text.textContent),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:") && !name.startsWith("blob:")),
    before: shown(),
  };
  document.querySelector(".legend button").click();
  setTimeout(() => {
    told.after = shown();
    told.complaints = complaints;
    parent.postMessage(JSON.stringify(told), "*");
  }, 1000);
}, 3000);
</script>"""
"""Measures the drawn page, then presses the first arm's button."""

FRAME = """<!doctype html><body style="margin: 0"><pre id="told"></pre>
<iframe src="{page}" style="border: 0; width: {width}px; height: 900px"></iframe>
<iframe id="open" style="display: none"></iframe>
<script>
const open = document.getElementById("open").contentDocument.open();
addEventListener("message", (event) => {{
  document.getElementById("told").textContent = event.data;
  open.close();
}});
</script>"""
"""Holds the page at a width that may be narrower than a browser window can be.

The browser prints the document when it has loaded, and it has not while a part is still open: until
the page has told what it is asked, however slow the machine."""


@pytest.fixture(scope="module")
def browser() -> str:
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    return BROWSER


def opened(browser: str, page: Path, width: int, late: str = LATE) -> dict[str, Any]:
    """What `late` tells about the page when a browser shows it at a width in pixels."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head>{EARLY}", 1)
    place, closing, rest = text.rpartition("</body>")
    copy = page.with_name("copy.html")
    copy.write_text(f"{place}{late}{closing}{rest}", encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(page=copy.name, width=width), encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            *FLAGS,
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={max(width, 600)},1000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


@pytest.mark.parametrize("width", [390, 1280])
def test_page_opens_and_draws(browser: str, make_results: Callable[..., Path], width: int) -> None:
    arms = ("vanilla", "kv_shift", "kv_shift+selective", "value_stream", HOSTILE)
    told = opened(browser, write_report(make_results(arms=arms, seeds=3)), width)
    assert told["width"] == width
    assert told["wide"] <= width, "the page scrolls sideways"
    assert told["figures"] >= 10
    assert told["undrawn"] == []
    assert told["cut"] == []
    assert told["complaints"] == []
    assert told["fetched"] == []
    assert "".join(told["ticks"][3].split()) == "".join(HOSTILE.split())
    assert told["before"] - told["after"] == 2, "the legend did not hide an arm"
