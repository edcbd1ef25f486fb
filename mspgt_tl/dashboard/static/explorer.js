// The explorer of a detection: fusion, peaks and intervals in the browser, drawn by the Plotly that the host carries.
// One module, two hosts: a notebook imports it through anywidget (the default export), a page calls `mount` itself.
// The first half is arithmetic alone and agrees with mspgt_tl.boundaries to 1e-9; the second half touches the page.

// ---------------------------------------------------------------- arithmetic

const range = n => Array.from({ length: n }, (_, i) => i);
const sum = values => values.reduce((total, value) => total + value, 0);

/** Scale a curve to [0, 1] in place; a constant curve becomes zero. */
function normaliseAt(values, start, n) {
  let low = Infinity, high = -Infinity;
  for (let i = start; i < start + n; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  const height = high > low ? high - low : 1;
  for (let i = start; i < start + n; i++) values[i] = (values[i] - low) / height;
}

/** Return the indices of the two most prominent peaks in depth order; the ends are padded with the minimum. */
export function pickPeaks(values, prominence, start = 0, n = values.length) {
  const end = start + n;
  let low = Infinity;
  for (let i = start; i < end; i++) if (values[i] < low) low = values[i];
  const at = i => (i < start || i >= end ? low : values[i]);
  const found = [];
  for (let i = start; i < end; i++) {
    if (!(at(i - 1) < values[i])) continue;
    let last = i;
    while (last + 1 < end && values[last + 1] === values[i]) last++;
    if (at(last + 1) < values[i] && values[i] - low >= prominence) {
      // The middle of a plateau, rounded down.
      const peak = (i + last) >> 1;
      let left = values[peak], right = values[peak];
      for (let j = peak; j >= start - 1 && at(j) <= values[peak]; j--) left = Math.min(left, at(j));
      for (let j = peak; j <= end && at(j) <= values[peak]; j++) right = Math.min(right, at(j));
      const rise = values[peak] - Math.max(left, right);
      if (rise >= prominence) found.push([peak - start, rise]);
    }
    i = last;
  }
  found.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return found.slice(0, 2).map(peak => peak[0]).sort((a, b) => a - b);
}

function argmax(values, from, to) {
  let best = from;
  for (let i = from + 1; i < to; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** The value that at least a share q of the sorted sample does not exceed. */
const quantile = (sorted, q) => sorted[Math.max(0, Math.ceil(sorted.length * q - 1))];

function linearQuantile(sorted, q) {
  const place = (sorted.length - 1) * q, below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** 1 - (mean squared bootstrap error) / (variance over gaps), floored at 0; null without resamples. */
export function reliability(curves, resampled) {
  if (!resampled) return curves.map(() => null);
  const S = curves.length, G = curves[0].length, R = resampled.length / (S * G);
  return curves.map((curve, s) => {
    let error = 0;
    for (let g = 0; g < G; g++) {
      let mean = 0, square = 0;
      for (let r = 0; r < R; r++) mean += resampled[(r * S + s) * G + g] / R;
      for (let r = 0; r < R; r++) square += (resampled[(r * S + s) * G + g] - mean) ** 2 / R;
      error += square / G;
    }
    const middle = sum(curve) / G, spread = sum(curve.map(v => (v - middle) ** 2)) / G;
    return spread > 0 ? Math.max(0, 1 - error / spread) : 0;
  });
}

/** Why each signal takes no part, "" for one that does. */
function whyLeftOut(run, settings, C) {
  return run.curves.map((curve, s) => {
    if (!(settings.weights[s] > 0)) return "weight 0";
    if (curve.some(v => v === null || Number.isNaN(v)) || run.unusable?.[s]) return "not computable";
    if (Math.max(...curve) === Math.min(...curve)) return "flat: one value everywhere";
    const trust = run.reliability[s];
    if (settings.rule === "mspgt" && settings.reliability && trust !== null && trust < C.min_reliability)
      return `flat: reliability ${trust.toFixed(2)}`;
    return "";
  });
}

/** Normalised signals times their gain, as they enter the fusion. */
export function scaleSignals(curves, gain) {
  return curves.map((curve, s) => {
    const values = gain[s] > 0 ? Float64Array.from(curve) : new Float64Array(curve.length);
    normaliseAt(values, 0, values.length);
    return values.map(v => v * gain[s]);
  });
}

export function fuse(shown, weights) {
  return shown[0].map((_, g) => sum(weights.map((w, s) => w * shown[s][g])));
}

/** Resamples of every signal, each scaled to [0, 1]; the same for all weights, so made once a run. */
function scaledResamples(run) {
  if (run.scaled === undefined) {
    run.scaled = run.resampled ? Float64Array.from(run.resampled) : null;
    const G = run.curves[0].length;
    if (run.scaled) for (let i = 0; i < run.scaled.length; i += G) normaliseAt(run.scaled, i, G);
  }
  return run.scaled;
}

function refuse(run, factors) {
  const scaled = scaledResamples(run), S = run.curves.length, G = run.curves[0].length;
  if (!scaled) return null;
  const fused = new Float64Array(scaled.length / S);
  for (let r = 0; r < fused.length / G; r++)
    for (let s = 0; s < S; s++) {
      if (!factors[s]) continue;
      const from = (r * S + s) * G;
      for (let g = 0; g < G; g++) fused[r * G + g] += factors[s] * scaled[from + g];
    }
  return fused;
}

/** The peak of one resample that stands for each boundary; null for none. */
function matchPeaks(peaks, picked) {
  const places = peaks.map(() => null);
  if (picked.length === peaks.length) return picked;
  const nearest = (from, to) => range(from.length).reduce(
    (best, i) => (Math.abs(from[i] - to) < Math.abs(from[best] - to) ? i : best), 0);
  if (peaks.length === 1 && picked.length === 2) places[0] = picked[nearest(picked, peaks[0])];
  if (peaks.length === 2 && picked.length === 1) places[nearest(peaks, picked[0])] = picked[0];
  return places;
}

function bootstrapPlaces(peaks, fused, refused, settings, C) {
  const none = peaks.map(() => null), G = fused.length;
  if (!refused) return { intervals: peaks.map(() => [null, null]), presence: none, modeMass: none, nearTies: none };
  const R = refused.length / G, matched = peaks.map(() => []), local = peaks.map(() => []), counts = [0, 0, 0];
  const cut = peaks.length === 2 ? peaks[0] + 1 + argmax(fused.slice(peaks[0] + 1, peaks[1]).map(v => -v), 0,
    peaks[1] - peaks[0] - 1) : 0;
  for (let r = 0; r < R; r++) {
    const row = refused.subarray(r * G, (r + 1) * G), picked = pickPeaks(row, settings.prominence);
    counts[picked.length]++;
    matchPeaks(peaks, picked).forEach((place, i) => place !== null && matched[i].push(place));
    if (peaks.length === 1) local[0].push(argmax(row, 0, G));
    if (peaks.length === 2) { local[0].push(argmax(row, 0, cut)); local[1].push(argmax(row, cut, G)); }
  }
  const out = { intervals: [], presence: [], modeMass: [], nearTies: [], tieShares: [], counts: counts.map(c => c / R) };
  peaks.forEach((peak, i) => {
    const found = matched[i], times = new Map();
    found.forEach(g => times.set(g, (times.get(g) ?? 0) + 1));
    const far = [...times].filter(([g, t]) => Math.abs(g - peak) > 1 && t >= C.near_tie * found.length)
      .sort((a, b) => b[1] - a[1] || b[0] - a[0]);
    out.presence.push(found.length / R);
    out.modeMass.push(found.length ? Math.max(...times.values()) / found.length : null);
    out.nearTies.push(far.length ? far[0][0] + 1 : null);
    out.tieShares.push(far.length ? far[0][1] / found.length : null);
    const drawn = Float64Array.from(settings.rule === "paper" ? found : local[i]).sort();
    out.intervals.push(found.length / R < C.min_presence ? [null, null]
      : [quantile(drawn, 0.025) + 1, quantile(drawn, 0.975) + 1]);
  });
  return out;
}

/**
 * Find at most two boundaries, as mspgt_tl.boundaries.find_boundaries does, but for the test of existence.
 * run: {curves: [signal][gap], resampled: flat [resample, signal, gap] or null, reliability: [signal]}.
 * settings: {weights: [signal], prominence, rule: "mspgt" | "paper", reliability: boolean}.
 */
export function findBoundaries(run, settings, C) {
  const why = whyLeftOut(run, settings, C), total = sum(settings.weights.map((w, s) => (why[s] ? 0 : w)));
  const used = settings.weights.map((w, s) => (why[s] || !total ? 0 : w / total));
  const trusts = settings.rule === "mspgt" && settings.reliability;
  const gain = run.reliability.map((trust, s) => (why[s] ? 0 : trusts ? trust ?? 1 : 1));
  const shown = scaleSignals(run.curves, gain), fused = fuse(shown, used);
  const peaks = total ? pickPeaks(fused, settings.prominence) : [];
  const refused = total ? refuse(run, used.map((w, s) => w * gain[s])) : null;
  return { why, weights: used, gain, shown, fused, peaks, boundaries: peaks.map(p => p + 1), refused,
    ...bootstrapPlaces(peaks, fused, refused, settings, C) };
}

/** 95 % of the resampled fused curves at each gap. */
export function fusedBand(found) {
  const G = found.fused.length, R = found.refused ? found.refused.length / G : 0;
  if (!R) return null;
  const column = new Float64Array(R), band = [[], []];
  for (let g = 0; g < G; g++) {
    for (let r = 0; r < R; r++) column[r] = found.refused[r * G + g];
    column.sort();
    band[0].push(linearQuantile(column, 0.025));
    band[1].push(linearQuantile(column, 0.975));
  }
  return band;
}

/**
 * p-values from the grid of weights computed beforehand: those of the nearest weights whose peaks are the same.
 * A grid's row holds its weights, its two most prominent peaks and p with the first alone and with both.
 */
export function lookUpP(grid, weights, boundaries, reach) {
  let best = null, least = Infinity;
  const of = row => (boundaries.length === 1 ? row.alone : row.both);
  for (const row of grid) {
    if (!of(row)) continue;
    const picked = row.gaps.slice(0, boundaries.length).sort((a, b) => a - b);
    if (picked.length !== boundaries.length || picked.some((gap, i) => gap !== boundaries[i])) continue;
    const far = Math.sqrt(sum(row.weights.map((w, s) => (w - weights[s]) ** 2)));
    if (far < least) { least = far; best = row; }
  }
  if (!best || least > reach || !boundaries.length) return { p: boundaries.map(() => null), from: null };
  return { p: of(best), from: best.weights, exact: least < 1e-9 };
}

export function verdict(p, interval, rule, C) {
  const placed = interval[0] !== null && interval[1] - interval[0] < C.max_width;
  if (rule === "paper") return placed ? "accepted" : "not accepted";
  return C.verdicts[p !== null && p < C.alpha ? (placed ? 0 : 2) : placed ? 1 : 3];
}

/** Unpack numbers stored as 16-bit shares of a range, each column (signal and gap) with its own. */
function unpack(packed) {
  if (!packed) return null;
  const bytes = Uint8Array.from(atob(packed.values), c => c.charCodeAt(0)), shares = new Uint16Array(bytes.buffer);
  const columns = packed.low.length, values = new Float64Array(shares.length);
  for (let i = 0; i < shares.length; i++) {
    const c = i % columns;
    values[i] = packed.low[c] + (shares[i] / 65535) * (packed.high[c] - packed.low[c]);
  }
  return values;
}

function readRun(part) {
  return { curves: part.curves, resampled: unpack(part.resampled), reliability: part.reliability,
    unusable: part.unusable };
}

// ---------------------------------------------------------------- the page

const percent = v => (v === null || Number.isNaN(v) ? "–" : `${(100 * v).toFixed(1).replace(/\.0$/, "")} %`);
const digits = (v, n = 3) => (v === null || v === undefined || Number.isNaN(v) ? "–" : String(Number(v.toPrecision(n))));
const pText = p => (p === null || Number.isNaN(p) ? "–" : p < 0.001 ? "< 0.001" : digits(p, p >= 0.045 && p < 0.055 ? 3 : 2));
const spanText = pair => (pair[0] === null ? "–" : pair[0] === pair[1] ? `${pair[0]}` : `${pair[0]} … ${pair[1]}`);
const COLOURS = ["#0072B2", "#D55E00", "#007A5A", "#CC79A7", "#B8860B", "#56B4E9", "#999933", "#AA4499"];
const DARK = ["#56B4E9", "#F08A4B", "#35C497", "#E6A5C6", "#E0B040", "#9AD4F5", "#CCCC66", "#E08AD8"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross", "x", "star", "pentagon"];

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

function table(caption, columns, rows) {
  return h("table", { class: "stack" }, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, ...columns.map(name => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rows.map(row => h("tr", {}, ...row.map((cell, i) => i
      ? h("td", { "data-label": columns[i] }, h("span", {}, cell))
      : h("th", { scope: "row", "data-label": columns[0] }, cell))))));
}

/** A colour of the style sheet as Plotly understands it, in the theme of the moment. */
function colour(root, name) {
  const probe = h("span", { style: `color: var(--${name}); display: none` });
  root.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const isDark = root => {
  const [r, g, b] = colour(root, "ink").match(/[\d.]+/g).map(Number);
  return r + g + b > 384;
};

/** The settings a run was made with. */
export function ownState(data) {
  return { weights: Object.fromEntries(data.signals.map(s => [s.name, s.weight])), prominence: data.constants.prominence,
    rule: data.rule, reliability: true, variant: "", over: "", gap: data.own.strongest ?? null };
}

/** State as the part of an address behind #, holding only what differs from the run's own; and back. */
export function writeHash(state, own) {
  const parts = new URLSearchParams();
  for (const [name, weight] of Object.entries(state.weights))
    if (weight !== own.weights[name]) parts.set(`weight-${name}`, Number(weight.toFixed(4)));
  for (const name of ["prominence", "rule", "variant", "over", "gap"])
    if (state[name] !== own[name] && state[name] !== null) parts.set(name, state[name]);
  if (!state.reliability) parts.set("reliability", "off");
  return parts.toString();
}
export function readHash(hash, own) {
  const parts = new URLSearchParams(hash.replace(/^#/, "")), state = { ...own, weights: { ...own.weights } };
  const read = (text, low, high) => (text !== null && Number.isFinite(Number(text))
    ? Math.min(high, Math.max(low, Number(text))) : null);
  for (const name of Object.keys(own.weights)) state.weights[name] = read(parts.get(`weight-${name}`), 0, 1) ?? own.weights[name];
  state.prominence = read(parts.get("prominence"), 0, 1) ?? own.prominence;
  state.gap = read(parts.get("gap"), 1, 1e6) ?? own.gap;
  if (["mspgt", "paper"].includes(parts.get("rule"))) state.rule = parts.get("rule");
  state.reliability = parts.get("reliability") !== "off";
  state.variant = parts.get("variant") ?? "";
  state.over = parts.get("over") ?? "";
  return state;
}

class Explorer {
  constructor(root, data, { plotly, state, onState }) {
    Object.assign(this, { root, data, plotly, onState });
    this.names = data.signals.map(s => s.name);
    this.own = ownState(data);
    this.state = { ...this.own, ...state, weights: { ...this.own.weights, ...(state?.weights ?? {}) } };
    this.others = [...data.others];
    const plain = readRun({ ...data, curves: data.signals.map(s => s.curve),
      reliability: data.signals.map(s => s.reliability), unusable: data.signals.map(s => s.unusable) });
    this.runs = new Map([["", plain]]);
    for (const variant of data.variants) this.runs.set(variant.name, this.makeVariant(plain, variant));
    if (!this.runs.has(this.state.variant)) this.state.variant = "";
    if (this.state.gap > data.n_gaps) this.state.gap = null;
    this.build();
    this.themes = matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => { this.changed = true; this.draw(); };
    this.themes.addEventListener("change", this.repaint);
    document.addEventListener("mspgt-theme", this.repaint);
    this.repaint();
  }

  remove() {
    this.themes.removeEventListener("change", this.repaint);
    document.removeEventListener("mspgt-theme", this.repaint);
    this.watcher.disconnect();
    this.plotly.purge(this.picture);
    if (this.bos) this.plotly.purge(this.bos);
    this.root.replaceChildren();
  }

  /** The run with one signal under another choice of rows or channels; fewer resamples, as the audit has. */
  makeVariant(plain, variant) {
    const at = this.names.indexOf(variant.signal), S = this.names.length, G = this.data.n_gaps;
    const replaced = values => values.map((v, s) => (s === at ? variant[values === plain.curves ? "curve" : "reliability"] : v));
    const own = unpack(variant.resampled), R = own && plain.resampled ? Math.min(own.length, plain.resampled.length / S) / G : 0;
    let resampled = null;
    if (R) {
      resampled = plain.resampled.slice(0, R * S * G);
      for (let r = 0; r < R; r++) for (let g = 0; g < G; g++) resampled[(r * S + at) * G + g] = own[r * G + g];
    }
    return { curves: replaced(plain.curves), reliability: replaced(plain.reliability), resampled,
      unusable: plain.unusable?.map((bad, s) => (s === at ? variant.curve.some(v => v === null) : bad)) };
  }

  settings(state = this.state) {
    return { weights: this.names.map(name => state.weights[name]), prominence: state.prominence, rule: state.rule,
      reliability: state.reliability };
  }

  // ------------------------------------------------ building

  build() {
    this.root.classList.add("mspgt", "explorer");
    const id = document.getElementById("evidence") ? null : "evidence";
    this.picture = h("div", { id, class: "picture", tabindex: "0", role: "group",
      "aria-label": "Evidence curve. Left and right arrow keys choose a gap.", onkeydown: e => this.onKey(e) });
    this.live = h("p", { class: "live", role: "status" });
    this.now = h("div", { class: "now" });
    this.panel = h("section", { class: "gap", "aria-label": "The chosen gap", "aria-live": "polite" });
    this.form = h("form", { class: "controls", onsubmit: e => e.preventDefault() }, this.weightControls(), this.otherControls());
    this.bos = this.data.profile ? h("div", { class: "bos", role: "img", "aria-label": "First token and sinks by depth" }) : null;
    this.bosNote = h("p", { class: "soft" });
    const bos = this.bos && h("details", { class: "profile", open: true }, h("summary", {}, "Boundary or BOS?"), this.bosNote, this.bos);
    this.root.replaceChildren(h("div", { class: "stage" }, h("div", { class: "view" }, this.picture, this.live, this.now, bos),
      this.form), this.panel);
    bos?.addEventListener("toggle", () => this.drawn && this.drawProfile());
    this.watcher = new ResizeObserver(() => this.picture.clientWidth && this.drawn && this.draw());
    this.watcher.observe(this.picture);
    this.form.addEventListener("input", () => this.readForm());
  }

  weightControls() {
    const slider = signal => h("label", { title: signal.definition }, h("span", {}, signal.title),
      h("input", { type: "range", name: `weight-${signal.name}`, min: 0, max: 1, step: 0.01 }),
      h("output", { "data-of": signal.name }));
    return h("fieldset", {}, h("legend", {}, "Weight of each signal"), ...this.data.signals.map(slider),
      this.names.length === 3 ? this.triangle() : null);
  }

  otherControls() {
    const option = (value, text) => h("option", { value }, text);
    const kept = this.data.variants.map(v => option(v.name, v.label));
    this.overBox = h("select", { name: "over" });
    this.fillOthers();
    return h("fieldset", {}, h("legend", {}, "How boundaries are picked"),
      h("label", { title: "How far a peak must rise above the higher of the valleys beside it." }, h("span", {}, "prominence"),
        h("input", { type: "range", name: "prominence", min: 0, max: 1, step: 0.01 }), h("output", { "data-of": "prominence" })),
      h("label", { title: "mspgt: reliability and a test of existence. paper: the published rule alone." }, h("span", {}, "rule"),
        h("select", { name: "rule" }, option("mspgt", "mspgt"), option("paper", "paper"))),
      h("label", { title: "Signals count by how reliably they were measured, and flat ones not at all." },
        h("span", {}, "reliability"), h("input", { type: "checkbox", name: "reliability" })),
      kept.length ? h("label", { title: "The same detection with other rows or channels: the artefact audit." },
        h("span", {}, "measured on"), h("select", { name: "variant" }, option("", "this run's choice"), ...kept)) : null,
      h("label", { title: "Another run's evidence under the same settings, on the same relative depth." },
        h("span", {}, "lay over"), this.overBox),
      h("label", { class: "file" }, h("span", {}, "… from its report.html"),
        h("input", { type: "file", accept: ".html", name: "over-file", onchange: e => this.readFile(e.target.files[0]) })),
      h("button", { type: "button", name: "reset", onclick: () => this.reset() }, "Back to the run's own settings"));
  }

  fillOthers() {
    this.overBox.replaceChildren(h("option", { value: "" }, "nothing"),
      ...this.others.map(o => h("option", { value: o.name }, o.name)));
    this.overBox.value = this.state.over;
  }

  async readFile(file) {
    if (!file) return;
    const found = new DOMParser().parseFromString(await file.text(), "text/html").getElementById("explorer-data");
    if (!found) { this.live.textContent = `${file.name} is no report of a detection.`; return; }
    const other = JSON.parse(found.textContent);
    const name = [...this.others.map(o => o.name), this.data.name].includes(other.name) ? `${other.name} (${file.name})` : other.name;
    this.others.push({ name, n_layers: other.n_layers, signals: other.signals });
    this.fillOthers();
    this.update({ over: name });
  }

  // The map of all weights, to click or drag: corners are signals, a point's colour is the gap it would give.
  triangle() {
    const make = (tag, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
      return node;
    };
    const steps = 20, top = [110, 16], left = [14, 182], right = [206, 182];
    const place = w => [0, 1].map(k => w[0] * top[k] + w[1] * left[k] + w[2] * right[k]);
    const svg = make("svg", { viewBox: "0 0 220 205", role: "img", class: "triangle",
      "aria-label": "Map of all weights; the sliders do the same by keyboard." });
    this.points = [];
    for (let i = 0; i <= steps; i++) for (let j = 0; j <= steps - i; j++) {
      const weights = [i / steps, j / steps, (steps - i - j) / steps], [cx, cy] = place(weights);
      const point = make("circle", { cx, cy, r: 4.6 });
      svg.append(point);
      this.points.push({ weights, point });
    }
    const corner = (s, x, y, anchor) => {
      const text = make("text", { x, y, "text-anchor": anchor });
      text.textContent = this.names[s];
      svg.append(text);
    };
    corner(0, 110, 9, "middle"); corner(1, 2, 201, "start"); corner(2, 218, 201, "end");
    this.cross = make("circle", { r: 7, class: "cross" });
    svg.append(this.cross);
    this.placeWeights = place;
    const choose = event => {
      const box = svg.getBoundingClientRect(), scale = 220 / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      const first = Math.min(1, Math.max(0, (left[1] - y) / (left[1] - top[1])));
      const across = (x - left[0] - first * (top[0] - left[0])) / (right[0] - left[0]);
      const third = Math.min(1 - first, Math.max(0, across)), weights = [first, 1 - first - third, third];
      this.update({ weights: Object.fromEntries(this.names.map((name, s) => [name, Number(weights[s].toFixed(3))])) });
    };
    svg.addEventListener("pointerdown", e => { svg.setPointerCapture(e.pointerId); choose(e); e.preventDefault(); });
    svg.addEventListener("pointermove", e => e.buttons && choose(e));
    this.key = h("p", { class: "soft key" });
    return h("div", { class: "map" }, svg, this.key);
  }

  // ------------------------------------------------ state

  readForm() {
    const field = name => this.form.elements[name];
    this.update({ weights: Object.fromEntries(this.names.map(name => [name, Number(field(`weight-${name}`).value)])),
      prominence: Number(field("prominence").value), rule: field("rule").value, reliability: field("reliability").checked,
      variant: field("variant")?.value ?? "", over: field("over").value });
  }

  reset() { this.update({ ...this.own, gap: this.state.gap }); }

  /** Change some of the state and draw; several changes within one frame are drawn once. */
  update(change) {
    this.changed ||= Object.keys(change).some(name => name !== "gap");
    this.state = { ...this.state, ...change };
    this.onState?.(this.state);
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = this.state.gap ?? (step > 0 ? 0 : this.data.n_gaps + 1);
    this.update({ gap: Math.min(this.data.n_gaps, Math.max(1, from + step)) });
  }

  isOwn() { return writeHash({ ...this.state, gap: null, over: "" }, { ...this.own, over: "" }) === ""; }

  // ------------------------------------------------ drawing

  draw() {
    if (this.changed) {
      this.found = findBoundaries(this.runs.get(this.state.variant), this.settings(), this.data.constants);
      this.found.band = fusedBand(this.found);
      this.judge();
      this.showForm();
      this.showFound();
      this.changed = false;
    }
    this.drawEvidence();
    this.drawProfile();
    this.drawPanel();
    this.drawn = true;
  }

  judge() {
    const { rule, reliability: trusts, variant } = this.state, found = this.found;
    const grid = this.data.grids[variant ? `variant ${variant}` : trusts ? "trusted" : "plain"];
    const tested = rule === "mspgt" && grid && !(variant && !trusts);
    const looked = tested ? lookUpP(grid.rows, found.weights, found.boundaries, grid.reach)
      : { p: found.boundaries.map(() => null), from: null };
    found.p = looked.p;
    found.pFrom = looked;
    found.pSize = tested ? grid.rows.length : 0;
    found.verdicts = found.boundaries.map((_, i) => verdict(found.p[i], found.intervals[i], rule, this.data.constants));
    // The audit may have withdrawn a verdict of the run's own.
    const own = this.data.own;
    if (this.isOwn() && own.gaps.join() === found.boundaries.join()) found.verdicts = own.verdicts;
  }

  showForm() {
    const { state, form } = this, field = name => form.elements[name];
    const total = sum(Object.values(state.weights)) || 1;
    for (const name of this.names) {
      field(`weight-${name}`).value = state.weights[name];
      const why = this.found.why[this.names.indexOf(name)];
      form.querySelector(`output[data-of="${CSS.escape(name)}"]`).textContent = percent(state.weights[name] / total) + (why && why !== "weight 0" ? ` (${why})` : "");
    }
    field("prominence").value = state.prominence;
    form.querySelector('output[data-of="prominence"]').textContent = state.prominence.toFixed(2);
    field("rule").value = state.rule;
    field("reliability").checked = state.reliability;
    field("reliability").disabled = state.rule === "paper";
    if (field("variant")) field("variant").value = state.variant;
    field("over").value = state.over;
    field("reset").disabled = this.isOwn();
    if (this.points) this.paintTriangle(total);
  }

  paintTriangle(total) {
    const run = this.runs.get(this.state.variant), G = this.data.n_gaps, seen = new Set();
    const whole = { ...this.settings(), weights: this.names.map(() => 1) };
    const why = whyLeftOut(run, whole, this.data.constants), trusts = whole.rule === "mspgt" && whole.reliability;
    const shown = scaleSignals(run.curves, run.reliability.map((t, s) => (why[s] ? 0 : trusts ? t ?? 1 : 1)));
    const hue = gap => `hsl(${Math.round(250 - (220 * (gap - 1)) / Math.max(1, G - 1))} 65% ${isDark(this.root) ? 62 : 48}%)`;
    for (const { weights, point } of this.points) {
      const active = sum(weights.map((w, s) => (why[s] ? 0 : w)));
      const fused = active ? fuse(shown, weights.map((w, s) => (why[s] ? 0 : w / active))) : null;
      const peaks = fused ? pickPeaks(fused, whole.prominence) : [];
      const main = peaks.length ? peaks.reduce((a, b) => (fused[b] > fused[a] ? b : a)) + 1 : null;
      if (main) seen.add(main);
      point.setAttribute("fill", main ? hue(main) : "var(--line)");
    }
    const [cx, cy] = this.placeWeights(this.names.map(name => this.state.weights[name] / total));
    this.cross.setAttribute("cx", cx);
    this.cross.setAttribute("cy", cy);
    this.key.replaceChildren("Highest peak at gap ", ...[...seen].sort((a, b) => a - b).flatMap(gap =>
      [h("span", { class: "choice" }, h("span", { class: "chip", style: `background: ${hue(gap)}` }), `${gap}`), " "]), "· click to choose");
  }

  showFound() {
    const { found, data } = this, L = data.n_layers, rule = this.state.rule;
    const gaps = found.boundaries;
    const supported = found.verdicts.filter(v => v === data.constants.verdicts[0] || v === "accepted").length;
    const what = !gaps.length ? "no boundary: no peak is prominent enough"
      : `${gaps.length === 1 ? "one peak" : "two peaks"}, at gap${gaps.length > 1 ? "s" : ""} ${gaps.join(" and ")}; `
        + (supported ? `${supported} ${rule === "paper" ? "accepted" : "supported"}` : `none ${rule === "paper" ? "accepted" : "supported"}`);
    const ties = gaps.flatMap((gap, i) => (found.nearTies?.[i]
      ? [` ${percent(found.tieShares[i])} of the resamples put gap ${gap} at gap ${found.nearTies[i]} instead.`] : []));
    this.live.replaceChildren(h("b", {}, this.isOwn() ? "The run's own settings: " : "At these settings: "), `${what}.`, ...ties);
    const rows = gaps.map((gap, i) => [`gap ${gap}`, percent(gap / L), spanText(found.intervals[i]),
      percent(found.presence[i]), rule === "paper" ? "not tested" : pText(found.p[i]), found.verdicts[i]]);
    const notes = [];
    if (rule === "paper") notes.push("The published rule does not ask whether a boundary exists.");
    else if (gaps.length && found.pFrom.from)
      notes.push(found.pFrom.exact && this.isOwn() ? "p is the run's own." : `p was computed beforehand, at ${found.pSize} choices of weights; `
        + `this is that of the nearest with the same peaks (${this.names.map((n, s) => `${n} ${percent(found.pFrom.from[s])}`).join(", ")}).`);
    else if (gaps.length) notes.push("No p: none of the weights tested beforehand is near and gives these peaks, or too few signals are left to agree.");
    if (this.state.variant) notes.push(`Intervals from ${this.runs.get(this.state.variant).resampled?.length / this.names.length / data.n_gaps || 0} resamples, as in the audit.`);
    else if (data.resamples_shown < data.resamples) notes.push(`Intervals from ${data.resamples_shown} of the ${data.resamples} resamples.`);
    this.now.replaceChildren(rows.length ? table("Peaks now", ["peak", "depth", "95 % interval", "found in", "p", "verdict"], rows) : "",
      h("p", { class: "soft" }, notes.join(" ")));
  }

  drawEvidence() {
    const { data, found, state, root } = this, G = data.n_gaps, gaps = range(G).map(g => g + 1);
    const [ink, soft, line, accent, paper] = ["ink", "soft", "line", "accent", "paper"].map(name => colour(root, name));
    const palette = isDark(root) ? DARK : COLOURS, narrow = this.picture.clientWidth < 560;
    const traces = [];
    if (found.band) traces.push({ x: [...gaps, ...gaps.slice().reverse()], y: [...found.band[1], ...found.band[0].slice().reverse()],
      fill: "toself", fillcolor: soft.replace("rgb(", "rgba(").replace(")", ", 0.22)"), mode: "lines", line: { width: 0 }, hoverinfo: "skip",
      name: "95 % of resamples" });
    data.signals.forEach((signal, s) => {
      const why = found.why[s], shown = why ? this.asIfUsed(s) : Array.from(found.shown[s]);
      const raw = this.runs.get(state.variant).curves[s];
      traces.push({ x: gaps, y: shown, mode: "lines+markers", name: why ? `${signal.name}: ${why}` : signal.name,
        line: { color: why ? soft : palette[s % palette.length], width: 1.5, dash: why ? "dot" : "solid" },
        opacity: why ? 0.6 : 1, marker: { size: 6, symbol: SYMBOLS[s % SYMBOLS.length] },
        customdata: raw, hovertemplate: `%{y:.3f}, raw %{customdata:.4g} [${signal.unit}]` });
    });
    const over = this.others.find(o => o.name === state.over);
    if (over) traces.push(this.overTrace(over, soft));
    traces.push({ x: gaps, y: Array.from(found.fused), mode: "lines+markers", name: "fused evidence", line: { color: ink, width: 3.5 },
      marker: { size: 7 }, hovertemplate: "%{y:.3f}" });
    found.boundaries.forEach((gap, i) => {
      const [low, high] = found.intervals[i];
      traces.push({ x: low === null ? [gap] : [low, high], y: low === null ? [i] : [i, i], yaxis: "y2", mode: "lines",
        line: { color: accent, width: 7 }, showlegend: false, hovertemplate: `gap ${gap}, 95 % interval ${spanText([low, high])}<extra></extra>` },
      { x: [gap], y: [i], yaxis: "y2", mode: "markers", marker: { color: paper, size: 9, line: { color: accent, width: 2 } },
        showlegend: false, hoverinfo: "skip" });
    });
    const vertical = (x, style) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: style });
    const shapes = found.boundaries.map(gap => vertical(gap, { color: accent, width: 2, dash: "dash" }));
    if (state.gap) shapes.push({ type: "rect", x0: state.gap - 0.45, x1: state.gap + 0.45, y0: 0, y1: 1, yref: "paper",
      line: { width: 0 }, fillcolor: accent, opacity: 0.12 });
    const close = found.boundaries.length === 2 && found.boundaries[1] - found.boundaries[0] < 0.1 * G;
    const annotations = found.boundaries.map((gap, i) => ({ x: gap, y: 1, yref: "paper", yanchor: "bottom", showarrow: false,
      xanchor: close ? ["right", "left"][i] : "center", text: `<b>${gap}</b>`, font: { color: accent, size: 14 } }));
    const step = G <= (narrow ? 12 : 16) ? 1 : G <= 60 ? 5 : 10;
    this.plotly.react(this.picture, traces, {
      autosize: true, height: Math.max(330, Math.min(460, innerHeight - 330)), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 44, r: 24, t: 24, b: 40 }, font: { color: ink, size: 13, family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif" },
      hovermode: "x unified", hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink, size: 12 }, namelength: -1 }, dragmode: false,
      xaxis: { range: [0.4, G + 0.6], tick0: step > 1 ? 0 : 1, dtick: step, anchor: "y2", gridcolor: line, zeroline: false,
        title: { text: "gap b (between blocks b−1 and b)", standoff: 6 }, fixedrange: true },
      yaxis: { domain: [0.13, 1], range: [-0.03, 1.04], gridcolor: line, zeroline: false, fixedrange: true,
        title: { text: "evidence, 0 to 1", standoff: 4 } },
      yaxis2: { domain: [0, 0.09], range: [1.7, -0.7], showgrid: false, zeroline: false, fixedrange: true,
        tickvals: found.boundaries.length ? [(found.boundaries.length - 1) / 2] : [], ticktext: ["95 %"] },
      legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top", font: { size: 12 } }, shapes, annotations, uirevision: "same",
    }, { responsive: false, displayModeBar: false });
    if (!this.listens) {
      this.listens = true;
      this.picture.on("plotly_click", event => this.update({ gap: Math.round(event.points[0].x) }));
      // Also between points, and with the finger.
      this.picture.addEventListener("click", event => {
        const axis = this.picture._fullLayout?.xaxis, box = this.picture.getBoundingClientRect();
        const plot = this.picture.querySelector(".nsewdrag")?.getBoundingClientRect();
        if (!axis || !plot || event.clientX < plot.left || event.clientX > plot.right || event.clientY < plot.top || event.clientY > box.bottom - 60) return;
        const gap = Math.round(axis.p2d(event.clientX - plot.left));
        if (gap >= 1 && gap <= G) this.update({ gap });
      }, true);
    }
  }

  /** What the first token and the attention sinks do, on the depth axis of the evidence above it. */
  drawProfile() {
    const { data, bos, root } = this, profile = data.profile;
    if (!bos || !bos.parentElement.open) return;
    const near = this.found.boundaries.filter(gap => profile.onset.some((on, i) => on && Math.abs(i + 1 - gap) <= 1));
    const onsets = [["starts", 1], ["ends", -1]].flatMap(([what, sign]) => {
      const gaps = profile.onset.flatMap((on, i) => (on * sign > 0 ? [i + 1] : []));
      return gaps.length ? [`${what} at gap${gaps.length > 1 ? "s" : ""} ${gaps.join(", ")}`] : [];
    });
    this.bosNote.textContent = (onsets.length ? `A massive activation or a sink ${onsets.join(" and ")}. `
      + (near.length ? `${near.length > 1 ? "Gaps" : "Gap"} ${near.join(" and ")} ${near.length > 1 ? "lie" : "lies"} there or beside; `
        + `a random gap would in ${percent(profile.chance)}. ` : "No peak lies within one gap of it. ")
      : "No massive activation or sink starts or ends at any gap. ")
      + "Norm of the first token over the median of the others, and the share of attention that it and other sinks take.";
    const [ink, line, accent, soft] = ["ink", "line", "accent", "soft"].map(name => colour(root, name));
    // Block l lies between gaps l and l + 1.
    const x = range(data.n_layers).map(layer => layer + 0.5), G = data.n_gaps, axis = { gridcolor: line, zeroline: false, fixedrange: true };
    const step = G <= (bos.clientWidth < 560 ? 12 : 16) ? 1 : G <= 60 ? 5 : 10;
    this.plotly.react(bos, [
      { x, y: profile.first_norm, mode: "lines+markers", name: "norm of the first token / median", line: { color: ink, width: 2 }, marker: { size: 5 } },
      { x, y: profile.sink_mass, mode: "lines+markers", yaxis: "y2", name: "attention to sinks", line: { color: soft, width: 2, dash: "dot" }, marker: { size: 5, symbol: "square" } },
    ], {
      autosize: true, height: 190, margin: { l: 44, r: 24, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, sans-serif" }, hovermode: "x unified", hoverlabel: { bgcolor: colour(root, "paper"), bordercolor: line, font: { color: ink } },
      xaxis: { ...axis, range: [0.4, G + 0.6], tick0: step > 1 ? 0 : 1, dtick: step, hoverformat: ".1f" },
      yaxis: { ...axis, type: "log", nticks: 4, tickformat: "~g" },
      yaxis2: { overlaying: "y", side: "right", range: [0, 1], showgrid: false, fixedrange: true, visible: false },
      legend: { orientation: "h", x: 0, y: -0.22, yanchor: "top" },
      shapes: [...this.found.boundaries.map(gap => ({ type: "line", x0: gap, x1: gap, y0: 0, y1: 1, yref: "paper", line: { color: accent, width: 2, dash: "dash" } })),
        ...profile.onset.flatMap((on, i) => (on ? [{ type: "rect", x0: i + 0.6, x1: i + 1.4, y0: 0, y1: 1, yref: "paper", line: { width: 0 }, fillcolor: soft, opacity: 0.2 }] : []))],
    }, { responsive: true, displayModeBar: false });
  }

  /** A signal that takes no part, drawn as it would have been; nothing where it could not be computed. */
  asIfUsed(s) {
    const curve = this.runs.get(this.state.variant).curves[s];
    if (curve.some(v => v === null)) return curve;
    return Array.from(scaleSignals([curve], [1])[0]);
  }

  overTrace(over, ink) {
    const weights = this.names.map(name => this.state.weights[name]);
    const own = this.names.map(name => over.signals.find(s => s.name === name));
    const run = { curves: own.map(s => s?.curve ?? [null]), reliability: own.map(s => s?.reliability ?? null), resampled: null };
    const G = over.signals[0].curve.length;
    run.curves = run.curves.map(curve => (curve.length === G ? curve : Array(G).fill(null)));
    const found = findBoundaries(run, { ...this.settings(), weights }, this.data.constants);
    const scale = this.data.n_layers / over.n_layers;
    return { x: range(G).map(g => (g + 1) * scale), y: Array.from(found.fused), mode: "lines+markers", line: { color: ink, width: 2.5, dash: "dash" },
      marker: { size: 6, symbol: "diamond-open" }, name: `${over.name}: peaks at ${found.boundaries.join(", ") || "none"}`,
      hovertemplate: `${over.name} %{y:.3f}<extra></extra>` };
  }

  // ------------------------------------------------ the chosen gap

  drawPanel() {
    const gap = this.state.gap, { data, found } = this;
    if (!gap) {
      this.panel.replaceChildren(h("p", { class: "soft" }, "Click a gap of the curve, or move with the arrow keys, to see what lies behind it."));
      return;
    }
    const run = this.runs.get(this.state.variant), g = gap - 1;
    const rows = data.signals.map((signal, s) => [signal.title, `${digits(run.curves[s][g], 4)} ${signal.unit}`,
      this.state.variant ? "–" : `${digits(signal.low[g])} … ${digits(signal.high[g])}`,
      digits(found.why[s] ? null : found.shown[s][g], 3), found.why[s] || percent(found.fused[g] > 0 ? found.weights[s] * found.shown[s][g] / found.fused[g] : null)]);
    const parts = [h("h3", {}, `Gap ${gap}, between blocks ${gap - 1} and ${gap} (depth ${percent(gap / data.n_layers)}): evidence ${digits(found.fused[g], 3)}`),
      table("Signals here", ["signal", "raw", "95 % of resamples", "as fused, 0 to 1", "share of the evidence"], rows)];
    parts.push(this.probeTable(gap), this.auditTable(gap), this.ckaRow(gap), this.sentenceList(gap));
    this.panel.replaceChildren(...parts.filter(part => part));
    this.drawCka(gap);
  }

  probeTable(gap) {
    const rows = this.data.f1.map(one => [one.task, ...["mlp", "linear", "control"].map(kind => {
      const [a, b] = [one[kind][gap - 1], one[kind][gap]];
      return a === null || b === null ? "–" : `${a.toFixed(3)} → ${b.toFixed(3)} (${(b - a >= 0 ? "+" : "−") + Math.abs(b - a).toFixed(3)})`;
    })]);
    return rows.length ? table(`Probe F1, layer ${gap - 1} → layer ${gap}`, ["task", "MLP", "linear", "control (random labels)"], rows) : null;
  }

  auditTable(gap) {
    const at = this.data.audit.gaps.indexOf(gap), fused = this.data.audit.fused;
    if (!this.data.audit.names.length) return null;
    const rows = this.data.audit.names.map((name, i) => [name, digits(fused[i][gap - 1], 3),
      at < 0 ? "no boundary of the run" : this.data.audit.moved[at][i] === null ? "lost"
        : `gap ${this.data.audit.moved[at][i]}, p ${pText(this.data.audit.p[at][i])}`]);
    const grade = at < 0 ? "" : `: graded ${this.data.audit.grades[at]}`;
    return h("details", { open: at >= 0 }, h("summary", {}, `Audit of this gap${grade}`),
      table("Under other choices", ["choice", "evidence here", "nearest boundary"], rows));
  }

  ckaRow(gap) {
    this.ckaPlace = this.data.cka.length ? h("div", { class: "cka-row", role: "img", "aria-label": `CKA of layers ${gap - 1} and ${gap} with every layer` }) : null;
    return this.ckaPlace && h("figure", {}, h("figcaption", {}, `How alike layers ${gap - 1} and ${gap} are to every layer (CKA)`), this.ckaPlace);
  }

  drawCka(gap) {
    if (!this.ckaPlace) return;
    const [ink, line, accent, soft] = ["ink", "line", "accent", "soft"].map(name => colour(this.root, name));
    const layers = range(this.data.n_layers), row = layer => this.data.cka[layer];
    const trace = (layer, style) => ({ x: layers, y: row(layer), mode: "lines+markers", name: `layer ${layer}`, ...style });
    this.plotly.react(this.ckaPlace, [trace(gap - 1, { line: { color: soft, width: 2 }, marker: { symbol: "square" } }), trace(gap, { line: { color: accent, width: 2 } })], {
      height: 220, autosize: true, margin: { l: 44, r: 10, t: 8, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, sans-serif" }, hovermode: "x unified", legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 1, xanchor: "right" },
      xaxis: { gridcolor: line, zeroline: false, title: { text: "layer", standoff: 4 }, fixedrange: true }, yaxis: { gridcolor: line, zeroline: false, fixedrange: true },
    }, { responsive: true, displayModeBar: false });
  }

  sentenceList(gap) {
    const told = this.data.sentences?.[gap];
    if (!told) return null;
    const worst = Math.max(...told.map(s => Math.abs(s.effect)), 1e-12);
    const item = s => h("li", {}, h("span", { class: "effect", style: `--size: ${Math.round((100 * Math.abs(s.effect)) / worst)}%` },
      `${s.effect >= 0 ? "+" : "−"}${digits(Math.abs(s.effect), 2)}`), h("span", { class: "tokens" }, ...s.tokens.map((t, i) =>
      (i === s.drawn ? h("mark", { title: "the token that stands for this sentence" }, t) : h("span", {}, t)))));
    return h("details", { open: true }, h("summary", {}, "Sentences that move the evidence here most"),
      h("p", { class: "soft" }, this.data.sentence_note), h("ol", { class: "sentences" }, ...told.map(item)));
  }
}

/** Put an explorer into an element; returns it, with `state`, `update(change)` and `remove()`. */
export function mount(root, data, options) { return new Explorer(root, data, options); }

// ---------------------------------------------------------------- the notebook's host

/** The page's own Plotly, or else the one that the Python side sends on request (so that no network is needed). */
async function plotlyOf(model) {
  if (globalThis.Plotly) return globalThis.Plotly;
  globalThis.mspgtPlotly ??= new Promise(resolve => {
    const receive = async (message, buffers) => {
      if (message?.kind !== "plotly") return;
      model.off("msg:custom", receive);
      const text = new TextDecoder().decode(buffers[0]);
      // As a CommonJS module, so that it neither meets a page's own loader nor needs one.
      const address = URL.createObjectURL(new Blob(["const module = { exports: {} };", text, ";export default module.exports;"], { type: "text/javascript" }));
      resolve((await import(address)).default);
      URL.revokeObjectURL(address);
    };
    model.on("msg:custom", receive);
    model.send({ kind: "plotly" });
  });
  return globalThis.mspgtPlotly;
}

async function render({ model, el }) {
  // Or the notebook would take the arrow keys for its own: it moves between cells with them.
  const plotly = await plotlyOf(model), root = h("div", { "data-lm-suppress-shortcuts": "true", onkeydown: e => e.stopPropagation() });
  el.append(root);
  const explorer = mount(root, model.get("data"), { plotly, state: model.get("state"),
    onState: state => { model.set("state", state); model.save_changes(); } });
  const follow = () => {
    const state = model.get("state");
    if (JSON.stringify(state) !== JSON.stringify(explorer.state)) explorer.update(state);
  };
  model.on("change:state", follow);
  return () => { model.off("change:state", follow); explorer.remove(); };
}

export default { render };
