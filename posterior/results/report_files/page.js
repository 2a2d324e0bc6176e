"use strict";
// The explorer of a run, or of several runs of the same images. It reads the index and the sections of its own page, and needs no network.
document.documentElement.classList.add("js");
const STEP = 72;                    // pixels from one image of the strip to the next
const beside = {};                  // number -> section of an image as text, from a script beside the page
const on = { reverse: false, outlines: false, phase: false, raw: false, play: false, differences: false };   // buttons that stay pressed
let index, order = [];              // of the page (see explorer in report_explorer.py); numbers of images, as they are sorted and found
let view, panels, pixel = null;     // the image that is shown, see show; name -> canvas, text, overlay; column and row
let sample = 0, method = 0, by = 0; // which picture, whose it is, whose values the strip is sorted by: of one run 0
let split = 50, zoom = { z: 1, x: 0, y: 0 }, asked = 0, built = 0;
const $ = id => document.getElementById(id);
const digits = value => value === null ? "-" : String(Number(value.toPrecision(4)));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const range = count => [...Array(count).keys()];
const metric = () => index.metrics.find(one => one.name === $("metric").value);
const several = () => index.methods.length > 1;
const group = number => index.groups[index.group[number]];
const title = number => group(number).title + index.ids[number];
/** Where a picture of an image is, beside the page. */
const file = (number, [before, after]) => before + index.ids[number].split("/").map(encodeURIComponent).join("/") + after;

/** An element ("svg:tag": of a drawing) with attributes, listeners (functions), children or text. */
function el(tag, attributes = {}, ...children) {
  const [, svg, name] = tag.match(/^(svg:)?(.*)$/);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    made[typeof value === "function" ? "addEventListener" : "setAttribute"](key, value);
  made.append(...children);
  return made;
}
/** Mean, least and greatest over an image's samples, with "differences" less the mean of the first run; null: not known. */
function value(number, name, whose) {
  const at = m => index.values[m][name]?.[number] ?? null, found = at(whose), base = on.differences ? [at(group(number).base)].flat()[0] : 0;
  if (found === null || base === null) return null;
  return typeof found === "number" ? [found - base, found - base, found - base] : found.map(v => v - base);
}
/** How bad a value is whose worst is the lowest, or the one furthest from a number; else the value itself. */
const badness = (mean, worst) => worst === "low" ? -mean : typeof worst === "number" && !on.differences ? Math.abs(mean - worst) : mean;

