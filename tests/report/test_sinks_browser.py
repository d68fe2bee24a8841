"""The page of sinks in Chromium: pressing a head changes the second plot, nothing is fetched."""

from pathlib import Path

import pytest
import torch
from test_report_browser import browser, opened

from headway.report.sinks_page import SinkReport, write_page
from headway.waiver.battery import run_battery
from headway.waiver.verdict import decide
from sink_models import HOSTILE, hostile, model, profile, tokenizer, with_sink

__all__ = ["browser"]  # a fixture

LATE = """<script>
const use = async () => {
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  const find = (id) => document.getElementById(id);
  const map = find("sink-map"), second = find("head-profile");
  const state = () => ({
    title: find("head-title").textContent, note: find("head-note").textContent,
    received: Array.from(second.data[0].y), value: Array.from(second.data[1].y),
    mark: map.layout.shapes.map((s) => [s.x0, s.y0]), z: map.data[0].z.map((row) => [...row]),
    tokens: Array.from(second.data[0].customdata),
  });
  const set = async (id, value) => {
    find(id).value = value;
    find(id).dispatchEvent(new Event("change"));
    await wait(200);
  };
  const press = async (layer, head) => {
    const box = map.querySelector(".nsewdrag").getBoundingClientRect();
    const { xaxis, yaxis } = map._fullLayout;
    const clientX = box.left + xaxis.l2p(head), clientY = box.top + yaxis.l2p(layer);
    const at = { bubbles: true, clientX, clientY };
    const place = map.querySelector(".nsewdrag");
    for (const kind of ["mousemove", "mousedown", "mouseup", "click"]) {
      place.dispatchEvent(new MouseEvent(kind, at));
      await wait(150);
    }
  };
  const cut = (plot) => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll("text")].filter((text) => {
      const own = text.getBoundingClientRect();
      return own.width && (own.left < box.left - 2 || own.right > box.right + 2
        || own.top < box.top - 2 || own.bottom > box.bottom + 2);
    }).map((text) => plot.id + ": " + text.textContent);
  };
  const saved = [];
  const kept = URL.createObjectURL;
  let blob = null;
  URL.createObjectURL = (made) => { blob = made; return kept.call(URL, made); };
  HTMLAnchorElement.prototype.click = function () {
    saved.push([this.download, this.href.slice(0, 5)]);
  };
  const plots = [...document.querySelectorAll(".plot")];
  const told = {
    width: innerWidth, wide: document.documentElement.scrollWidth,
    undrawn: plots.filter((plot) => !plot.querySelector("svg.main-svg .cartesianlayer path, image"))
      .map((plot) => plot.id),
    heads: [...document.querySelectorAll("#layers .cards tbody th > span")]
      .map((cell) => [getComputedStyle(cell, "::before").content, cell.textContent]),
    figures: plots.map((plot) => plot.id), cut: plots.flatMap(cut), first: state(),
  };
  await press(2, 1);
  told.pressed = state();
  await set("head", "3");
  told.chosen = state();
  await set("position", find("position").options[1].value);
  told.place = state();
  await set("measure", "value_ratio");
  told.ratio = state();
  find("log").click();
  await wait(200);
  told.axes = [second.layout.yaxis.type, second.layout.yaxis2.type];
  document.querySelector('[data-csv="head-profile"]').click();
  told.csv = await blob.text();
  for (const button of document.querySelectorAll("[data-png]")) {
    button.click();
    for (let i = 0; i < 20 && !saved.some(([name]) => name === `${button.dataset.png}.png`); i++) {
      await wait(25);
    }
  }
  told.saved = saved;
  told.fetched = performance.getEntriesByType("resource").map((entry) => entry.name)
    .filter((name) => !name.startsWith("data:") && !name.startsWith("blob:"));
  told.complaints = complaints;
  return told;
};
setTimeout(async () => {
  let told;
  try { told = await use(); } catch (error) { told = { complaints: [...complaints, error.stack] }; }
  parent.postMessage(JSON.stringify(told), "*");
}, 1500);
</script>"""
"""Uses the page as a person does, and tells what it showed."""


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_answers(browser: str, tmp_path: Path, width: int) -> None:
    of = with_sink(hostile(profile()), 1, 2, 7)
    ids = torch.randint(298, (4, 16), generator=torch.Generator().manual_seed(1))
    battery = run_battery(model("llama"), ids, tokenizer=tokenizer(), origin=0, targets=(3, 5))
    report = SinkReport(of, battery, decide(battery), {"command": HOSTILE[0]})
    told = opened(browser, write_page(report, tmp_path / "report.html"), width, LATE)
    assert told["complaints"] == []
    assert told["fetched"] == []
    assert told["wide"] <= width, "the page scrolls sideways"
    label = '"layer "' if width < 640 else "none"
    assert told["heads"] == [[label, str(number)] for number in range(len(of.layers))]
    assert told["figures"] == ["sink-map", "head-profile", "hidden-norms", "battery"]
    assert told["undrawn"] == []
    assert told["cut"] == []

    first, pressed, chosen = told["first"], told["pressed"], told["chosen"]
    assert first["title"] == "Layer 1, head 2"
    assert first["received"] == pytest.approx(of.received[1, 2].tolist(), rel=1e-5)
    assert first["mark"] == [[1.5, 0.5]]
    assert len(first["tokens"]) == of.tokens
    assert pressed["title"] == "Layer 2, head 1"
    assert pressed["received"] == pytest.approx(of.received[2, 1].tolist(), rel=1e-5)
    norms = of.value_norm[2, 1]
    assert pressed["value"] == pytest.approx((norms / norms.median()).tolist(), rel=1e-4)
    assert pressed["mark"] == [[0.5, 1.5]]
    assert chosen["title"] == "Layer 2, head 3"
    assert chosen["received"] == pytest.approx(of.received[2, 3].tolist(), rel=1e-5)
    assert "position 7: 0.9 of the attention (above 0.3 in 100 %" in first["note"]

    assert first["z"][1][2] == pytest.approx(0.9, rel=1e-5)
    for row, expected in zip(told["place"]["z"], of.received[..., 7].tolist(), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    ratios = of.written_norm[..., 7] / of.written_norm.median(-1).values
    for row, expected in zip(told["ratio"]["z"], ratios.tolist(), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert told["axes"] == ["log", "log"]
    lines = told["csv"].splitlines()
    assert lines[0].startswith('"layer","head","position","token","received"')
    assert len(lines) == 1 + of.tokens
    assert lines[1].startswith("2,3,0,")
    assert ["head-profile.csv", "blob:"] in told["saved"]
    assert {f"{name}.png" for name in told["figures"]} <= {name for name, _ in told["saved"]}
