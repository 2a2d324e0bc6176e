"use strict";
// The explorer of a run. It reads the index and the sections of its own page, and needs no network.
document.documentElement.classList.add("js");
const STEP = 72;                    // pixels from one image of the strip to the next
const beside = {};                  // number -> section of an image as text, from a script beside the page
const on = { reverse: false, outlines: false, phase: false, raw: false, play: false };   // buttons that stay pressed
let index, order = [];              // of the run (see _page in report_page.py); numbers of images, as they are sorted and found
let view, panels;                   // the image that is shown, see show; name -> canvas, text, overlay
let sample = 0, pixel = null, split = 50, zoom = { z: 1, x: 0, y: 0 }, asked = 0, built = 0;
const $ = id => document.getElementById(id);
const digits = value => value === null ? "-" : String(Number(value.toPrecision(4)));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const url = path => path.split("/").map(encodeURIComponent).join("/");
const range = count => [...Array(count).keys()];
const metric = () => index.metrics.find(one => one.name === $("metric").value);

/** An element ("svg:tag": of a drawing) with attributes, listeners (functions), children or text. */
function el(tag, attributes = {}, ...children) {
  const [, svg, name] = tag.match(/^(svg:)?(.*)$/);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    made[typeof value === "function" ? "addEventListener" : "setAttribute"](key, value);
  made.append(...children);
  return made;
}

/** Mean, least and greatest over an image's samples; null: not known. */
function value(number, name) {
  const found = index.values[name][number];
  return typeof found === "number" ? [found, found, found] : found;
}

/** How bad a value is whose worst is the lowest, or the one furthest from a number; else the value itself. */
const badness = (mean, worst) => worst === "low" ? -mean : typeof worst === "number" ? Math.abs(mean - worst) : mean;

/** Order the images as the controls say. */
function sort() {
  const wanted = $("find").value.trim().toLowerCase(), chosen = metric();
  order = range(index.ids.length).filter(number => index.ids[number].toLowerCase().includes(wanted));
  if (chosen) {
    const bad = index.values[chosen.name].map(found => found === null ? -Infinity : badness([found].flat()[0], chosen.worst));
    order.sort((a, b) => (bad[a] === bad[b] ? a - b : bad[b] - bad[a]));
  }
  if (on.reverse) order.reverse();
  $("count").textContent = `${order.length} of ${index.ids.length} images`;
  $("rail").style.width = `${STEP * order.length}px`;
  $("strip").scrollLeft = 0;
  strip();
  chart();
}

/** The entries of the strip that are in view, and no others. */
function strip() {
  built = $("strip").scrollLeft;
  const first = Math.max(0, Math.floor(built / STEP) - 8), chosen = metric();
  const entries = order.slice(first, first + Math.ceil($("strip").clientWidth / STEP) + 16).map((number, at) => {
    const id = index.ids[number], label = chosen ? digits(value(number, chosen.name)?.[0] ?? null) : id;
    const src = index.thumbnails[number] || url(`images/${id}/${index.main}`);
    const entry = el("div", { role: "option", id: `t${number}`, title: id, click: () => show(number),
      "aria-label": chosen ? `${id}, ${chosen.label} ${label}` : id, "aria-setsize": order.length, "aria-posinset": first + at + 1,
      "aria-selected": view?.number === number },
      el("img", { src, alt: "", draggable: "false" }), label.length > 9 ? `…${label.slice(-8)}` : label);
    entry.style.left = `${STEP * (first + at)}px`;
    return entry;
  });
  $("rail").replaceChildren(...entries);
}
/** Go along the strip. */
const step = by => order.length && show(order[clamp(order.indexOf(view?.number) + by, 0, order.length - 1)]);

/** The section of an image, its pictures readable where that can be; null if there is none. */
async function section(number) {
  if (number < index.inside || number >= index.readable) return $(`i${number}`);
  const script = el("script", { src: `${index.beside}/${number}.js` });
  await new Promise(resolve => { script.onload = script.onerror = resolve; document.head.append(script); });
  script.remove();
  return beside[number] ? new DOMParser().parseFromString(beside[number], "text/html").querySelector("section") : $(`i${number}`);
}