/** Order the images as the controls say. */
function sort() {
  const wanted = $("find").value.trim().toLowerCase(), chosen = metric(), only = $("group").value;
  by = method;
  order = range(index.ids.length).filter(number => title(number).toLowerCase().includes(wanted) && (!only || index.group[number] === +only));
  if (chosen) {
    const bad = new Map(order.map(number => [number, value(number, chosen.name, by)]).map(([n, v]) => [n, v ? badness(v[0], chosen.worst) : -Infinity]));
    order.sort((a, b) => (bad.get(a) === bad.get(b) ? a - b : bad.get(b) - bad.get(a)));
  }
  if (on.reverse) order.reverse();
  const whose = chosen && several() ? `, by the ${chosen.label} of ${index.methods[by]}` : "";
  $("count").textContent = `${order.length} of ${index.ids.length} images${whose}`;
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
    const id = title(number), label = chosen ? digits(value(number, chosen.name, by)?.[0] ?? null) : id;
    const src = index.thumbnails[number] || file(number, group(number).main);
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
    : Object.entries(group(number).files).map(([name, place]) => [name, file(number, place)]);
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
  const names = [...found.keys()].filter(name => /^(sample|method)_\d+$/.test(name));
  const { naturalWidth: width = 1, naturalHeight: height = 1 } = found.get(names[0]) || [...found.values()][0] || {};
  const all = names.map(name => pixels(found.get(name))), read = all.every(one => one?.length === 4 * width * height) ? all : [];
  view = { number, found, names, width, height, read, id: title(number), complex: found.has(`${names[0]}_phase`) };
  view.truth = read.length && found.has("truth") ? pixels(found.get("truth")) : null;
  view.variance = read.length > 1 ? variance(read, view.complex ? 255 : 127.5) : null;
  pixel = null;
  $("title").textContent = view.id;
  $("phase").hidden = !view.complex;
  $("outlines").hidden = !view.variance;
  for (const [id, kind, without] of [["table", ".wide, p", brief(number)], ["spread", ".spread", ""]]) $(id).replaceChildren(part?.querySelector(kind)?.cloneNode(true) || without);
  const same = names.indexOf(`method_${method}`);
  sample = several() && same >= 0 ? same : clamp(sample, 0, Math.max(0, names.length - 1));
  build();
  several() || chart();
  const at = STEP * order.indexOf(number), box = $("strip");
  if (at >= 0 && (at < box.scrollLeft || at + STEP > box.scrollLeft + box.clientWidth)) box.scrollLeft = at - box.clientWidth / 2;
  box.setAttribute("aria-activedescendant", `t${number}`);
  strip();
}
/** The numbers of an image that has no section. */
function brief(number) {
  const told = ([mean, low, high]) => digits(mean) + (low < high ? ` (${digits(low)} to ${digits(high)})` : "");
  const of = whose => index.metrics.map(({ name, label }) => [label, value(number, name, whose)]).filter(([, one]) => one);
  const words = whose => of(whose).map(([label, one]) => `${label} ${told(one)}`).join(", ");
  return el("p", {}, index.methods.map((name, whose) => (several() ? `${name}: ` : "") + words(whose)).join("; "));
}
/** Variance over samples, mean over channels; a unit of values is so many grey levels. */
function variance(read, unit) {
  const found = new Float32Array(read[0].length / 4), K = read.length;
  for (let at = 0, sum, squares; at < read[0].length; at += at % 4 === 2 ? 2 : 1) {   // without the opacity
    sum = squares = 0;
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
/** What is shown less the truth, or less the first run's: grey where they agree, white where it is larger by 1. */
function difference() {
  const [one, base] = [view.read[sample], view.truth || view.read[0]];
  return new ImageData(one.map((level, at) => at % 4 === 3 ? 255 : 128 + (level - base[at]) * (view.complex ? 0.5 : 1)), view.width);
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
  const { found, names } = view, figures = [], K = names.length, what = several() ? "Method" : "Sample";
  panels = new Map();
  const add = (name, ...rest) => (found.has(name) || names.some(of => found.has(`${of}_${name}`))) && figures.push(panel(name, ...rest));
  add("measurement", "Measurement");
  add("operator", "Operator");
  const flipping = [button("play", "Play"), slider("flip", K - 1, sample, what, event => flip(+event.target.value))];
  add(names[0], what, ...(K > 1 ? flipping : []));
  add("truth", "Truth");
  add("mean", `Mean of ${K}`);
  const bar = $("scale").cloneNode(true);
  bar.removeAttribute("id");
  add("std", "", ...(view.variance && !several() ? [button("raw", "Raw")] : []), bar);
  if (view.read.length && (view.truth || several())) figures.push(panel("difference", ""));
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
/** What is shown of the flip-book, in words. */
const shown = () => several() ? index.methods[method] : `Sample ${sample}`;

/** Draw all panels as the controls say. */
function refresh() {
  const { found, names } = view, K = names.length, now = names[sample];
  method = several() && now ? +now.slice(7) : 0;
  const get = name => found.get(`${now}_${name}`) || (on.phase && found.get(`${name}_phase`)) || found.get(name);
  const raw = on.raw && view.variance && !several(), alone = `each pixel alone, from 8-bit ${view.complex ? "magnitudes" : "pictures"}`;
  const smoothed = `smoothed by ${index.window} pixel`, own = (name, how = "") => found.has(`${now}_${name}`) ? `${shown()}, ${name} of ${group(view.number).samples[method]}${how}` : several() ? `${shown()} has no ${name}` : "";
  const base = view.truth ? "truth" : index.methods[+names[0]?.slice(7)], unit = view.complex ? "±1 of magnitude" : "±1";
  const texts = { [names[0]]: several() || K === 1 ? shown() : `Sample ${sample} of 0 to ${K - 1}`, split: `${shown()} | ${other()}`,
    mean: own("mean"), std: own("std", `, ${smoothed}`) || `Std of ${K}, ${raw ? alone : smoothed}`,
    difference: `${shown()} less ${base}: grey none, black and white ${unit}` };
  for (const [name, { canvas, text, layer, rule }] of panels) {
    text.textContent = texts[name] || text.textContent;
    canvas.setAttribute("aria-label", `${text.textContent} of ${view.id}`);
    const picture = name === "difference" ? difference() : name === "std" && raw ? rawStd() : get(/^sample|^method|split/.test(name) ? now : name);
    paint(canvas, picture || new ImageData(1, 1));
    if (!layer) continue;
    paint(layer.firstChild, get(other()));
    layer.style.clipPath = `inset(0 0 0 ${split}%)`;
    rule.style.left = `${split}%`;
  }
  if ($("flip")) $("flip").value = sample;
  for (const row of $("table").querySelectorAll("tr")) row.classList.toggle("now", several() && row.cells[0].textContent === shown());
  overlay();
  several() && chart();
}
/** Outlines and the pixel, over all panels. */
function overlay() {
  const edges = on.outlines && view.variance ? view.edges ||= disagreement(view) : null;
  for (const [name, { over }] of panels)
    if (!view.complex || !/measurement|operator/.test(name)) over.replaceChildren(...["halo", "line"].flatMap(kind => [
      ...(edges ? [el("svg:path", { d: edges[0], class: kind })] : []),
      ...(pixel ? [el("svg:rect", { x: pixel[0], y: pixel[1], width: 1, height: 1, class: kind })] : [])]));
  for (const [name, pressed] of Object.entries(on)) $(name)?.setAttribute("aria-pressed", String(pressed));
  $("level").textContent = edges ? edges[1] : "";
  $("phased").hidden = !on.phase || !view.complex;
  readout();
}
/** Show another sample, or another run's. */
const flip = k => { sample = (k + view.names.length) % (view.names.length || 1); refresh(); };
/** A button stays pressed, or comes up again. */
const toggle = ({ currentTarget: { id } }) => { on[id] = !on[id]; if (view) refresh(); };
/** Choose a pixel. */
const point = (x, y) => { pixel = [clamp(x, 0, view.width - 1), clamp(y, 0, view.height - 1)]; overlay(); };

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
/** All samples at the pixel as dots, their range, the truth. */
function readout() {
  const { read, truth, width, complex } = view, K = read.length;
  $("unreadable").hidden = K > 0;
  $("place").textContent = K ? `Point at a picture to see every ${several() ? "method" : "sample"}'s value there.` : "";
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
  const label = rows.map(row => row.textContent).join("; ");
  $("values").replaceChildren(el("svg:svg", { viewBox: `0 0 ${W} ${foot}`, role: "img", "aria-label": label }, ...rows, ...ticks));
  $("place").textContent = `Row ${pixel[1]}, column ${pixel[0]}. Dots: ${several() ? "methods" : "samples"}, a ring round ` +
    `${several() ? shown() : `sample ${sample}`}.${truth ? " Upright line: truth." : ""}` + (K < 2 || several() ? ""
    : ` Bar: least to greatest; of right samples it holds the truth with probability ${Math.round(100 * (K - 1) / (K + 1))} %.`);
}
/** Values of several images as one: the mean of means, the least, the greatest. */
const joined = all => all.length ? all.reduce((a, b) => [a[0] + b[0] / all.length, Math.min(a[1], b[1]), Math.max(a[2], b[2])], [0, Infinity, -Infinity]) : null;
/** A metric over images, or over bins of many: a square and a line from the least to the greatest sample; what is shown is in full colour. */
function chart() {
  const chosen = metric() || index.metrics[0], W = $("chart").clientWidth || 600, H = 224, left = 64, base = H - 12;
  const per = Math.max(1, Math.ceil(order.length / 1000)), bins = range(Math.ceil(order.length / per)).map(i => order.slice(i * per, (i + 1) * per));
  const of = m => bins.map(bin => joined(bin.map(n => value(n, chosen.name, m)).filter(Boolean))), found = chosen ? range(index.methods.length).map(of) : [];
  if (($("overview").hidden = !found.flat().some(Boolean))) return;
  const band = m => m && chosen.name === "residual" && !on.differences ? 1.96 / Math.sqrt(2 * m) : 0, bands = bins.map(([n]) => band(index.measured[n]));
  const [low, high] = [...found.flat(2).filter(v => v !== null), ...bands.flatMap(b => b ? [1 - b, 1 + b] : []), ...(on.differences ? [0] : [])]
    .reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [Infinity, -Infinity]);
  const [digit, power] = (high - low || Math.abs(high) || 1).toExponential().split("e"), tick = (digit < 2 ? 0.5 : digit < 5 ? 1 : 2) * 10 ** power;
  const bottom = Math.floor(low / tick) * tick, top = Math.ceil(high / tick + 0.01) * tick;
  const gap = Math.min(64, (W - left) / bins.length), size = bins.length > 400 ? 1 : 3.5, apart = gap < 8 ? 0 : 0.7 * gap / found.length;
  const x = (at, m = (found.length - 1) / 2) => (left + gap * (at + 0.5) + apart * (m - (found.length - 1) / 2)).toFixed(1);
  const y = v => (base - (base - 12) * (v - bottom) / (top - bottom)).toFixed(1), path = (kind, parts) => el("svg:path", { class: kind, d: parts.join("") });
  const ticks = range(Math.round((top - bottom) / tick) + 1).map(i => Number((bottom + i * tick).toPrecision(6)));
  const marks = (m, one, at) => one ? `M${x(at, m)} ${y(one[1])}V${y(one[2])}m${-size} ${y(one[0]) - y(one[2]) - size}h${2 * size}v${2 * size}h${-2 * size}z` : "";
  const now = Math.floor(order.indexOf(view?.number) / per), box = found[method][now], last = [...range(found.length).filter(m => m !== method), method];
  $("chart").replaceChildren(el("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": `${chosen.label} of ${order.filter(number => value(number, chosen.name, method)).length} images, ${digits(low)} to ${digits(high)}` },
    ...ticks.map(v => el("svg:text", { x: left - 8, y: +y(v) + 4, "text-anchor": "end" }, String(v))),
    path("grid", ticks.map(v => `M${left} ${y(v)}h${gap * bins.length}`)),
    path("band", bands.map((b, at) => b ? `M${x(at) - gap / 2} ${y(1 - b)}h${gap}V${y(1 + b)}h${-gap}z` : "")),
    ...last.map(m => path(`marks c${m % 6}${several() && m !== method ? " behind" : ""}`, found[m].map((one, at) => marks(m, one, at)))),
    ...(box ? [el("svg:rect", { x: x(now, method) - 7, y: y(box[0]) - 7, width: 14, height: 14, class: "here" })] : [])));
  $("charted").textContent = `${chosen.label}${on.differences ? " less that of the first method" : ""} over images${per > 1 ? `, ${per} at each mark` : ""}`;
  $("band").hidden = !bands.some(Boolean);
  $("chart").onclick = ({ clientX }) => show(bins[clamp(Math.floor((clientX - $("chart").getBoundingClientRect().left - left) / gap), 0, bins.length - 1)][0]);
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
/** A click on a column's head sorts the rows of its table by it: sums, numbers, words, and what is unknown last. */
function sortable(head) {
  const rows = [...head.closest("table").rows].slice(1), sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const words = row => row.cells[head.cellIndex].textContent, sum = text => text.split(" + ").reduce((a, b) => a + parseFloat(b), 0);
  const value = row => words(row) === "-" ? Infinity : sum(words(row)), compare = (a, b) => isNaN(a) - isNaN(b) || (a > b) - (a < b);
  for (const one of head.parentNode.cells) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  rows.sort((a, b) => sign * (compare(value(a), value(b)) || words(a).localeCompare(words(b)))).forEach(row => row.parentNode.append(row));
}

function explore() {
  index = JSON.parse($("index").textContent);
  $("metric").append(el("option", { value: "" }, "id"),
    ...index.metrics.map(({ name, label, worst }) => el("option", { value: name }, `${label}, ${worst === null ? "largest" : "worst"} first`)));
  $("group").append(el("option", { value: "" }, "all"), ...index.groups.map((one, at) => el("option", { value: at }, one.name)));
  for (const control of [$("group").parentNode, $("differences")]) control.hidden = !several();
  const again = () => { sort(); step(-Infinity); }, far = () => Math.abs($("strip").scrollLeft - built) > 4 * STEP && strip();
  const does = { click: { previous: () => step(-1), next: () => step(1), in: () => magnify(1), out: () => magnify(-1), phase: toggle,
    outlines: toggle, reverse: event => { toggle(event); again(); }, differences: event => { toggle(event); sort(); } },
    change: { metric: again, group: again }, input: { find: sort }, keydown: { viewer: keys, strip: keys }, scroll: { strip: far },
    pointermove: { panels: pointed }, pointerdown: { panels: pointed }, dblclick: { panels: pointed }, wheel: { panels: pointed } };
  for (const [kind, parts] of Object.entries(does))
    for (const [id, act] of Object.entries(parts)) $(id).addEventListener(kind, act, { passive: kind === "scroll" });
  addEventListener("resize", () => { strip(); chart(); });
  setInterval(() => on.play && view?.names.length > 1 && flip(sample + 1), 450);
  sort();
  $("viewer").hidden = !order.length;
  step(0);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const head of document.querySelectorAll(".sortable th[scope=col]"))
    head.replaceChildren(el("button", { type: "button", click: () => sortable(head) }, ...head.childNodes));
  $("copy")?.addEventListener("click", copy);
  if ($("index")) explore();
});
