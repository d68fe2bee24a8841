(() => {
  "use strict";
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  /* A finger scrolls the page over a figure; a mouse zooms into it. */
  const mouse = window.matchMedia("(pointer: fine)");
  const config = { responsive: true, displayModeBar: false, displaylogo: false };

  async function draw() {
    for (const { id, data, layout } of plots) {
      const place = document.getElementById(id);
      layout.dragmode = mouse.matches ? "zoom" : false;
      await Plotly.newPlot(place, data, layout, config);
      await Plotly.relayout(place, colours(layout));
    }
  }

  /** Show or hide an arm in every figure. */
  function toggle(button) {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const { id, data } of plots) {
      const traces = data.flatMap((trace, index) =>
        trace.meta === Number(button.dataset.arm) ? [index] : []);
      if (traces.length) Plotly.restyle(id, { visible: shown }, traces);
    }
  }

  scheme.addEventListener("change", () => {
    for (const { id, layout } of plots) Plotly.relayout(id, colours(layout));
  });
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => toggle(button));
  }
  draw();
})();
