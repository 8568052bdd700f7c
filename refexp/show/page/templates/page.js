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

/* Charts. series: [name, points [x, y, deviation or none], text, dashed]. ticks: [x, label]. y is in [0, 1].
   Without lines, the x axis has names, and the series are drawn side by side. */
function chart(place, series, { x: xName, y: yName, ticks, log = false, lines = true }) {
  const W = Math.min(520, document.documentElement.clientWidth - 30), H = 120 + 0.3 * W;
  const [left, right, top, bottom] = [36, 12, 10, 40];
  const scale = log ? Math.log : (value) => value, pad = lines ? 0 : 0.5;
  const [low, high] = [scale(ticks[0][0]) - pad, scale(ticks[ticks.length - 1][0]) + pad];
  const px = (value) => left + ((scale(value) - low) / (high - low || 1)) * (W - left - right);
  const py = (value) => H - bottom - value * (H - top - bottom);
  const label = `${yName} over ${xName}: ${series.map(([name]) => name).join(", ")}`;
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, style: `max-width:${W}px`, role: "img", "aria-label": label });
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(make("line", { class: "grid", x1: left, x2: W - right, y1: py(value), y2: py(value) }));
    svg.append(make("text", { x: left - 8, y: py(value) + 4, "text-anchor": "end" }, String(100 * value)));
  }
  for (const [value, text] of ticks) {
    svg.append(make("text", { x: px(value), y: H - bottom + 18, "text-anchor": "middle" }, text));
  }
  svg.append(make("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, xName));
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
for (const place of $$("[data-chart]")) {
  const { series, axes } = data.charts[place.dataset.chart];
  chart(place, series, axes);
}

/* Gallery */
const cards = $$(".card");
if (!cards.length) return;
const controls = { truth: $("#truth"), found: $("#found"), score: $("#score"), class: $("#class"), color: $("#color") };
const dialog = $("#large");
let open = null, chosen = null;

const byError = () => controls.color?.value === "error";
function tint(item) {
  if (!byError()) return data.colors[item.c];
  return data.judgements[item.j].color;
}
function visible(item, truth) {
  if (controls.class.value !== "" && item.c !== +controls.class.value) return false;
  return truth ? controls.truth.checked : controls.found.checked && item.s >= +controls.score.value;
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
  if (byError()) {
    const rows = data.judgements.map(({ name, color }) => [name, color]);
    place.replaceChildren(...rows.map(([name, color]) => make("li", {}, make("i", { class: "swatch", style: `background:${color}` }), name)));
    return;
  }
  const few = data.classes.length <= 24 ? data.classes : [];
  place.replaceChildren(...few.map((name, i) => make("li", {}, make("i", { class: "swatch", style: `background:${data.colors[i]}` }), name)));
}
/** Whether a card shows any layer of a class. */
function shows({ dataset }, label) {
  if (controls.truth?.checked && dataset.truth.split(" ").includes(label)) return true;
  const best = dataset.found.split(" ").find((entry) => entry.startsWith(`${label}:`));
  return controls.found.checked && best !== undefined && +best.split(":")[1] >= +controls.score.value;
}
let due = 0;
function update() {
  $("output[for=score]").textContent = (+controls.score.value).toFixed(2);
  for (const card of cards) card.hidden = controls.class.value !== "" && !shows(card, controls.class.value);
  $("#none").hidden = cards.some((card) => !card.hidden);
  cancelAnimationFrame(due);
  due = requestAnimationFrame(() => {
    near.forEach(paintCard);
    if (open !== null) show(open, chosen);
  });
}
for (const control of Object.values(controls)) control?.addEventListener("input", () => (key(), update()));
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
  const after = cards.map((_, i) => cards[(open + by * (i + 1) + cards.length * cards.length) % cards.length]);
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
