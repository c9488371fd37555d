"use strict";

/* What the page lets its reader explore. Data come from the element #explored; names in them are text, never markup. */

const data = JSON.parse(document.getElementById("explored").textContent);
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const [RAISES, LOWERS] = ["#D55E00", "#56B4E9"]; // both are seen on black and on grey
const BLUE_RED = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"];
const DIVERGING = BLUE_RED.map((colour, i) => [i / (BLUE_RED.length - 1), colour]);
const SIMULATED = { text: "simulated", xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right", yanchor: "bottom", showarrow: false };
const DARK = matchMedia("(prefers-color-scheme: dark)");
const drawings = [];

const byId = (id) => document.getElementById(id);
/* Plotly takes some tags in its texts for markup: a name from a stranger must not be taken so. */
const plain = (name) => String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const brief = (name) => (String(name).length > 18 ? `${String(name).slice(0, 17)}\u2026` : String(name));
function short(value) {
  if (value === null || Number.isNaN(value)) return "not measurable";
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

function colours() {
  const css = getComputedStyle(document.documentElement);
  return Object.fromEntries(["text", "quiet", "line", "page"].map((name) => [name, css.getPropertyValue(`--${name}`).trim()]));
}

/* Draw a plot with the page's colours; axes and the like are merged into what all plots share. */
function plot(element, traces, layout) {
  const { text, line, page } = colours();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, exponentformat: "power" };
  const annotations = [...(layout.annotations ?? []), ...(data.simulated ? [SIMULATED] : [])];
  const shared = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: page, bordercolor: text, font: { color: text } },
    margin: { l: 60, r: 15, t: 50, b: 45 },
    // on a touch screen a finger that drags scrolls the page
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
  const axes = Object.fromEntries(["xaxis", "yaxis"].map((name) => [name, { ...axis, ...layout[name] }]));
  return Plotly.react(element, traces, { ...shared, ...layout, ...axes, annotations }, { responsive: true, displayModeBar: false });
}

/* The colour of a condition; blue is too dark for a dark page. */
function colourOf(position) {
  const colour = COLOURS[position % COLOURS.length];
  return DARK.matches && colour === "#0072B2" ? "#4aa3df" : colour;
}

function drawing(draw) {
  drawings.push(draw);
  draw();
}

function fill(select, labels) {
  labels.forEach((label, value) => select.add(new Option(label, value)));
}

/* ------------------------------------------------------------------------------------------------ errors of each run */

function errors({ runs, conditions, measures }) {
  const select = byId("errors-measure");
  fill(select, measures.map((measure) => measure.label));
  const names = [...new Set(conditions)];
  const few = runs.length <= 12;
  function draw() {
    const measure = measures[select.value];
    const traces = names.map((name, i) => {
      const shown = runs.map((_, run) => run).filter((run) => conditions[run] === name);
      return {
        type: "scatter", mode: "markers", name: plain(name),
        x: shown.map((run) => run + 1), y: shown.map((run) => measure.values[run]),
        marker: { color: colourOf(i), size: 9, symbol: i },
        text: shown.map((run) => `run ${plain(runs[run])}<br>${plain(conditions[run])}`),
        hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>",
      };
    });
    const ticks = few ? { tickvals: runs.map((_, run) => run + 1), ticktext: runs.map((name) => plain(brief(name))) } : {};
    plot("errors-plot", traces, {
      height: 320, showlegend: true,
      xaxis: { title: { text: few ? "run" : "run, in the order of the session" }, ...ticks },
      yaxis: { title: { text: measure.label }, rangemode: measure.label.includes("explained") ? "normal" : "tozero" },
    });
  }
  select.addEventListener("change", draw);
  drawing(draw);
}

/* -------------------------------------------------------------------------------------------------------------- movie */

