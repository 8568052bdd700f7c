(() => {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; text never becomes markup. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "text", "title", "line", "polyline", "polygon", "circle"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Data files are scripts, because a page opened from disk cannot use fetch. */
const waiting = new Map(), arrived = new Map();
window.refexpPart = (name, content) => {
  arrived.set(name, content);
  for (const then of waiting.get(name) ?? []) then(content);
  waiting.delete(name);
};
function part(name, then) {
  if (arrived.has(name)) return then(arrived.get(name));
  if (waiting.has(name)) return void waiting.get(name).push(then);
  waiting.set(name, [then]);
  document.head.append(make("script", { src: `report/${name}.js` }));
}

/* Tables */
for (const table of $$("table.sortable")) {
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-sort]");
    if (!button) return;
    const head = button.closest("th"), column = head.cellIndex, body = table.tBodies[0];
    const last = head.getAttribute("aria-sort");
    const how = last ? (last === "ascending" ? "descending" : "ascending") : button.dataset.sort;
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return numbers ? x - y : x.localeCompare(y, undefined, { numeric: true });
    };
    const rows = [...body.rows].sort((a, b) => (how === "ascending" ? compare(a, b) : compare(b, a)));
    for (const other of $$("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", how);
    body.append(...rows);
  });
}

/* Masks or boxes */
function showKind(kind) {
  for (const block of $$("main [data-kind]")) block.hidden = block.dataset.kind !== kind;
}
for (const radio of $$("input[name=kind]")) radio.addEventListener("change", () => showKind(radio.value));
if (document.body.dataset.kind) showKind($("input[name=kind]:checked")?.value ?? document.body.dataset.kind);

/* The ticks of a y axis for the values of these series, at most six: from 0 to 1, or close around the values (fit). */
function yTicks(series, fit) {
  if (!fit) return [0, 0.25, 0.5, 0.75, 1];
  const ends = series.flatMap(([, points]) => points.flatMap(([, y, off]) => [y - (off ?? 0), y + (off ?? 0)]));
  const low = Math.max(0, Math.min(...ends)), high = Math.min(1, Math.max(...ends));
  for (const per of [200, 100, 50, 20, 10, 5]) {
    const first = Math.floor(low * per), last = Math.max(Math.ceil(high * per), first + 1);
    if (last - first <= 5) return Array.from({ length: last - first + 1 }, (_, i) => (first + i) / per);
  }
}

/* Charts. series: [name, points [x, y, deviation or none], text, dashed]. ticks: [x, label]. y is in [0, 1].
   Without lines, the x axis has names, and the series are drawn side by side. mark: an x to point out. fit: yTicks. */
