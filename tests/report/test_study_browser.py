"""The page of a study in Chromium: claims and ticks can be read on a telephone."""

from pathlib import Path

import pytest
from test_report_browser import browser, opened

from headway.studies.claim_page import write_claim_page
from headway.studies.kv_shift.theorem3 import THEOREM3
from headway.studies.run_files import read_runs

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
    names: [...table.querySelectorAll("tbody tr:first-child td")].map((cell) => {
      const name = getComputedStyle(cell, "::before").content;
      return name === "none" ? null : JSON.parse(name);
    }),
    columns: [...table.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent),
    hidden: [...table.querySelectorAll("td")].filter((cell) => !box(cell).height).length,
    empty: [...table.querySelectorAll("td")].filter((cell) => !cell.textContent).length,
    outside: [...table.querySelectorAll("td > div")]
      .filter((cell) => box(cell).right > box(table).right + 1).length,
    below: first.filter((cell) => box(cell.nextElementSibling).top >= box(cell).bottom - 1).length,
    claims: first.length,
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
    assert told["whole"] <= told["held"], "the table scrolls sideways"
    assert told["outside"] == 0
    assert told["stays"] < 1
    assert told["first"] >= 130
    assert (told["first"] > told["held"] * 0.9) == narrow, "a claim heads its card"
    assert told["tallest"] < (120 if narrow else 60)
    assert told["below"] == (told["claims"] if narrow else 0), "figures stand below their claim"
    assert told["names"] == (told["columns"] if narrow else [None] * len(told["columns"]))
    assert told["empty"] >= 1
    assert told["hidden"] == (told["empty"] if narrow else 0), "a card leaves out what is empty"
    assert told["intervals"] >= 4
    assert told["broken"] == 0
    assert len(told["ticks"]) == 3
    for ticks in told["ticks"]:
        assert ticks["labels"] == ["5", "10", "20", "50", "100", "200", "500"]
        assert ticks["touch"] == 0
        assert ticks["least"] > 12