function movie(clips) {
  const [run, slider, play, said] = ["run", "frame", "play", "said"].map((name) => byId(`movie-${name}`));
  const panels = { frame: "observed", reconstruction: "reconstruction", residual: "residual" };
  const strips = clips.map((clip) => Object.fromEntries(Object.entries(clip.strips).map(([name, source]) => {
    const image = new Image();
    image.onload = draw;
    image.src = source;
    return [name, image];
  })));
  let timer = null;

  function draw() {
    const clip = clips[run.value];
    const at = Number(slider.value);
    for (const [name, image] of Object.entries(strips[run.value])) {
      const canvas = byId(`movie-${panels[name]}`);
      canvas.width = clip.width;
      canvas.height = clip.height;
      if (image.complete && image.naturalWidth) {
        canvas.getContext("2d").drawImage(image, 0, at * clip.height, clip.width, clip.height, 0, 0, clip.width, clip.height);
      }
    }
    const time = clip.rate ? `, ${(clip.frames[at] / clip.rate).toFixed(2)} s` : "";
    said.textContent = `Frame ${clip.frames[at]}${time} of run ${clip.run}, ${clip.condition}${data.simulated ? " (simulated)" : ""}`;
    slider.setAttribute("aria-valuetext", said.textContent);
    byId("movie-scale").textContent =
      `Frame and reconstruction: black is 0, white ${short(clip.top)} of the session's range. ` +
      `Difference: red is +${short(clip.spread)} (the frame is brighter), blue -${short(clip.spread)}. ` +
      "These pictures are compressed: take numbers from results.nc.";
  }

  function choose() {
    slider.max = clips[run.value].frames.length - 1;
    slider.value = 0;
    draw();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      slider.value = (Number(slider.value) + 1) % (Number(slider.max) + 1);
      draw();
    }, 150);
  });
  fill(run, clips.map((clip) => `${clip.run}, ${clip.condition}`));
  run.addEventListener("change", choose);
  slider.addEventListener("input", draw);
  choose();
}

/* ------------------------------------------------------------------------------------------------------------ network */

