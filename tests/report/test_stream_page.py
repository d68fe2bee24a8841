"""The page of a stream in Chromium: it draws, fits a telephone, and escapes what it is given."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from headway.report.stream_page import stream_table, write_stream_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "streaming"
HOSTILE = "</script><img src=x onerror=alert(1)>%{x}"
ASK = """<script>
window.complaints = [];
addEventListener("error", (event) => complaints.push(String(event.message)), true);
setTimeout(() => {
  document.querySelectorAll(".legend button")[1].click();
  setTimeout(() => {
    const traces = document.querySelectorAll(".scatterlayer .trace").length;
    parent.postMessage(JSON.stringify({
      complaints, traces, wide: document.documentElement.scrollWidth, width: innerWidth,
      images: document.querySelectorAll("img").length,
      ticks: [...document.querySelectorAll(".ytick text")].map((text) => text.textContent),
    }), "*");
  }, 800);
}, 2500);
</script>"""
FRAME = """<!doctype html><body style="margin: 0"><pre id="told"></pre>
<iframe src="copy.html" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>addEventListener("message", (event) =>
  document.getElementById("told").textContent = event.data)</script>"""


def made(kept=(0, 1), reason=""):
    """Results as the command writes them, with a hostile name."""
    ways = []
    for number, way in enumerate(("full", "window", "waivers + window", "recompute")):
        curve = {"token": [10, 20, 30], "perplexity": [9e4, 10.0 + number, None]}
        one = {"way": way, "kept": list(kept), "sees": None if way == "full" else 16}
        one |= {"perplexity": 7.0, "ratio": 1.04, "tokens_per_second": 5e3, "cache_bytes": 3000}
        ways.append(one | {"reason": reason if way == "full" else "", "curve": curve})
    return {
        "command": f"headway stream '{HOSTILE}'",
        "versions": {"headway": "0"},
        "device": "cpu: some",
        "started": "2026",
        "settings": {"keep": "auto", "text": HOSTILE},
        "model": {"name": HOSTILE, "parameters": 5, "context": 16, "dtype": "float32"},
        "tokens": 36,
        "first_token": HOSTILE,
        "kept": list(kept),
        "stride": 4,
        "ways": ways,
        "target": 1.05,
    }


@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(tmp_path, width):
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    text = write_stream_page(tmp_path, made()).read_text(encoding="utf-8")
    place, closing, rest = text.rpartition("</body>")
    (tmp_path / "copy.html").write_text(f"{place}{ASK}{closing}{rest}", encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=6000"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found
    told = json.loads(html.unescape(found[1]))
    assert told["complaints"] == []
    assert told["images"] == 0
    assert told["width"] == width
    assert told["wide"] <= width
    assert told["traces"] == 3  # four ways, one of them hidden by its button
    assert told["ticks"][:4] == ["10", "100", "1,000", "10,000"]


def test_what_the_table_says():
    table = stream_table(made(kept=(0, 1, 2, 3, 4), reason="out of memory after 9 tokens"))
    assert table.rows[0] == ("full", "-", "all", "out of memory after 9 tokens", "-", "-", "-")
    assert table.rows[1] == ("window", "0 to 4", "16", "7", "1.040", "5,000", "3 KiB")
    nothing = made(kept=())
    assert stream_table(nothing).rows[1][1] == "-"
    from headway.report.stream_page import remarks

    assert "No waiver was found" in " ".join(remarks(nothing))
    assert "at every 4th token" in " ".join(remarks(nothing))