function chart(place, series, { x: xName, y: yName, ticks, log = false, lines = true, mark = null, fit = false }) {
  const W = Math.min(520, document.documentElement.clientWidth - 30), H = 120 + 0.3 * W;
  const [left, right, top, bottom] = [54, 12, 10, 40];
  const scale = log ? Math.log : (value) => value, pad = lines ? 0 : 0.5;
  const [low, high] = [scale(ticks[0][0]) - pad, scale(ticks[ticks.length - 1][0]) + pad];
  const px = (value) => left + ((scale(value) - low) / (high - low || 1)) * (W - left - right);
  const heights = yTicks(series, fit), [floor, ceiling] = [heights[0], heights[heights.length - 1]];
  const py = (value) => H - bottom - ((value - floor) / (ceiling - floor)) * (H - top - bottom);
  const label = `${yName} over ${xName}: ${series.map(([name]) => name).join(", ")}`;
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, style: `max-width:${W}px`, role: "img", "aria-label": label });
  for (const value of heights) {
    svg.append(make("line", { class: "grid", x1: left, x2: W - right, y1: py(value), y2: py(value) }));
    svg.append(make("text", { x: left - 8, y: py(value) + 4, "text-anchor": "end" }, String(+(100 * value).toFixed(1))));
  }
  for (const [value, text] of ticks) {
    svg.append(make("text", { x: px(value), y: H - bottom + 18, "text-anchor": "middle" }, text));
  }
  svg.append(make("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, xName));
  const middle = (top + H - bottom) / 2;
  svg.append(make("text", { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, "text-anchor": "middle" }, yName));
  if (mark !== null) svg.append(make("line", { class: "mark", x1: px(mark), x2: px(mark), y1: py(floor), y2: py(ceiling) }));
  const legend = make("ul", { class: "legend" });
  const corners = (points) => points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
  series.forEach(([name, measured, text, dashed], i) => {
    const shift = lines ? 0 : (i - (series.length - 1) / 2) * 0.15;
    const points = measured.map(([x, y, off]) => [x + shift, y, off ?? 0]);
    const classes = `c${i % 4}${dashed || i > 3 ? " dashed" : ""}`;
    const band = [...points.map(([x, y, off]) => [x, y + off]), ...points.map(([x, y, off]) => [x, y - off]).reverse()];
    if (lines && points.some(([, , off]) => off)) svg.append(make("polygon", { class: `band ${classes}`, points: corners(band) }));
    if (lines) svg.append(make("polyline", { class: `line ${classes}`, points: corners(points) }));
    else for (const [x, y, off] of points) svg.append(make("line", { class: `line ${classes}`, x1: px(x), x2: px(x), y1: py(y - off), y2: py(y + off) }));
    if (points.length < 20) for (const [x, y] of points) svg.append(make("circle", { class: `line ${classes}`, cx: px(x), cy: py(y), r: 3 }));
    legend.append(make("li", {}, make("i", { class: `swatch c${i % 4}` }), `${name} `, make("b", {}, text ?? "")));
  });
  place.replaceChildren(svg, legend);
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
function drawCurves(kind, curves) {
  const series = curves.map(([name, values]) => [
    name, values.map((value, i) => [i / (values.length - 1), value / 1000]), (mean(values) / 10).toFixed(1),
  ]);
  const place = $(`.curve[data-of="${kind}"]`);
  if (series.length) chart(place, series, { x: "recall, %", y: "precision, %", ticks: [0, 0.25, 0.5, 0.75, 1].map((value) => [value, String(100 * value)]) });
  else place.replaceChildren(make("p", { class: "quiet" }, "This class has no instances to evaluate."));
}
for (const select of $$("select[data-curves]")) {
  const kind = select.dataset.curves;
  const draw = () => {
    if (select.value === "") return drawCurves(kind, data.curves[kind]);
    part(`curves-${kind}`, (all) => drawCurves(kind, all[select.value]));
  };
  select.addEventListener("change", draw);
  draw();
}

/* Precision, recall and F1 by score. counts: right and false detections at each score, and the number of instances. */
const SCORES = Array.from({ length: 101 }, (_, i) => i / 100);
function measure([right, wrong, instances], i) {
  const found = right[i] + wrong[i];
  return { precision: found ? right[i] / found : null, recall: right[i] / instances, F1: 2 * right[i] / (found + instances) };
}
function drawScores(kind, counts, score) {
  const place = $(`[data-by-score="${kind}"]`), words = $(`[data-counts="${kind}"]`), i = Math.round(100 * score);
  $(`input[data-threshold="${kind}"] + output`).textContent = score.toFixed(2);
  if (!counts[2]) {
    words.textContent = "";
    return place.replaceChildren(make("p", { class: "quiet" }, "This class has no instances to evaluate."));
  }
  const all = SCORES.map((_, j) => measure(counts, j)), percent = (value) => (value === null ? "-" : (100 * value).toFixed(1));
  const series = ["precision", "recall", "F1"].map((name) => [
    name, SCORES.map((x, j) => [x, all[j][name]]).filter(([, y]) => y !== null), percent(all[i][name]),
  ]);
  chart(place, series, { x: "lowest score that counts", y: "precision, recall, F1, %", ticks: [0, 0.25, 0.5, 0.75, 1].map((value) => [value, String(value)]), mark: score });
  words.textContent = `${counts[0][i]} right, ${counts[1][i]} false, ${counts[2] - counts[0][i]} missed, at IoU .5.`;
}
for (const select of $$("select[data-scores]")) {
  const kind = select.dataset.scores, slider = $(`input[data-threshold="${kind}"]`), { all, best } = data.scores[kind];
  const draw = () => {
    if (select.value === "") return drawScores(kind, all, +slider.value);
    part(`scores-${kind}`, (counts) => drawScores(kind, counts[select.value], +slider.value));
  };
  const choose = () => {
    slider.value = Math.floor(100 * (best[select.value === "" ? 0 : +select.value + 1] ?? 0.5)) / 100;
    draw();
  };
  slider.addEventListener("input", draw);
  select.addEventListener("change", choose);
  choose();
}
for (const place of $$("[data-chart]")) {
  const { series, axes } = data.charts[place.dataset.chart];
  chart(place, series, axes);
}

/* Gallery */
const cards = $$(".card");
if (!cards.length) return;
const controls = { truth: $("#truth"), score: $("#score"), class: $("#class"), verdict: $("#verdict"), color: $("#color"), empty: $("#empty") };
const runs = $$("#layers [data-run]");
const dialog = $("#large");
let open = null, chosen = null;

const coloring = () => controls.color?.value ?? "class";
function tint(item) {
  if (coloring() === "class") return data.colors[item.c];
  return coloring() === "run" && item.s !== undefined ? data.runs[item.r] : data.judgements[item.j].color;
}
function visible(item, truth) {
  if (controls.class.value !== "" && item.c !== +controls.class.value) return false;
  if (controls.verdict && controls.verdict.value !== "" && item.j !== +controls.verdict.value) return false;
  return truth ? controls.truth.checked : runs[item.r ?? 0].checked && item.s >= +controls.score.value;
}
function describe(item, truth) {
  const judged = item.j === undefined ? "" : `, ${data.judgements[item.j].name}`;
  return `${data.classes[item.c]}${truth ? "" : ` ${item.s.toFixed(2)}`}${judged}`;
}

/** Draws the visible layers of an image: highest score on top, ground truth above all. Returns the number of predictions. */
function paint(svg, layers, large) {
  const shapes = [];
  const add = (item, key, truth) => {
    if (key !== chosen && !visible(item, truth)) return;
    const color = tint(item);
    const path = make("path", { d: item.d, class: truth ? "truth" : "found", fill: color, stroke: color, "data-key": key });
    if (large && key === chosen) path.classList.add("on");
    path.append(make("title", {}, describe(item, truth)));
    shapes.push(path);
  };
  for (let i = layers.found.length - 1; i >= 0; i--) add(layers.found[i], `f${i}`, false);
  layers.truth.forEach((item, i) => add(item, `t${i}`, true));
  svg.replaceChildren(...shapes);
  if (large) write(svg, shapes, layers);
  return layers.found.filter((item) => visible(item, false)).length;
}

/** Draws labels: the selected layer first, then by score. Skips labels that would overlap. */
function write(svg, shapes, layers) {
  const size = svg.viewBox.baseVal.width / Math.max(26, svg.clientWidth / 13), taken = [];
  const order = shapes.filter((path) => path.classList.contains("found")).reverse();
  const first = shapes.find((path) => path.dataset.key === chosen);
  for (const path of first ? [first, ...order] : order) {
    const key = path.dataset.key, item = layers[key[0] === "t" ? "truth" : "found"][+key.slice(1)];
    const box = path.getBBox();
    const text = make("text", { x: box.x + 2, y: Math.max(size, box.y - size * 0.25), "font-size": size }, data.classes[item.c] + (item.s ? ` ${item.s.toFixed(2)}` : ""));
    svg.append(text);
    const at = text.getBBox();
    const meets = (other) => at.x < other.x + other.width && other.x < at.x + at.width && at.y < other.y + other.height && other.y < at.y + at.height;
    if (taken.some(meets)) text.remove();
    else taken.push(at);
  }
}
function paintCard(card) {
  part(`layers/${card.dataset.image}`, (layers) => {
    const shown = paint($("svg", card), layers, false);
    const count = $(".count", card);
    count.textContent = `${shown} of ${layers.total}`;
    count.title = `${shown} of ${layers.total} predictions drawn. This page holds the ${layers.found.length} with the highest scores.`;
  });
}
const near = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) near.add(target), paintCard(target);
    else near.delete(target);
  }
}, { rootMargin: "400px" });
cards.forEach((card) => watcher.observe(card));