function network({ image, extent, row, column, order, conditions }) {
  const [condition, lag, sign, own, strength, said] =
    ["condition", "lag", "sign", "own", "strength", "said"].map((name) => byId(`network-${name}`));
  const place = (latent) => `(${row[latent]}, ${column[latent]})`;
  fill(condition, conditions.map((one) => `${one.name} (${counted(one.n_runs, "run")})`));
  fill(lag, ["all", ...Array.from({ length: order }, (_, k) => (k === 0 ? "1 frame" : `${k + 1} frames`))]);

  /* Edges that pass every filter but that of strength, the strongest first. */
  function candidates() {
    const edges = conditions[condition.value];
    return edges.coef
      .map((coef, i) => ({ coef, lag: edges.lag[i], source: edges.source[i], target: edges.target[i], runs: edges.runs[i] }))
      .filter((edge) => own.checked || edge.source !== edge.target)
      .filter((edge) => lag.value === "0" || edge.lag === Number(lag.value))
      .filter((edge) => sign.value === "0" || Math.sign(edge.coef) === Number(sign.value))
      .sort((a, b) => Math.abs(b.coef) - Math.abs(a.coef));
  }

  /* Small coefficients are many: the slider is finer there. */
  const threshold = (limit) => limit * (strength.value / 100) ** 2;
  const describe = (edge, edges) =>
    `${place(edge.source)} to ${place(edge.target)}, lag ${edge.lag}<br>coefficient ${short(edge.coef)}, in ${edge.runs} of ${counted(edges.n_runs, "run")}`;

  /* An arrow is bent, so that there and back can be told apart. */
  function bend(edge) {
    const [x0, y0, x1, y1] = [column[edge.source], row[edge.source], column[edge.target], row[edge.target]];
    return [(x0 + x1) / 2 - 0.12 * (y1 - y0), (y0 + y1) / 2 + 0.12 * (x1 - x0)];
  }

  function traces(shown, limit, edges) {
    const groups = [];
    for (const [of, name, colour] of [[1, "raises", RAISES], [-1, "lowers", LOWERS]]) {
      for (const [low, high, width] of [[0, 1 / 3, 1.2], [1 / 3, 2 / 3, 2.4], [2 / 3, Infinity, 3.6]]) {
        const members = shown.filter((edge) => {
          const size = Math.abs(edge.coef) / limit;
          return Math.sign(edge.coef) === of && size >= low && size < high && edge.source !== edge.target;
        });
        groups.push({
          type: "scatter", mode: "lines+markers", name, hoverinfo: "skip", showlegend: false,
          x: members.flatMap((edge) => [column[edge.source], bend(edge)[0], column[edge.target], null]),
          y: members.flatMap((edge) => [row[edge.source], bend(edge)[1], row[edge.target], null]),
          line: { color: colour, width, shape: "spline" },
          marker: { symbol: "arrow", angleref: "previous", color: colour, line: { width: 0 }, size: members.flatMap(() => [0, 0, 9 + 1.5 * width, 0]) },
        });
      }
    }
    const size = (edge) => 10 + (8 * Math.abs(edge.coef)) / limit;
    const loops = shown.filter((edge) => edge.source === edge.target);
    groups.push({
      type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false,
      x: loops.map((edge) => column[edge.source]), y: loops.map((edge) => row[edge.source]),
      marker: { symbol: "circle-open", size: loops.map(size), line: { width: 2 }, color: loops.map((edge) => (edge.coef > 0 ? RAISES : LOWERS)) },
    });
    // what is hovered over: the middle of each arrow, or the circle
    const middle = (edge) => (edge.source === edge.target ? [column[edge.source], row[edge.source]] : bend(edge));
    groups.push({
      type: "scatter", mode: "markers", name: "edges", showlegend: false,
      x: shown.map((edge) => middle(edge)[0]), y: shown.map((edge) => middle(edge)[1]),
      text: shown.map((edge) => describe(edge, edges)), hovertemplate: "%{text}<extra></extra>",
      marker: { size: 12, color: "rgba(0,0,0,0)" },
    });
    return groups;
  }

  function list(shown, edges) {
    const rows = shown.slice(0, 10).map((edge) => {
      const cells = [place(edge.source), place(edge.target), edge.lag, short(edge.coef), `${edge.runs} of ${edges.n_runs}`];
      const line = document.createElement("tr");
      cells.forEach((cell, i) => {
        const element = line.appendChild(document.createElement("td"));
        element.textContent = cell;
        element.classList.toggle("text", i < 2);
      });
      return line;
    });
    byId("network-table").tBodies[0].replaceChildren(...rows);
  }

  function draw() {
    const edges = conditions[condition.value];
    const all = candidates();
    const limit = Math.max(...all.map((edge) => Math.abs(edge.coef)), Number.MIN_VALUE);
    const shown = all.filter((edge) => Math.abs(edge.coef) >= threshold(limit));
    const held = edges.coef.length < edges.n_edges ? `; this page has the largest of ${edges.n_edges.toLocaleString("en")}` : "";
    said.textContent = `${shown.length.toLocaleString("en")} of ${counted(all.length, "coupling")} shown: |coefficient| at least ${short(threshold(limit))}${held}`;
    strength.setAttribute("aria-valuetext", said.textContent);
    const [left, right, bottom, top] = extent;
    const element = byId("network-plot");
    const width = Math.min(element.clientWidth || 600, 700);
    plot(element, traces(shown, limit, edges), {
      height: Math.min(Math.max((width * (bottom - top)) / (right - left), 260), 720) + 60,
      margin: { l: 55, r: 10, t: 10, b: 45 },
      hovermode: "closest",
      xaxis: { title: { text: "column (input pixels)" }, range: [left, right], showgrid: false, zeroline: false, constrain: "domain" },
      yaxis: { title: { text: "row (input pixels)" }, range: [bottom, top], showgrid: false, zeroline: false, scaleanchor: "x", constrain: "domain" },
      images: [{ source: image, xref: "x", yref: "y", x: left, y: top, sizex: right - left, sizey: bottom - top, sizing: "stretch", layer: "below" }],
    });
    list(shown, edges);
  }

  /* At first some sixty, which can still be told apart. */
  function begin() {
    const all = candidates();
    const last = Math.abs(all[Math.min(60, all.length) - 1]?.coef ?? 0);
    strength.value = all.length > 60 ? Math.ceil(100 * Math.sqrt(last / Math.abs(all[0].coef))) : 0;
  }

  [condition, lag, sign, own].forEach((control) => control.addEventListener("change", draw));
  strength.addEventListener("input", draw);
  begin();
  drawing(draw);
}