/** Loaded pictures by name; what is not there is left out. */
async function pictures(number, part) {
  const sources = part ? [...part.querySelectorAll("img")].map(img => [img.dataset.name, img.getAttribute("src")])
    : index.pictures.map(name => [name, url(`images/${index.ids[number]}/${name}.png`)]);
  const loaded = await Promise.all(sources.map(([name, src]) => {
    const img = Object.assign(new Image(), { src });
    return img.decode().then(() => [name, img], () => null);
  }));
  return new Map(loaded.filter(Boolean));
}

/** RGBA of a picture; null where the browser lets no page read a file. */
function pixels(img) {
  const canvas = el("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  paint(canvas, img);
  try { return context.getImageData(0, 0, canvas.width, canvas.height).data; } catch { return null; }
}

async function show(number) {
  const mine = ++asked, part = await section(number), found = await pictures(number, part);
  if (mine !== asked) return;       // another image was asked for meanwhile
  const names = [...found.keys()].filter(name => /^sample_\d+$/.test(name));
  const { naturalWidth: width = 1, naturalHeight: height = 1 } = found.get(names[0]) || [...found.values()][0] || {};
  const all = names.map(name => pixels(found.get(name))), read = all.every(one => one?.length === 4 * width * height) ? all : [];
  view = { number, found, names, width, height, read, id: index.ids[number], complex: found.has("sample_000_phase") };
  view.truth = read.length && found.has("truth") ? pixels(found.get("truth")) : null;
  view.variance = read.length > 1 ? variance(read, view.complex ? 255 : 127.5) : null;
  sample = clamp(sample, 0, Math.max(0, names.length - 1));
  pixel = null;
  $("title").textContent = view.id;
  $("phase").hidden = !view.complex;
  $("outlines").hidden = !view.variance;
  $("table").replaceChildren(part?.querySelector(".wide, p")?.cloneNode(true) || brief(number));
  build();
  const at = STEP * order.indexOf(number), box = $("strip");
  if (at >= 0 && (at < box.scrollLeft || at + STEP > box.scrollLeft + box.clientWidth)) box.scrollLeft = at - box.clientWidth / 2;
  box.setAttribute("aria-activedescendant", `t${number}`);
  strip();
  chart();
}

/** The numbers of an image that has no section. */
function brief(number) {
  const told = ([mean, low, high]) => digits(mean) + (low < high ? ` (${digits(low)} to ${digits(high)})` : "");
  const known = index.metrics.filter(({ name }) => value(number, name));
  return el("p", {}, known.map(({ name, label }) => `${label} ${told(value(number, name))}`).join(", "));
}

/** Variance over samples, mean over channels; a unit of values is so many grey levels. */
function variance(read, unit) {
  const found = new Float32Array(read[0].length / 4), K = read.length;
  for (let at = 0; at < read[0].length; at++) {
    if (at % 4 === 3) continue;     // opacity
    let sum = 0, squares = 0;
    for (const one of read) { sum += one[at]; squares += one[at] ** 2; }
    found[at >> 2] += Math.max(0, squares - sum ** 2 / K) / (K - 1) / 3 / unit ** 2;
  }
  return found;
}

/** A map under a Gaussian window of a width in pixels. */
function smooth(map, width, height, window) {
  const radius = Math.ceil(3 * window), offsets = range(2 * radius + 1).map(i => i - radius);
  const weights = offsets.map(by => Math.exp(-by * by / (2 * window ** 2))), total = weights.reduce((a, b) => a + b);
  const pass = (from, place) => from.map((_, at) => offsets.reduce((sum, by, i) => sum + weights[i] * from[place(at, by)], 0) / total);
  const across = pass(map, (at, by) => at - at % width + clamp(at % width + by, 0, width - 1));
  return pass(across, (at, by) => clamp(Math.floor(at / width) + by, 0, height - 1) * width + at % width);
}

/** The map of an image's standard deviation, each pixel alone, in the colours of the bar. */
function rawStd() {
  const picture = new ImageData(view.width, view.height), bar = $("scale").querySelector("img"), colours = pixels(bar);
  view.variance.forEach((v, at) => {
    const level = Math.round((bar.naturalWidth - 1) * Math.sqrt(clamp(Math.sqrt(v) / index.range, 0, 1)));
    picture.data.set(colours.subarray(4 * level, 4 * level + 4), 4 * at);
  });
  return picture;
}

/** Outlines of the tenth of the pixels where samples differ most, and what they mean: [path, words]. */
function disagreement({ width, height }) {
  const window = Math.max(index.window, width / 64), map = smooth(view.variance, width, height, window), path = [];
  const sorted = map.slice().sort(), [middle, limit] = [0.5, 0.9].map(part => sorted[Math.floor(part * sorted.length)]);
  if (limit < 1.5 * middle) return ["", `Samples differ about equally everywhere: standard deviation ${digits(Math.sqrt(middle))}.`];
  for (let y = 0; y < height; y++)
    for (let x = 0, at = y * width; x < width; x++, at++) {
      if (x + 1 < width && map[at] > limit !== map[at + 1] > limit) path.push(`M${x + 1} ${y}v1`);
      if (y + 1 < height && map[at] > limit !== map[at + width] > limit) path.push(`M${x} ${y + 1}h1`);
    }
  return [path.join(""), "Outlined: the tenth of the pixels where samples differ most, standard deviation above " +
    `${digits(Math.sqrt(limit))} (window ${digits(window)} pixel).`];
}

/** Put a picture on a canvas. */
function paint(canvas, picture) {
  const size = { width: picture.naturalWidth || picture.width, height: picture.naturalHeight || picture.height };
  const context = Object.assign(canvas, size).getContext("2d");
  context[picture instanceof ImageData ? "putImageData" : "drawImage"](picture, 0, 0);
}

/** A panel: a picture that zooms with the others, and what stands under it. */
function panel(name, label, ...under) {
  const canvas = el("canvas", { role: "img" }), text = el("span", {}, label);
  const over = el("svg:svg", { viewBox: `0 0 ${view.width} ${view.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const pane = el("div", { class: "pane" }, canvas, over);
  pane.style.aspectRatio = `${view.width} / ${view.height}`;
  panels.set(name, { canvas, over, text });
  return el("figure", { "data-panel": name }, pane, el("figcaption", {}, text, ...under));
}

const button = (id, label) => el("button", { type: "button", id, click: toggle }, label);
const slider = (id, max, value, label, input) => el("input", { type: "range", id, min: 0, max, value, "aria-label": label, input });
const other = () => ["truth", "mean", "measurement"].find(name => view.found.has(name));   // what the sample is held against

/** Make the panels of the image that is shown. */
function build() {
  const { found, names } = view, figures = [], K = names.length;
  panels = new Map();
  const add = (name, ...rest) => found.has(name) && figures.push(panel(name, ...rest));
  add("measurement", "Measurement");
  add("operator", "Operator");
  const flipping = [button("play", "Play"), slider("flip", K - 1, sample, "Sample", event => flip(+event.target.value))];
  add(names[0], "Sample", ...(K > 1 ? flipping : []));
  add("truth", "Truth");
  add("mean", `Mean of ${K}`);
  const bar = $("scale").cloneNode(true);
  bar.removeAttribute("id");
  add("std", "", ...(view.variance ? [button("raw", "Raw")] : []), bar);
  if (K && other()) {
    const move = event => { split = event.target.value; refresh(); };
    figures.push(panel("split", "", slider("split", 100, split, "Where the two meet", move)));
    const layer = el("div", { class: "layer" }, el("canvas", { "aria-hidden": "true" })), rule = el("div", { class: "rule" });
    Object.assign(panels.get("split"), { layer, rule }).canvas.after(layer, rule);
  }
  $("panels").replaceChildren(...figures);
  $("panels").classList.toggle("coarse", view.width <= 128);
  refresh();
}

/** Draw all panels as the controls say. */
function refresh() {
  const { found, names } = view, K = names.length;
  const get = name => (on.phase && found.get(`${name}_phase`)) || found.get(name);
  const raw = on.raw && view.variance, alone = `each pixel alone, from 8-bit ${view.complex ? "magnitudes" : "pictures"}`;
  const texts = { [names[0]]: K > 1 ? `Sample ${sample} of 0 to ${K - 1}` : "Sample", split: `Sample ${sample} | ${other()}`,
    std: `Std of ${K}, ${raw ? alone : `smoothed by ${index.window} pixel`}` };
  for (const [name, { canvas, text, layer, rule }] of panels) {
    text.textContent = texts[name] || text.textContent;
    canvas.setAttribute("aria-label", `${text.textContent} of ${view.id}`);
    paint(canvas, name === "std" && raw ? rawStd() : get(/^sample|split/.test(name) ? names[sample] : name));
    if (!layer) continue;
    paint(layer.firstChild, get(other()));
    layer.style.clipPath = `inset(0 0 0 ${split}%)`;
    rule.style.left = `${split}%`;
  }
  if ($("flip")) $("flip").value = sample;
  for (const [name, pressed] of Object.entries(on)) $(name)?.setAttribute("aria-pressed", String(pressed));
  overlay();
}

/** Outlines and the pixel, over all panels. */
function overlay() {
  const edges = on.outlines && view.variance ? view.edges ||= disagreement(view) : null;
  for (const [name, { over }] of panels)
    if (!view.complex || !/measurement|operator/.test(name)) over.replaceChildren(...["halo", "line"].flatMap(kind => [
      ...(edges ? [el("svg:path", { d: edges[0], class: kind })] : []),
      ...(pixel ? [el("svg:rect", { x: pixel[0], y: pixel[1], width: 1, height: 1, class: kind })] : [])]));
  $("level").textContent = edges ? edges[1] : "";
  $("phased").hidden = !on.phase || !view.complex;
  readout();
}

/** Show another sample. */
function flip(k) {
  sample = (k + view.names.length) % (view.names.length || 1);
  refresh();
}

/** A button stays pressed, or comes up again. */
function toggle({ currentTarget: { id } }) {
  on[id] = !on[id];
  if (view) refresh();
}

/** Show z times enlarged, with the corner at (x, y) in units of a panel. */
function place(z, x, y) {
  zoom = { z, x: clamp(x, 1 - z, 0), y: clamp(y, 1 - z, 0) };
  for (const [name, number] of Object.entries(zoom)) $("panels").style.setProperty(`--${name}`, number);
  $("panels").classList.toggle("zoomed", z > 1);
  $("zoom").textContent = `${z.toFixed(1)}×`;
}

/** Zoom by steps; what is at (u, v) of a panel stays there. */
function magnify(steps, { u, v } = { u: 0.5, v: 0.5 }) {
  const z = clamp(zoom.z * 1.5 ** steps, 1, 1.5 ** 8);
  place(z, u - (u - zoom.x) * z / zoom.z, v - (v - zoom.y) * z / zoom.z);
}

/** What a pointer does in a panel: reads a pixel, drags, zooms. */
function pointed(event) {
  const pane = event.target.closest(".pane"), box = pane?.getBoundingClientRect();
  if (!pane || (event.type === "wheel" && !event.ctrlKey && !event.metaKey)) return;
  const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
  if (event.type === "wheel") event.preventDefault();
  if (/wheel|dblclick/.test(event.type)) magnify(event.deltaY > 0 ? -1 : 1, { u, v });
  else if (event.type === "pointermove" && event.buttons && zoom.z > 1)
    place(zoom.z, zoom.x + event.movementX / box.width, zoom.y + event.movementY / box.height);
  else point(Math.floor((u - zoom.x) / zoom.z * view.width), Math.floor((v - zoom.y) / zoom.z * view.height));
}

/** Choose a pixel. */
function point(x, y) {
  pixel = [clamp(x, 0, view.width - 1), clamp(y, 0, view.height - 1)];
  overlay();
}

/** All samples at the pixel as dots, their range, the truth. */
function readout() {
  const { read, truth, width, complex } = view, K = read.length;
  $("unreadable").hidden = K > 0;
  $("place").textContent = K ? "Point at a picture to see every sample's value there." : "";
  if (!K || !pixel) return $("values").replaceChildren();
  const at = 4 * (pixel[1] * width + pixel[0]), low = complex ? 0 : -1, W = $("values").clientWidth, left = 80, right = W - 16;
  const grey = [...read, ...(truth ? [truth] : [])].every(one => one[at] === one[at + 1] && one[at] === one[at + 2]);
  const number = byte => low + byte / 255 * (1 - low), across = v => left + (right - left) * (v - low) / (1 - low);
  const text = (x, y, words, anchor = "start") => el("svg:text", { x, y, "text-anchor": anchor }, words);
  const line = (x1, x2, y1, y2, kind) => el("svg:line", { x1, x2, y1, y2, class: kind });
  const rows = (grey ? [complex ? "magnitude" : "value"] : ["red", "green", "blue"]).map((name, channel) => {
    const y = 26 + 44 * channel, all = read.map(one => number(one[at + channel])), ends = [Math.min(...all), Math.max(...all)];
    const known = truth ? number(truth[at + channel]) : null, told = ends.map(v => v.toFixed(2)).slice(K > 1 ? 0 : 1).join(" to ");
    return el("svg:g", {}, text(0, y + 4, name), line(left, right, y, y, "axis"), line(across(ends[0]), across(ends[1]), y, y, "interval"),
      ...all.map((v, k) => el("svg:circle", { cx: across(v), cy: y, r: k === sample ? 6 : 3.5, class: k === sample ? "now" : "dot" })),
      ...(truth ? [line(across(known), across(known), y - 10, y + 10, "truth")] : []),
      text(right, y - 13, ` ${told}${truth ? `, truth ${known.toFixed(2)}` : ""}`, "end"));
  });
  const foot = 26 + 44 * rows.length, ticks = [low, (low + 1) / 2, 1].map(v => text(across(v), foot - 16, String(v), "middle"));
  const drawing = { viewBox: `0 0 ${W} ${foot}`, role: "img", "aria-label": rows.map(row => row.textContent).join("; ") };
  $("values").replaceChildren(el("svg:svg", drawing, ...rows, ...ticks));
  const share = Math.round(100 * (K - 1) / (K + 1));
  const upright = truth ? " Upright line: truth." : "";
  $("place").textContent = `Row ${pixel[1]}, column ${pixel[0]}. Dots: samples, a ring round sample ${sample}.${upright}` +
    (K > 1 ? ` Bar: least to greatest; of right samples it holds the truth with probability ${share} %.` : "");
}

function chart() {
  const chosen = metric() || index.metrics[0], canvas = $("chart");
  const found = chosen ? order.map(number => value(number, chosen.name)) : [];
  if (($("overview").hidden = !found.some(Boolean))) return;
  const measured = chosen.name === "residual" ? index.measured : [];
  const bands = order.map(number => measured[number] ? 1.96 / Math.sqrt(2 * measured[number]) : 0);
  const [low, high] = [...found.flatMap(one => one || []), ...bands.flatMap(b => b ? [1 - b, 1 + b] : [])]
    .reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [Infinity, -Infinity]);
  const [digit, power] = (high - low || Math.abs(high) || 1).toExponential().split("e");
  const tick = (digit < 2 ? 0.5 : digit < 5 ? 1 : 2) * 10 ** power;
  const bottom = Math.floor(low / tick) * tick, top = Math.ceil(high / tick + 0.01) * tick;
  const ratio = devicePixelRatio || 1, W = canvas.clientWidth, H = canvas.clientHeight, left = 64, base = H - 12;
  Object.assign(canvas, { width: W * ratio, height: H * ratio });
  const c = canvas.getContext("2d"), size = order.length > 400 ? 1 : 3.5;
  const colour = name => getComputedStyle(canvas).getPropertyValue(name).trim();
  const gap = Math.min(64, (W - left) / order.length), x = at => left + gap * (at + 0.5);
  const y = v => base - (base - 12) * (v - bottom) / (top - bottom);
  c.scale(ratio, ratio);
  Object.assign(c, { font: "12px system-ui, sans-serif", textBaseline: "middle", textAlign: "right" });
  Object.assign(c, { fillStyle: colour("--quiet"), strokeStyle: colour("--line") });
  for (let v = bottom; v < top + tick / 2; v += tick) {
    c.fillText(Number(v.toPrecision(6)), left - 8, y(v));
    c.strokeRect(left, y(v), gap * order.length, 0);
  }
  Object.assign(c, { fillStyle: colour("--accent"), strokeStyle: colour("--text"), globalAlpha: 0.18 });
  bands.forEach((b, at) => b && c.fillRect(x(at) - gap / 2, y(1 + b), gap, y(1 - b) - y(1 + b)));
  c.globalAlpha = 1;
  for (const [at, one] of found.entries())
    if (one) for (const [half, from, to] of [[0.5, y(one[2]), y(one[1])], [size, y(one[0]) - size, y(one[0]) + size]])
      c.fillRect(x(at) - half, from, 2 * half, to - from);
  const now = found[order.indexOf(view?.number)];
  if (now) c.strokeRect(x(order.indexOf(view.number)) - 7, y(now[0]) - 7, 14, 14);
  $("charted").textContent = `${chosen.label} over images`;
  $("band").hidden = !bands.some(Boolean);
  canvas.setAttribute("aria-label", `${chosen.label} of ${found.filter(Boolean).length} images, ${digits(low)} to ${digits(high)}`);
  canvas.onclick = event => show(order[clamp(Math.floor((event.offsetX - left) / gap), 0, order.length - 1)]);
}

function keys(event) {
  if (!view || event.altKey || event.ctrlKey || event.metaKey || /INPUT|SELECT|SUMMARY/.test(event.target.tagName)) return;
  const [x, y] = pixel || [view.width >> 1, view.height >> 1], along = event.currentTarget.id === "strip";
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const does = { ArrowLeft: () => along ? step(-1) : flip(sample - 1), ArrowRight: () => along ? step(1) : flip(sample + 1),
    Home: along && (() => step(-Infinity)), End: along && (() => step(Infinity)), n: () => step(1), p: () => step(-1),
    "+": () => magnify(1), "-": () => magnify(-1), 0: () => place(1, 0, 0), o: () => $("outlines").click() };
  const act = move && event.shiftKey ? () => point(x + move[0], y + move[1]) : does[event.key];
  if (act) { event.preventDefault(); act(); }
}

async function copy() {
  getSelection().selectAllChildren($("settings"));
  try { await navigator.clipboard.writeText($("settings").textContent); } catch { document.execCommand("copy"); }
  $("copied").textContent = "Copied";
}

document.addEventListener("DOMContentLoaded", () => {
  index = JSON.parse($("index").textContent);
  $("metric").append(el("option", { value: "" }, "id"),
    ...index.metrics.map(({ name, label, worst }) => el("option", { value: name }, `${label}, ${worst === null ? "largest" : "worst"} first`)));
  const again = () => { sort(); step(-Infinity); };
  const clicks = { previous: () => step(-1), next: () => step(1), in: () => magnify(1), out: () => magnify(-1), copy, phase: toggle,
    outlines: toggle, reverse: event => { toggle(event); again(); } };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  for (const kind of ["pointermove", "pointerdown", "dblclick", "wheel"])
    $("panels").addEventListener(kind, pointed, { passive: false });
  const far = () => Math.abs($("strip").scrollLeft - built) > 4 * STEP && strip();
  for (const [id, kind, act] of [["metric", "change", again], ["find", "input", sort], ["viewer", "keydown", keys],
    ["strip", "keydown", keys], ["strip", "scroll", far]]) $(id).addEventListener(kind, act);
  addEventListener("resize", () => { strip(); chart(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", chart);
  setInterval(() => on.play && view?.names.length > 1 && flip(sample + 1), 450);
  sort();
  $("viewer").hidden = !order.length;
  step(0);
});