/** Masks load when their picture is near the viewport. Printing needs all masks, so the rest loads when idle. */
const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 100));
function fetchAhead(image) {
  if (image < cards.length) part(`layers/${image}`, () => idle(() => fetchAhead(image + 1)));
}
window.addEventListener("load", () => idle(() => fetchAhead(0)));
window.addEventListener("beforeprint", () => cards.forEach(paintCard));

function key() {
  const place = $("#key");
  if (coloring() !== "class") {
    const rows = data.judgements.filter(({ change }) => change || coloring() === "error").map(({ name, color }) => [name, color]);
    place.replaceChildren(...rows.map(([name, color]) => make("li", {}, make("i", { class: "swatch", style: `background:${color}` }), name)));
    return;
  }
  const few = data.classes.length <= 24 ? data.classes : [];
  place.replaceChildren(...few.map((name, i) => make("li", {}, make("i", { class: "swatch", style: `background:${data.colors[i]}` }), name)));
}
/** What a card shows, known before its layers are loaded: class, verdict, best score and run. */
const entries = (text, names) => text.split(" ").filter(Boolean).map((entry) => Object.fromEntries(entry.split(":").map((value, i) => [names[i], +value])));
const shown = new Map(cards.map((card) => [card, { truth: entries(card.dataset.truth, "cj"), found: entries(card.dataset.found, "cjsr") }]));
function hides(card) {
  const { truth, found } = shown.get(card), finds = found.some((item) => visible(item, false));
  if (controls.empty.checked && finds) return true;
  const filtered = controls.class.value !== "" || controls.verdict?.value;
  return Boolean(filtered) && !finds && !truth.some((item) => visible(item, true));
}
let due = 0;
function update() {
  $("output[for=score]").textContent = (+controls.score.value).toFixed(2);
  for (const card of cards) card.hidden = hides(card);
  $("#none").hidden = cards.some((card) => !card.hidden);
  cancelAnimationFrame(due);
  due = requestAnimationFrame(() => {
    near.forEach(paintCard);
    if (open !== null) show(open, chosen);
  });
}
for (const control of [...runs, ...Object.values(controls)]) control?.addEventListener("input", () => (key(), update()));
/** Cards move in the document, so that the keyboard follows the same order. Images without the number come last. */
const number = (card) => (card.dataset.rank === "" ? NaN : +card.dataset.rank);
const best = (card) => Math.max(-1, ...shown.get(card).found.map((item) => item.s));
const orders = {
  file: (card) => +card.dataset.image, low: number, high: (card) => -number(card), score: (card) => -best(card),
};
$("#sort").addEventListener("input", ({ target }) => {
  const value = (card) => orders[target.value](card);
  const compare = (a, b) => isNaN(value(a)) - isNaN(value(b)) || value(a) - value(b) || a.dataset.image - b.dataset.image;
  $(".gallery").append(...[...cards].sort(compare));
});
key();
update();