/* --------------------------------------------------------------------------------------------------------------- maps */

function unpack({ shape: [height, width], float32 }) {
  const bytes = Uint8Array.from(atob(float32), (character) => character.charCodeAt(0));
  const values = new Float32Array(bytes.buffer);
  return Array.from({ length: height }, (_, i) => values.subarray(i * width, (i + 1) * width));
}

function maps({ row, column, latents, unit, panels }) {
  const said = byId("maps-said");
  const inputs = [byId("maps-row"), byId("maps-column")];
  const shown = panels.map((panel) => ({ ...panel, z: unpack(panel.values), p: panel.pvalue && unpack(panel.pvalue) }));
  const latentAt = (i, j) => {
    const down = Math.floor((i * latents.index.length) / row.length);
    return latents.index[down][Math.floor((j * latents.index[down].length) / column.length)];
  };
  const where = (i, j) => `latent ${latentAt(i, j)} at (${latents.row[latentAt(i, j)]}, ${latents.column[latentAt(i, j)]})`;
  const places = row.map((_, i) => column.map((_, j) => where(i, j)));

  function read(i, j) {
    const values = shown.map((panel) => `${panel.name} ${short(panel.z[i][j])}${panel.p ? ` (p = ${short(panel.p[i][j])})` : ""}`);
    said.textContent = `Row ${row[i]}, column ${column[j]}, ${places[i][j]}: ${values.join("; ")}`;
  }
  const nearest = (centres, value) => centres.reduce((best, centre, i) => (Math.abs(centre - value) < Math.abs(centres[best] - value) ? i : best), 0);

  const elements = shown.map((panel) => {
    const element = byId("maps-plots").appendChild(document.createElement("div"));
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `Map: ${panel.title}. Row and column above read it.`);
    return element;
  });

  function draw() {
    shown.forEach((panel, n) => {
      const text = panel.p ? places.map((line, i) => line.map((place, j) => `${place}<br>p = ${short(panel.p[i][j])}`)) : places;
      const traces = [{
        type: "heatmap", x: column, y: row, z: panel.z, text,
        colorscale: panel.p ? DIVERGING : "Viridis", zmin: panel.low, zmax: panel.high,
        colorbar: { thickness: 12, title: { text: unit, side: "right" } },
        hovertemplate: "row %{y}, column %{x}<br>%{text}<br>value %{z:.3g}<extra></extra>",
      }];
      if (panel.significant) {
        traces.push({
          type: "contour", x: column, y: row, showscale: false, hoverinfo: "skip", name: `p <= ${panel.level}`,
          // of the mask, not of p: the outline runs between the pixels
          z: panel.p.map((line) => Array.from(line, (p) => Number(p <= panel.level))),
          contours: { coloring: "none", start: 0.5, end: 0.5, size: 1 }, line: { color: "#009E73", width: 2.5 },
        });
      }
      const width = elements[n].clientWidth || 320;
      plot(elements[n], traces, {
        title: { text: plain(panel.title), font: { size: 14 } },
        height: Math.min(Math.max(((width - 130) * row.length) / column.length, 200), 560) + 90,
        margin: { l: 55, r: 10, t: 40, b: 45 },
        xaxis: { title: { text: "column (input pixels)" }, constrain: "domain", showgrid: false, zeroline: false },
        yaxis: { title: { text: "row (input pixels)" }, autorange: "reversed", scaleanchor: "x", constrain: "domain", showgrid: false, zeroline: false },
      });
    });
  }

  drawing(draw);
  elements.forEach((element) => element.on("plotly_hover", ({ points: [point] }) => {
    const [i, j] = [nearest(row, point.y), nearest(column, point.x)];
    [inputs[0].value, inputs[1].value] = [row[i], column[j]];
    read(i, j);
  }));
  [row, column].forEach((centres, n) => {
    inputs[n].min = Math.floor(centres[0]);
    inputs[n].max = Math.ceil(centres[centres.length - 1]);
    inputs[n].value = centres[Math.floor(centres.length / 2)];
    inputs[n].step = "any";
  });
  const readInputs = () => read(nearest(row, Number(inputs[0].value)), nearest(column, Number(inputs[1].value)));
  inputs.forEach((input) => input.addEventListener("input", readInputs));
  readInputs();
}

