(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const find = (id) => document.getElementById(id);
  const plots = read("plots"), profile = read("profile");
  const [LAYERS, HEADS] = profile.shape, KEPT = profile.positions.length;
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const mouse = window.matchMedia("(pointer: fine)");
  const config = { responsive: true, displayModeBar: false, displaylogo: false };
  const MARK = { type: "rect", line: { width: 2.5, color: "#d9601a" } };
  const LETTER = 10; /* pixels that a token beside the axis needs */
  let layer, head, tokensShown;

  /** float32, little-endian, of every layer, head and kept position */
  const arrays = Object.fromEntries(Object.entries(profile.arrays).map(([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return [name, Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true))];
  }));
  const row = (name, l, h) =>
    Array.from(arrays[name].subarray((l * HEADS + h) * KEPT, (l * HEADS + h + 1) * KEPT));
  const ratios = (name, l, h) => row(name, l, h).map((norm) => norm / profile.medians[name][l][h]);
  const measured = (measure, l, h) =>
    measure === "value_ratio" ? ratios(profile.values, l, h) : row(measure, l, h);
  const option = (value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    return made;
  };
  const named = (index) => `${profile.positions[index]} ${profile.tokens[index]}`;
  const short = (number) => Number.isFinite(number) ? Number(number.toPrecision(3)).toString() : "n/a";

  /** What the map shows: numbers, and position with token of each cell. */
  function mapped() {
    const measure = find("measure").value, chosen = find("position").value;
    const z = [], cells = [];
    for (let l = 0; l < LAYERS; l++) {
      z.push([]);
      cells.push([]);
      for (let h = 0; h < HEADS; h++) {
        if (chosen === "strongest") {
          z[l].push(profile.strongest[measure][l][h]);
          cells[l].push([profile.strongest.position[l][h], profile.strongest.label[l][h]]);
        } else {
          z[l].push(measured(measure, l, h)[chosen]);
          cells[l].push([profile.positions[chosen], profile.labels[chosen]]);
        }
      }
    }
    return { measure, z, cells };
  }

  function showMap() {
    const { measure, z, cells } = mapped();
    find("map-note").textContent = profile.notes[measure] + (find("position").value === "strongest"
      ? "; in each head of the position that receives most" : "");
    Plotly.restyle("sink-map", {
      z: [z], customdata: [cells], zmax: [measure === "value_ratio" ? 2 : 1],
    }, [0]);
  }

  function showHead() {
    find("layer").value = layer;
    find("head").value = head;
    find("head-title").textContent = `Layer ${layer}, head ${head}`;
    const at = (measure) => short(profile.strongest[measure][layer][head]);
    find("head-note").textContent =
      `Most goes to position ${profile.strongest.position[layer][head]}: ${at("received")} of the attention `
      + `(above ${profile.threshold} in ${short(100 * profile.strongest.sink_rate[layer][head])} % of the samples); `
      + `its value is ${at("value_ratio")} times the median, `
      + `${short(100 * profile.strongest.contribution[layer][head])} % of what the head writes.`;
    const traces = profile.norms.map((name) => ({
      y: ratios(name, layer, head),
      customdata: row(name, layer, head).map((norm, index) => [profile.labels[index], norm]),
    }));
    Plotly.update("head-profile", {
      y: [row("received", layer, head), ...traces.map((trace) => trace.y)],
      customdata: [profile.labels, ...traces.map((trace) => trace.customdata)],
    }, {}, [0, ...traces.keys()].map((_, index) => index));
    Plotly.relayout("sink-map", {
      shapes: [{ ...MARK, x0: head - 0.5, x1: head + 0.5, y0: layer - 0.5, y1: layer + 0.5 }],
    });
  }

  function choose(l, h) {
    layer = l;
    head = h;
    showHead();
  }

  /** Tokens beside the axis where there is room for those in view, else numbers of positions. */
  function showTicks() {
    const place = find("head-profile"), [from, to] = place.layout.xaxis.range;
    const inView = profile.positions.filter((position) => position >= from && position <= to).length;
    const tokens = inView * LETTER <= place.clientWidth - 70;
    if (tokens === tokensShown) return;
    tokensShown = tokens;
    Plotly.relayout("head-profile", tokens ? {
      "xaxis2.tickmode": "array", "xaxis2.tickvals": profile.positions, "xaxis2.ticktext": profile.ticks,
      "xaxis2.tickangle": -90, "xaxis2.tickfont.size": 9,
    } : {
      "xaxis2.tickmode": "auto", "xaxis2.tickangle": 0, "xaxis2.tickfont.size": 13,
    });
  }

  function showScale(button) {
    const log = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(log));
    Plotly.relayout("head-profile", log
      ? { "yaxis.type": "log", "yaxis.range": [-4, 0.05], "yaxis2.type": "log", "yaxis2.autorange": true }
      : { "yaxis.type": "linear", "yaxis.range": [0, 1], "yaxis2.type": "linear", "yaxis2.autorange": true });
  }

  /** Rows of what a figure shows. */
  const tables = {
    "sink-map": () => {
      const { measure, z, cells } = mapped();
      return [["layer", "head", "position", measure],
        ...z.flatMap((values, l) => values.map((value, h) => [l, h, cells[l][h][0], value]))];
    },
    "battery": () => written(document.querySelector("#battery-section details table")),
    "head-profile": () => {
      const names = profile.columns, columns = names.map((name) => row(name, layer, head));
      return [["layer", "head", "position", "token", ...names],
        ...profile.positions.map((position, i) =>
          [layer, head, position, JSON.stringify(profile.tokens[i]), ...columns.map((column) => column[i])])];
    },
  };
  /** Rows of a table of the page. */
  const written = (place) => [...place.querySelectorAll("tr")]
    .map((line) => [...line.children].map((entry) => entry.textContent));
  const cell = (value) => typeof value === "string" ? `"${value.replaceAll('"', '""')}"`
    : Number.isFinite(value) ? String(value) : "";

  function download(id) {
    const text = tables[id]().map((line) => line.map(cell).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async function draw() {
    for (const { id, data, layout } of plots) {
      layout.dragmode = mouse.matches && id !== "sink-map" ? "zoom" : false;
      await Plotly.newPlot(id, data, layout, config);
      await Plotly.relayout(id, colours(layout));
    }
    find("position").append(option("strongest", "the strongest of each head"),
      ...profile.order.map((index) => option(index, named(index))));
    for (let l = 0; l < LAYERS; l++) find("layer").append(option(l, l));
    for (let h = 0; h < HEADS; h++) find("head").append(option(h, h));
    find("sink-map").on("plotly_click", ({ points: [{ x, y }] }) => choose(y, x));
    for (const id of ["measure", "position"]) find(id).addEventListener("change", showMap);
    for (const id of ["layer", "head"]) {
      find(id).addEventListener("change", () => choose(Number(find("layer").value), Number(find("head").value)));
    }
    find("log").addEventListener("click", (event) => showScale(event.currentTarget));
    for (const button of document.querySelectorAll("[data-csv]")) {
      button.addEventListener("click", () => download(button.dataset.csv));
    }
    for (const button of document.querySelectorAll("[data-png]")) {
      button.addEventListener("click", () => Plotly.downloadImage(button.dataset.png,
        { format: "png", scale: 2, width: 1000, height: find(button.dataset.png).clientHeight,
          filename: button.dataset.png }));
    }
    showMap();
    choose(...profile.start);
    showTicks();
    find("head-profile").on("plotly_relayout", showTicks);
    new ResizeObserver(showTicks).observe(find("head-profile"));
  }

  scheme.addEventListener("change", () => {
    for (const { id, layout } of plots) Plotly.relayout(id, colours(layout));
  });
  draw();
})();