/* Dialog with one enlarged image */
function show(image, wanted = null) {
  const card = cards[image], picture = $(".picture", dialog);
  if (open !== image) {
    const svg = $("svg", card).cloneNode(false);
    const img = make("img", { src: $("img", card).getAttribute("src"), alt: $("img", card).alt });
    picture.replaceChildren(img, svg);
    $("#large-name").textContent = $("img", card).alt;
  }
  [open, chosen] = [image, wanted];
  if (!dialog.open) {
    $("header", dialog).append($("#layers")); // keep the layer controls usable inside the dialog
    dialog.showModal();
  }
  part(`layers/${image}`, (layers) => {
    if (open !== image) return;
    paint($("svg", picture), layers, true);
    list(layers);
  });
}
function list(layers) {
  const place = $(".list", dialog), focused = document.activeElement?.dataset?.key;
  const rows = (items, name, truth) => items.map((item, i) => [item, `${name}${i}`, truth]).filter(([item, key]) => key === chosen || visible(item, truth));
  const block = (title, entries) => entries.length ? [make("h3", {}, title), make("ul", {}, ...entries.map(([item, key, truth]) => {
    const note = truth ? (item.j === undefined ? "" : data.judgements[item.j].name) : `${item.s.toFixed(2)} ${item.j === undefined ? "" : data.judgements[item.j].name}`;
    return make("li", {}, make("button", { type: "button", "data-key": key, "aria-pressed": key === chosen },
      make("i", { class: "swatch", style: `background:${tint(item)}` }), make("span", {}, data.classes[item.c]), make("small", {}, note)));
  }))] : [];
  place.replaceChildren(...block("Ground truth", rows(layers.truth, "t", true)), ...block("Predictions", rows(layers.found, "f", false)));
  $(`button[data-key="${focused}"]`, place)?.focus();
}
function step(by) {
  const order = $$(".card"), here = order.indexOf(cards[open]), count = order.length;
  const after = order.map((_, i) => order[(here + by * (i + 1) + count * count) % count]);
  const next = after.find((card) => !card.hidden);
  if (next) show(+next.dataset.image);
}
$(".gallery").addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (card && event.target.closest("button")) show(+card.dataset.image);
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-show]");
  if (!link) return;
  event.preventDefault();
  show(+link.getAttribute("href").slice("#image-".length), link.dataset.show);
});
dialog.addEventListener("click", (event) => {
  const button = event.target.closest("button"), key = event.target.closest("[data-key]")?.dataset.key;
  if (key) show(open, key === chosen ? null : key);
  else if (button?.dataset.step) step(+button.dataset.step);
  else if (button || event.target === dialog) dialog.close();
});
dialog.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && !event.target.matches("input, select")) event.preventDefault(), step(by);
});
dialog.addEventListener("close", () => {
  [open, chosen] = [null, null];
  $("#key").before($("#layers"));
});
})();