/* ------------------------------------------------------------------------------------------------------------- curves */

function curves({ penalty, chosen, measures, runs }) {
  const line = { type: "line", x0: chosen, x1: chosen, y0: 0, y1: 1, yref: "paper" };
  const [active, explained, heldout] = measures;
  function traces(measure, dash, floor) {
    const seen = new Set();
    return runs.map((run) => {
      const first = !seen.has(run.condition);
      seen.add(run.condition);
      const values = run.values[measure];
      return {
        type: "scatter", mode: "lines+markers", x: penalty, y: floor ? values.map((value) => Math.max(value, floor)) : values,
        name: plain(floor ? run.condition : `${run.condition}, ${measures[measure].split(", ")[1]}`),
        legendgroup: run.condition + measure, showlegend: first,
        line: { color: colourOf(run.colour), dash, width: 1.6 }, marker: { size: 6, symbol: dash === "solid" ? "circle" : "circle-open" },
        text: values.map((value) => `run ${plain(run.run)}, ${plain(run.condition)}<br>${measures[measure]}: ${short(value)}`),
        hovertemplate: "%{text}<br>penalty %{x:.3g}<extra></extra>",
      };
    });
  }
  const xaxis = { title: { text: "penalty" }, type: "log", dtick: 1, minor: { ticks: "outside" } };
  drawing(() => {
    const mark = { ...line, line: { color: colours().quiet, dash: "dash", width: 1 } };
    const note = { x: Math.log10(chosen), y: 1, yref: "paper", yanchor: "top", xanchor: "left", text: "chosen", showarrow: false };
    const decades = [1, 10, 100, 1e3, 1e4, 1e5, 1e6];
    plot("curves-active", traces(0, "solid", 0.5), {
      height: 340, shapes: [mark], annotations: [note], showlegend: true,
      xaxis, yaxis: { title: { text: active }, type: "log", tickvals: [0.5, ...decades], ticktext: ["none", ...decades.map((n) => n.toLocaleString("en"))] },
    });
    plot("curves-explained", [...traces(1, "solid"), ...traces(2, "dot")], {
      height: 380, shapes: [mark], annotations: [note], showlegend: true,
      xaxis, yaxis: { title: { text: "share of variance explained" } },
    });
  });
}

/* --------------------------------------------------------------------------------------------------- tables and texts */

function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") !== "ascending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent;
      const compare = (a, b) => (Number(key(a)) - Number(key(b)) || key(a).localeCompare(key(b), "en", { numeric: true }));
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
    });
  });
}

function copied(element) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const text = element.innerText;
  element.append(button);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(element);
      button.textContent = "Selected: copy it with Ctrl+C";
    }
  });
}

document.documentElement.classList.add("scripted");
document.querySelectorAll("table[data-sortable]").forEach(sortable);
document.querySelectorAll(".copied").forEach(copied);
errors(data.errors);
if (data.movies.length) movie(data.movies);
network(data.network);
maps(data.maps);
if (data.curves) curves(data.curves);
DARK.addEventListener("change", () => drawings.forEach((draw) => draw()));
