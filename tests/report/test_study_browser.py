"""The page of a study in Chromium: claims and ticks can be read on a telephone."""

from pathlib import Path

import pytest
from test_report_browser import browser, opened

from headway.studies.claim_page import write_claim_page
from headway.studies.run_files import read_runs
from headway.studies.theorem3 import THEOREM3

__all__ = ["browser"]  # a fixture

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "theorem3"
LATE = """<script>
setTimeout(() => {
  const box = (element) => element.getBoundingClientRect();
  const table = document.querySelector("#claims .scroll");
  const first = [...table.querySelectorAll("tbody th")];
  const cells = [...table.querySelectorAll("td")].filter((cell) => cell.textContent.includes("["));
  const told = {
    width: innerWidth, wide: document.documentElement.scrollWidth, complaints,
    held: table.clientWidth, whole: table.scrollWidth,
    first: Math.min(...first.map((cell) => box(cell).width)),
    tallest: Math.max(...first.map((cell) => box(cell).height)),
    broken: cells.filter((cell) => cell.querySelector("span").getClientRects().length > 1).length,
    intervals: cells.length,
  };
  table.scrollLeft = table.scrollWidth;
  told.stays = box(first[0]).left - box(table).left;
  told.ticks = [...document.querySelectorAll(".plot")].map((plot) => {
    const shown = [...plot.querySelectorAll(".xtick text")]
      .map((text) => [text.textContent, box(text)]);
    return {
      labels: shown.map(([text]) => text),
      touch: shown.slice(1).filter(([, own], index) => own.left < shown[index][1].right + 2).length,
      least: Math.min(...shown.map(([, own]) => own.height)),
    };
  });
  parent.postMessage(JSON.stringify(told), "*");
}, 3000);
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_claims_and_ticks_can_be_read(browser: str, tmp_path: Path, width: int) -> None:
    results = read_runs(RESULTS, THEOREM3)
    assert results is not None
    told = opened(browser, write_claim_page(tmp_path, THEOREM3, results), width, LATE)
    assert told["complaints"] == []
    assert told["wide"] <= width, "the page scrolls sideways"
    narrow = width < 800
    assert (told["whole"] > told["held"]) == narrow, "the table scrolls where it is narrow, alone"
    assert told["stays"] < 1, "the first column stays"
    assert told["first"] >= 130
    assert told["first"] < told["held"] * 0.6
    assert told["tallest"] < (230 if narrow else 60)
    assert told["intervals"] >= 4
    assert told["broken"] == 0
    assert len(told["ticks"]) == 3
    for ticks in told["ticks"]:
        assert ticks["labels"] == ["5", "10", "20", "50", "100", "200", "500"]
        assert ticks["touch"] == 0
        assert ticks["least"] > 12
