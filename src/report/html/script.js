"use strict";
let page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Makes an element; attributes with the value null are left out, a function is a listener. */
function make(tag, attributes, ...children) {
  const svg = ["svg", "path", "rect", "text", "line", "circle", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const percent = (value) => (value === null || value === undefined ? "-" : (100 * value).toFixed(1));
function seconds(value) {
  if (value === null || value === undefined) return "-";
  if (value < 60) return value.toFixed(value < 0.1 ? 2 : 1) + " s";
  if (value < 3600) return Math.floor(value / 60) + " min " + Math.round(value % 60) + " s";
  return Math.floor(value / 3600) + " h " + Math.round((value % 3600) / 60) + " min";
}
function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return (unit === "B" ? value : value.toFixed(1)) + " " + unit;
    value /= 1024;
  }
  return value.toFixed(1) + " TiB";
}
function table(titles, rows) {
  const head = make("tr", null, titles.map((title) => make("th", { scope: "col", class: title.word ? "word" : null }, title.text)));
  return make("table", null, make("thead", null, head), make("tbody", null, rows));
}
const word = (text) => ({ text, word: true });
const number = (text) => ({ text });
/** A box that scrolls what is wider or longer than it, also by the keys. */
function scroller(label, ...children) {
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, children);
}
/** Something that is drawn when it is first unfolded. */
function unfolding(summary, draw) {
  const node = make("details", { toggle: () => { if (node.open && node.children.length === 1) node.append(draw()); } }, make("summary", null, summary));
  return node;
}
/** A time as people write it; `2026-11-30T20:46:46.503Z` is how it comes. */
const moment = (text) => text.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC");
/** Hides a section that has nothing to show; returns the box for what it shows, emptied. */
function section(id, filled) {
  const node = $(id);
  node.hidden = !filled;
  let box = node.querySelector(":scope > .body");
  if (!box) { box = make("div", { class: "body" }); node.append(box); }
  box.replaceChildren();
  return box;
}
/** Lists the sections that have something to show. */
function contents() {
  const shown = [...document.querySelectorAll("main > section:not([hidden])")];
  const ids = shown.map((node) => node.id).join(" ");
  if ($("sections").dataset.ids === ids) return;
  $("sections").dataset.ids = ids;
  $("sections").replaceChildren(...shown.map((node) => make("li", null, make("a", { href: "#" + node.id }, node.querySelector("h2").textContent))));
}
/** Draws a section anew; what had the focus in it, what was unfolded and how far it was scrolled stays. */
function again(id, draw) {
  const node = $(id);
  const all = (which) => [...node.querySelectorAll(which)];
  const reachable = "button, select, input, summary, a, [tabindex]";
  const focus = node.contains(document.activeElement) ? all(reachable).indexOf(document.activeElement) : -1;
  const open = all("details").map((one) => one.open);
  const scrolled = all(".scroll").map((one) => [one.scrollLeft, one.scrollTop]);
  draw();
  all("details").forEach((one, at) => { one.open = Boolean(open[at]); });
  all(".scroll").forEach((one, at) => { if (scrolled[at]) [one.scrollLeft, one.scrollTop] = scrolled[at]; });
  const target = focus < 0 ? null : all(reachable)[focus];
  if (target && target !== document.activeElement) target.focus({ preventScroll: true });
}
/** What was chosen where, for when a section is drawn anew. */
const kept = { step: 0, asked: false, scale: 1, metrics: "", thresholds: "", images: { group: 0, className: "", order: "worst", hidden: new Set() } };
function choice(label, options, chosen, change) {
  const select = make("select", { change: (event) => change(event.target.value) });
  for (const [value, text] of options) select.append(make("option", { value, selected: value === chosen }, text));
  return make("label", null, label + " ", select);
}

// Stages

/** Shows a stage; where the reader asked for it, that is said, and it is looked for in the picture. */
function show(index, asked) {
  kept.step = index;
  kept.asked = kept.asked || Boolean(asked);
  const step = page.steps[index];
  const details = $("details");
  const now = tracked(step.name);
  details.replaceChildren();
  const row = (name, value) => (value === null || value === undefined || value === "" ? [] : [make("dt", null, name), make("dd", null, String(value))]);
  const made = step.made || {};
  const reason = (now && now.note) || step.reason;
  details.append(
    make("h3", null, step.name),
    make("dl", null,
      row("kind", step.kind), row("state", stateOf(step)), row(stateOf(step) === "cached" ? "why it ran" : "why", reason), row("done", progressOf(now)), row("measured", measuredOf(now)),
      row("took", made.seconds === undefined ? null : seconds(made.seconds)),
      row("peak memory", made.peak_memory ? bytes(made.peak_memory) : null),
      row("made", made.started ? moment(made.started) : null), row("on", made.host ? made.host + ", device " + made.device : null),
      row("by", made.stage ? "stage " + made.stage + " of " + made.pipeline + ", version " + made.version : null),
      row("result", step.size === null ? null : step.parts + (step.parts === 1 ? " part, " : " parts, ") + bytes(step.size)),
      row("images", step.images || null)));
  if (step.inputs.length) {
    details.append(make("h4", null, "Inputs"), make("dl", null, step.inputs.map(([port, other]) => [
      make("dt", null, port),
      make("dd", null, make("button", { class: "link", type: "button", click: () => { show(other, true); $("details").focus(); } }, page.steps[other].name)),
    ])));
  }
  if (step.params.length) {
    details.append(make("h4", null, "Parameters"), make("dl", null, step.params.map(([name, value, place]) => [
      make("dt", null, name), make("dd", null, make("span", { class: "mono" }, value), make("span", { class: "soft" }, "  " + (place || "default"))),
    ])));
  }
  if (step.log.length) details.append(make("h4", null, "Log"), make("pre", { tabindex: 0, "aria-label": "Log of " + step.name }, step.log.join("\n")));
  if (step.key || step.output) {
    details.append(make("h4", null, "In the cache"), make("dl", { class: "digests" }, row("key", step.key), row("result", step.output)));
  }
  const near = new Set(step.inputs.map(([, other]) => other));
  page.steps.forEach((other, at) => { if (other.inputs.some(([, from]) => from === index)) near.add(at); });
  for (const node of document.querySelectorAll("#picture .step")) {
    const at = Number(node.dataset.step);
    node.classList.toggle("chosen", at === index);
    node.classList.toggle("near", kept.asked && near.has(at));
    node.setAttribute("aria-pressed", at === index ? "true" : "false");
    if (at === index && asked) reveal(node, false);
  }
  for (const node of document.querySelectorAll("#picture [data-from]")) {
    node.classList.toggle("near", kept.asked && (Number(node.dataset.from) === index || Number(node.dataset.to) === index));
  }
  if (asked) $("chosen").textContent = "Shown: " + step.name + ", " + step.kind + ", " + stateOf(step);
}
/** Scrolls the picture to a box: to the middle, or no more than it takes. */
function reveal(node, middle) {
  const box = node.getBoundingClientRect(), view = $("picture").getBoundingClientRect();
  const inside = box.left >= view.left && box.right <= view.right && box.top >= view.top && box.bottom <= view.bottom;
  if (inside && !middle) return;
  $("picture").scrollBy({ left: (box.left + box.right - view.left - view.right) / 2, top: (box.top + box.bottom - view.top - view.bottom) / 2, behavior: "instant" });
}
/** Draws the picture at a scale; 0 is the one at which all of it is seen, if it can be read then. */
function zoom(scale) {
  const svg = document.querySelector("#picture > svg"), picture = $("picture");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const whole = Math.min(1, (picture.clientWidth - 2) / width);
  kept.scale = Math.min(2, Math.max(0.1, scale || Math.max(whole, 0.7)));
  const across = (picture.scrollLeft + picture.clientWidth / 2) / picture.scrollWidth, down = (picture.scrollTop + picture.clientHeight / 2) / picture.scrollHeight;
  svg.setAttribute("width", Math.floor(width * kept.scale));
  svg.setAttribute("height", Math.floor(height * kept.scale));
  picture.scrollTo({ left: across * picture.scrollWidth - picture.clientWidth / 2, top: down * picture.scrollHeight - picture.clientHeight / 2, behavior: "instant" });
}
function wholePicture() {
  const picture = $("picture");
  const [, , width] = document.querySelector("#picture > svg").getAttribute("viewBox").split(" ").map(Number);
  zoom(Math.min(1, (picture.clientWidth - 2) / width));
}
/** Makes what changes the picture; once. */
function tools() {
  const graphs = [...document.querySelectorAll("template[data-graph]")];
  if (graphs.length) {
    $("zoom").append(choice("Point", graphs.map((one, at) => [String(at), one.dataset.graph || "all points"]), "0", (at) => {
      $("picture").replaceChildren(graphs[at].content.cloneNode(true));
      wire();
      mark();
      zoom(0);
      const shown = document.querySelector("#picture .step[data-step='" + kept.step + "']") || document.querySelector("#picture .step");
      if (shown) { show(Number(shown.dataset.step)); reveal(shown, true); }
    }));
  }
  for (const [text, label, act] of [["\u2212", "Smaller", () => zoom(kept.scale / 1.25)], ["+", "Larger", () => zoom(kept.scale * 1.25)], ["Whole width", null, wholePicture], ["100 %", "100 %, natural size", () => zoom(1)]]) {
    $("zoom").append(make("button", { type: "button", "aria-label": label, click: act }, text));
  }
}
/** Makes the boxes of the picture buttons. */
function wire() {
  const picture = document.querySelector("#picture > svg");
  picture.setAttribute("role", "group");
  for (const node of picture.querySelectorAll(".step")) {
    const open = () => show(Number(node.dataset.step), true);
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "button");
    node.addEventListener("click", open);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
    });
  }
}
/** Writes on the boxes of the picture where their stages stand. */
function mark() {
  for (const node of document.querySelectorAll("#picture .step")) {
    const step = page.steps[Number(node.dataset.step)];
    const now = tracked(step.name);
    const state = stateOf(step);
    const share = now && now.state === "running" && now.total ? " " + Math.floor((100 * now.done) / now.total) + " %" : "";
    node.setAttribute("aria-label", step.name + ", " + step.kind + ", " + state + share);
    node.classList.toggle("failed", state === "failed");
    node.classList.toggle("running", state === "running" || state === "elsewhere");
    node.classList.toggle("missing", step.output === null && !(now && (now.state === "done" || now.state === "cached")));
    const told = now && ["running", "elsewhere", "failed", "skipped", "stopped"].includes(now.state);
    node.querySelector(".kind").textContent = told ? state + share : step.kind;
  }
}
function graph() {
  $("graph").hidden = page.steps.length === 0;
  if (!page.steps.length) return;
  mark();
  $("stages").replaceChildren(table([word("stage"), word("kind"), word("state"), number("took"), number("size")], page.steps.map((step, index) =>
    make("tr", null,
      make("td", { class: "word" }, make("button", { class: "link", type: "button", click: () => { show(index, true); $("details").scrollIntoView({ block: "nearest" }); } }, step.name)),
      make("td", { class: "word" }, step.kind), make("td", { class: "word" }, stateOf(step)),
      make("td", null, step.made ? seconds(step.made.seconds) : "-"), make("td", null, step.size === null ? "-" : bytes(step.size))))));
  show(Math.min(kept.step, page.steps.length - 1));
}

// Plots

// Five and six have no common divisor: of 30 lines no two look alike.
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "14 4"];
const LINES = 30;
function line(name, points, at) {
  return { name, points, colour: "var(--c" + (at % 6) + ")", dash: DASHES[at % DASHES.length] };
}
/** Round numbers, about four of them, that span an interval or lie in it. */
function ticks(low, high, inside) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5].find((one) => one * power >= rough * 0.999) || 10);
  const first = inside ? Math.ceil(low / step - 1e-6) : Math.floor(low / step + 1e-6), last = inside ? Math.floor(high / step + 1e-6) : Math.ceil(high / step - 1e-6);
  return Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
}
/** Draws lines over one pair of axes. `mark` is a place on the lower axis with a word for it. */
function plot(title, series, across, up, bounds, mark, caption) {
  const width = 400, height = 230, left = 56, right = 12, top = 10, bottom = 34;
  const all = series.flatMap((one) => one.points);
  const reach = (at) => {
    const values = all.map((point) => point[at]);
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { low -= 0.5; high += 0.5; }
    return [low, high];
  };
  const [x0, x1] = bounds ? bounds[0] : reach(0);
  const [low, high] = bounds ? bounds[1] : reach(1);
  const upwards = ticks(low, high, false), y0 = upwards[0], y1 = upwards[upwards.length - 1];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value !== 0 && Math.abs(value) < 0.001 ? Number(value.toPrecision(3)).toExponential() : Number(value.toPrecision(3)).toString());
  const label = (text, at, anchor) => make("text", { x: at[0], y: at[1], style: "text-anchor: " + anchor }, text);
  const svg = make("svg", { class: "plot", width, height, viewBox: "0 0 " + width + " " + height, role: "img",
    "aria-label": title + ": " + series.map((one) => one.name + " from " + short(one.points[0][1]) + " to " + short(one.points[one.points.length - 1][1])).join(", ") });
  for (const value of upwards) svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }), label(short(value), [left - 6, y(value) + 4], "end"));
  for (const value of ticks(x0, x1, true)) svg.append(make("line", { class: "axis", x1: x(value), x2: x(value), y1: height - bottom, y2: height - bottom + 4 }), label(short(value), [x(value), height - bottom + 16], x(value) > width - 30 ? "end" : "middle"));
  svg.append(label(across, [(left + width - right) / 2, height - 3], "middle"));
  if (mark) {
    const after = mark.at < (x0 + x1) / 2;
    svg.append(make("line", { class: "mark", x1: x(mark.at), x2: x(mark.at), y1: top, y2: height - bottom }),
      label(mark.text, [x(mark.at) + (after ? 4 : -4), height - bottom - 6], after ? "start" : "end"));
  }
  for (const one of series) {
    const path = one.points.map((point, at) => (at ? "L" : "M") + x(point[0]).toFixed(1) + " " + y(point[1]).toFixed(1)).join("");
    svg.append(make("path", { d: path, style: "stroke: " + one.colour + (one.strong ? "; stroke-width: 3.2" : ""), "stroke-dasharray": one.dash || null }, make("title", null, one.name)));
  }
  const legend = make("ul", { class: "legend" }, series.map((one) => make("li", null,
    make("svg", { width: 30, height: 8, "aria-hidden": "true" }, make("path", { d: "M0 4H30", style: "stroke: " + one.colour + "; stroke-width: 2.5; fill: none", "stroke-dasharray": one.dash || null })),
    one.strong ? make("strong", null, one.name) : one.name)));
  return make("figure", null, make("figcaption", null, caption || title), up ? make("div", { class: "soft" }, up) : null, svg, series.length > 1 ? legend : null);
}
/** What a plot of curves over the same places shows, as a table. */
function numbers(across, curves) {
  const places = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((one, other) => one - other);
  const values = curves.map((curve) => new Map(curve.points));
  const short = (value) => (value === undefined || value === null ? "-" : String(Number(value.toPrecision(4))));
  return scroller("Values over " + across, table([across].concat(curves.map((curve) => curve.name.replaceAll("_", " "))).map(number),
    places.map((place) => make("tr", null, make("td", null, short(place)), values.map((of) => make("td", null, short(of.get(place))))))));
}

// Scores

function results() {
  const found = page.results;
  const box = section("results", found !== null);
  if (!found) return;
  for (const one of found.tables) {
    const titles = one.heads.map(word).concat(one.columns.map(number));
    const about = make("p", { class: "soft" }, one.protocol);
    box.append(...(one.title ? [make("h3", null, one.title), about] : [about]), scroller((one.title || "Scores") + ": " + one.protocol, table(titles, one.rows.map((row) => make("tr", null,
      row.heads.map((text) => make("td", { class: "word" }, text)),
      row.cells.map((cell) => make("td", { class: cell && cell.best ? "best" : null }, cell ? cell.text : "-", cell && cell.best ? make("span", { class: "unseen" }, " best") : null)))))));
  }
  for (const note of found.notes) box.append(make("p", { class: "soft" }, note));
}
function metrics() {
  const tables = page.metrics;
  const box = section("metrics", tables.length > 0);
  if (!tables.length) return;
  const body = make("div");
  const first = Math.max(0, tables.findIndex((one) => one.stage === kept.metrics));
  const draw = (at) => {
    const found = tables[at];
    kept.metrics = found.stage;
    body.replaceChildren(make("p", { class: "soft" }, found.protocol));
    const bars = (name, key) => {
      const list = make("div", { class: "bars", role: "list", "aria-label": name + " of each class" });
      for (const one of found.per_class) {
        const value = one[key];
        list.append(make("span", null, one.name),
          make("div", { class: "bar", role: "listitem", "aria-label": one.name + ": " + percent(value) + " %" }, make("span", { style: "width: " + 100 * Math.max(0, Math.min(1, value || 0)) + "%" })),
          make("span", null, percent(value)));
      }
      return make("div", null, make("h3", null, name), list);
    };
    if (found.per_class.length) body.append(make("div", { class: "plots" }, bars("IoU %", "iou"), bars("Precision %", "precision"), bars("Recall %", "recall")));
    if (found.confusion.length) {
      const names = found.per_class.map((one) => one.name);
      const rows = found.confusion.map((row, truth) => {
        const sum = row.reduce((one, other) => one + other, 0);
        return make("tr", null, make("th", { scope: "row", class: "word" }, names[truth] || truth), row.map((count) => {
          const share = sum ? count / sum : 0;
          return make("td", { style: "background: rgba(var(--cell), " + (0.55 * share).toFixed(3) + ")", title: count + " pixels" }, sum ? (100 * share).toFixed(1) : "-");
        }));
      });
      body.append(make("h3", null, "Confusion: % of the true pixels of a class (rows) that were given a class (columns)"),
        make("div", { class: "confusion" }, scroller("Confusion matrix", table([word("truth")].concat(names.map(number)), rows))));
    }
  };
  box.append(make("div", { class: "controls" },
    choice("Stage", tables.map((one, at) => [String(at), one.stage + "  (mIoU " + percent(one.miou) + ")"]), String(first), (at) => draw(Number(at)))), body);
  draw(first);
}
function thresholds() {
  const found = page.metrics.filter((one) => one.curve.length > 1);
  const box = section("thresholds", found.length > 0);
  if (!found.length) return;
  const first = Math.max(0, found.findIndex((one) => one.stage === kept.thresholds));
  const whole = [[0, 1], [0, 1]];
  const known = (points) => points.filter((point) => point[0] !== null && point[1] !== null);
  const body = make("div");
  const draw = (at) => {
    const one = found[at];
    kept.thresholds = one.stage;
    const pick = (key) => known(one.curve.map((point) => [point.threshold, point[key]]));
    const own = [line("mIoU", pick("miou"), 0), line("precision", pick("precision"), 1), line("recall", pick("recall"), 2)].filter((one) => one.points.length);
    // The chosen one is shown whatever its place.
    const shown = found.map((_, index) => index).filter((index) => index < LINES || index === at);
    const curves = shown.map((index) => ({ ...line(found[index].stage, known(found[index].curve.map((point) => [point.recall, point.precision])), index), strong: index === at && found.length > 1 }));
    body.replaceChildren(make("p", { class: "soft" }, one.protocol),
      make("div", { class: "plots" },
        plot(one.stage, own, "background threshold", "score", [[one.curve[0].threshold, one.curve[one.curve.length - 1].threshold], [0, 1]], one.threshold === null ? null : { at: one.threshold, text: "chosen: " + one.threshold }),
        plot("Precision over recall", curves.filter((one) => one.points.length), "mean recall", "mean precision", whole)),
      shown.length < found.length ? make("p", { class: "soft" }, "Precision over recall of " + shown.length + " of " + found.length + " stages.") : "",
      unfolding(one.stage + " as a table", () => numbers("threshold", own)));
  };
  box.append(make("div", { class: "controls" }, choice("Stage", found.map((one, at) => [String(at), one.stage]), String(first), (at) => draw(Number(at)))), body);
  draw(first);
  box.append(make("h3", null, "All curves"), scroller("All curves", table([word("stage"), number("chosen threshold"), number("mIoU % there"), number("area under precision over recall %")], found.map((one) => make("tr", null,
    make("td", { class: "word" }, one.stage), make("td", null, one.threshold === null ? "-" : String(one.threshold)), make("td", null, percent(one.miou)), make("td", null, percent(one.area)))))));
}

// Images

function images() {
  const groups = page.images;
  const box = section("images", groups.length > 0);
  if (!groups.length) return;
  const state = kept.images;
  state.group = Math.min(state.group, groups.length - 1);
  const controls = make("div", { class: "controls" });
  const status = make("p", { class: "soft", role: "status" });
  const body = scroller("Images and what stages made of them");
  body.classList.add("gallery");
  const legend = make("div", { class: "key" });
  const columns = make("div", { class: "controls" });
  const draw = () => {
    const group = groups[state.group];
    const focus = controls.contains(document.activeElement) ? [...controls.querySelectorAll("select, button")].indexOf(document.activeElement) : -1;
    controls.replaceChildren();
    const shown = group.columns.map((_, at) => at).filter((at) => !state.hidden.has(group.columns[at]));
    if (groups.length > 1) controls.append(choice("Set", groups.map((one, at) => [String(at), one.name]), String(state.group), (at) => { state.group = Number(at); state.className = ""; draw(); }));
    const names = [...new Set(group.rows.flatMap((row) => row.classes))].sort();
    controls.append(choice("Class", [["", "all classes"]].concat(names.map((name) => [name, name])), state.className, (name) => { state.className = name; draw(); }));
    if (group.scored) {
      for (const [order, text] of [["worst", "Worst first"], ["best", "Best first"], ["name", "By name"]]) {
        controls.append(make("button", { type: "button", "aria-pressed": state.order === order ? "true" : "false", click: () => { state.order = order; draw(); } }, text));
      }
    }
    const rows = group.rows.filter((row) => !state.className || row.classes.includes(state.className));
    const by = (row) => (row.score === null ? 2 : row.score);
    rows.sort((one, other) => (!group.scored || state.order === "name" ? (one.id < other.id ? -1 : 1) : state.order === "worst" ? by(one) - by(other) : by(other) - by(one)));
    if (focus >= 0) controls.querySelectorAll("select, button")[focus].focus();
    status.textContent = rows.length + " of the " + group.rows.length + " images shown here, of " + group.total + " in the set" + (group.scored ? "; mIoU is that of " + group.scored + " in this image" : "");
    legend.replaceChildren(
      ...(group.has_maps ? [make("ul", { class: "legend", "aria-label": "Values of maps" }, make("li", null, "maps: 0 ", make("span", { class: "ramp", "aria-hidden": "true" }), " 1"))] : []),
      ...(group.colours.length ? [make("ul", { class: "legend", "aria-label": "Colours of masks" }, group.colours.map(([name, colour]) => make("li", null, make("span", { class: "swatch", style: "background: " + colour, "aria-hidden": "true" }), name)))] : []));
    columns.replaceChildren(...group.columns.map((name) => make("label", null, make("input", { type: "checkbox", checked: !state.hidden.has(name), change: (event) => {
      if (event.target.checked) state.hidden.delete(name); else state.hidden.add(name);
      draw();
      // Drawn anew, the box that was ticked is another one.
      [...columns.querySelectorAll("input")][group.columns.indexOf(name)].focus();
    } }), " " + name)));
    const cell = (row, at) => {
      const pictures = row.cells[at];
      if (!pictures) return make("td", null, make("span", { class: "none" }, "-"));
      const name = state.className && pictures[state.className] ? state.className : pictures[""] ? "" : Object.keys(pictures)[0];
      const what = group.columns[at] + " of " + row.id + (name ? ", class " + name : "");
      return make("td", null, make("img", { src: pictures[name], alt: what, width: row.width, height: row.height, loading: "lazy", decoding: "async" }));
    };
    const titles = [word("image")].concat(shown.map((at) => number(group.columns[at])));
    const made = rows.map((row) => make("tr", null,
      make("th", { scope: "row", class: "word" }, make("span", { class: "mono" }, row.id), make("br"), make("span", { class: "soft" }, row.classes.join(", ")),
        row.score === null ? null : make("br"), row.score === null ? null : "mIoU " + percent(row.score)),
      shown.map((at) => cell(row, at))));
    const drawn = table(titles, made);
    drawn.className = "grid";
    body.replaceChildren(drawn);
  };
  box.append(make("p", { class: "hint" }, "Maps are laid over the grey photograph; with all classes, the largest of them in each pixel. The class chooser picks the images that have a class, and its map."), controls, legend,
    make("details", null, make("summary", null, "Columns"), columns), status, body);
  draw();
}

// Two runs

function difference() {
  const found = page.difference;
  const box = section("difference", found !== null);
  if (!found) return;
  box.append(make("p", null, "A: " + found.names[0]), make("p", null, "B: " + found.names[1]),
    make("p", { class: "soft" }, found.same + (found.same === 1 ? " stage has" : " stages have") + " the same result on both sides."));
  for (const [at, side] of ["A", "B"].entries()) if (found.only_in[at].length) box.append(make("p", null, "Only in " + side + ": " + found.only_in[at].join(", ")));
  const values = found.stages.flatMap((stage) => stage.values.map((value) => [stage.stage, value.name, value.a, value.b]));
  if (values.length) box.append(make("h3", null, "Parameters and inputs"), scroller("Parameters and inputs that differ", table(["stage", "value", "A", "B"].map(word), values.map((row) => make("tr", null, row.map((text) => make("td", { class: "word" }, text)))))));
  for (const scores of found.scores) {
    const same = scores.protocols[0] === scores.protocols[1];
    box.append(make("h3", null, scores.stage), same ? null : make("p", null, "Not to be held against each other. A: " + scores.protocols[0] + ". B: " + scores.protocols[1] + "."),
      scroller("Scores of " + scores.stage, table([word("score %"), number("A"), number("B"), number("B - A")], scores.values.map((value) => {
        const change = same && value.a !== null && value.b !== null ? 100 * (value.b - value.a) : null;
        return make("tr", null, make("td", { class: "word" }, value.name), make("td", null, percent(value.a)), make("td", null, percent(value.b)),
          make("td", null, change === null ? "-" : (change >= 0 ? "+" : "") + change.toFixed(1)));
      }))));
  }
  const times = found.stages.filter((stage) => stage.seconds.some((value) => value !== null));
  if (times.length) box.append(make("h3", null, "Times"), scroller("Times", table([word("stage"), number("A"), number("B")], times.map((stage) => make("tr", null,
    make("td", { class: "word" }, stage.stage), make("td", null, seconds(stage.seconds[0])), make("td", null, seconds(stage.seconds[1])))))));
}

// The run

function training() {
  const box = section("training", page.training.length > 0);
  const all = make("div", { class: "side" });
  for (const stage of page.training) {
    all.append(make("div", null, make("h3", null, stage.stage), make("p", { class: "soft" }, "in run " + stage.run), curves(stage),
      unfolding(stage.stage + " as a table", () => numbers("step", stage.curves))));
  }
  box.append(all);
}
/** The curves of a stage, the loss before what is less often asked for. */
function curves(stage) {
  const sorted = [...stage.curves].sort((one, other) => (one.name === "loss" ? 0 : 1) - (other.name === "loss" ? 0 : 1));
  return make("div", { class: "plots" }, sorted.map((curve, at) => {
    const name = curve.name.replaceAll("_", " ");
    return plot(stage.stage + ": " + name, [{ ...line(name, curve.points, at), dash: "" }], "step", "", null, null, name);
  }));
}
function timeline() {
  const run = page.run;
  const place = section("timeline", run !== null && run.work.length > 0);
  if (!run || !run.work.length) return;
  const lanes = Math.max(...run.work.map((work) => work.lane)) + 1;
  const width = 1100, left = 74, row = 22, height = lanes * row + 34;
  const end = Math.max(run.seconds, ...run.work.map((work) => work.end));
  const x = (value) => left + (value / (end || 1)) * (width - left - 16);
  const names = [...new Set(run.work.map((work) => work.stage))];
  const svg = make("svg", { class: "plot", width, height, viewBox: "0 0 " + width + " " + height, role: "img",
    "aria-label": "Timeline: " + run.work.length + " actions of " + names.length + " stages on " + lanes + " workers in " + seconds(run.seconds) + "; the table below has the same" });
  for (let lane = 0; lane < lanes; lane++) svg.append(make("text", { x: left - 8, y: lane * row + 15, style: "text-anchor: end" }, "worker " + (lane + 1)));
  for (let tick = 0; tick <= 6; tick++) svg.append(make("text", { x: x((end * tick) / 6), y: height - 6, style: "text-anchor: " + (tick === 6 ? "end" : "middle") }, seconds((end * tick) / 6)));
  for (const work of run.work) {
    const step = page.steps.findIndex((step) => step.name === work.stage);
    const wide = Math.max(1.5, x(work.end) - x(work.start));
    const box = make("g", { class: "work", click: () => { if (step >= 0) { show(step, true); $("graph").scrollIntoView(); } } },
      make("rect", { x: x(work.start), y: work.lane * row + 2, width: wide, height: row - 4, rx: 3, style: "fill: var(--c" + (names.indexOf(work.stage) % 6) + ")" + (work.failed ? "; stroke: var(--bad); stroke-width: 3" : "") }),
      make("title", null, work.stage + (work.bucket === null ? "" : ", shard " + work.bucket) + ": " + seconds(work.end - work.start) + (work.failed ? ", failed" : "")));
    if (wide > 7 * work.stage.length + 8) box.append(make("text", { x: x(work.start) + 5, y: work.lane * row + 15, style: "text-anchor: start; fill: var(--back)" }, work.stage));
    svg.append(box);
  }
  const rows = names.map((name) => {
    const own = run.work.filter((work) => work.stage === name);
    return make("tr", null, make("td", { class: "word" }, name), make("td", null, seconds(Math.min(...own.map((work) => work.start)))), make("td", null, seconds(Math.max(...own.map((work) => work.end)))),
      make("td", null, seconds(own.reduce((sum, work) => sum + work.end - work.start, 0))), make("td", null, String(own.length)));
  });
  place.append(make("p", { class: "soft" }, "Run " + run.name + ", begun " + moment(run.started) + ", device " + run.device + ", at most " + run.jobs + (run.jobs === 1 ? " action" : " actions") + " at once. " + run.outcome + "."),
    scroller("Timeline", svg),
    make("details", null, make("summary", null, "The timeline as a table"), scroller("Timeline as a table", table([word("stage"), number("begins"), number("ends"), number("work"), number("actions")], rows))));
}

// A run under way

let live = null;
const tracked = (name) => (live && live.state ? live.state.stages.find((one) => one.name === name) || null : null);
/** Where a stage stands: as the run says, or else as the cache does. */
function stateOf(step) {
  const now = tracked(step.name);
  return now ? now.state : live && live.state && !live.state.outcome && step.status !== "cached" ? "waits" : step.status;
}
const progressOf = (now) => (now && now.total ? now.done + " of " + now.total + " " + now.unit + (now.pace && now.state === "running" ? ", " + now.pace : "") : null);
const measuredOf = (now) => (now && now.values.length ? now.values.map(([name, value]) => name.replaceAll("_", " ") + " " + Number(value.toPrecision(4))).join(", ") : null);

/** Keeps the page as it is now on the machine that serves it: what the run says each second, the rest when a result is new. */
function follow() {
  const box = section("live", true);
  const status = make("p", { role: "status" });
  const clock = make("p", { class: "soft" });
  const pause = make("button", { type: "button", "aria-pressed": "false", click: () => {
    const stop = pause.getAttribute("aria-pressed") === "false";
    pause.setAttribute("aria-pressed", stop ? "true" : "false");
    if (!stop) poll();
  } }, "Pause updates");
  const running = make("div", { class: "running" });
  const plots = make("div", { class: "side" });
  const log = make("pre", { tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Log of the run" });
  box.append(status, make("div", { class: "controls" }, pause, clock), running, plots, make("h3", null, "Log"), log);
  let plan = page.live, shown = -1, pictured = -1, heard = 0, gone = 0, drawn = {}, busy = false;

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const tick = () => {
    if (!live || !live.state) { clock.textContent = gone ? "" : "Asking for news"; return; }
    const past = (performance.now() - heard) / 1000, quiet = live.quiet + past;
    const ended = live.state.outcome !== null;
    clock.textContent = "Run " + live.run + ", device " + live.state.device + ", " + "at most " + live.state.jobs + " at once, " +
      (ended ? "took " + seconds(live.state.seconds) : "runs for " + seconds(live.state.seconds + quiet)) +
      (!ended && quiet > 15 ? "; nothing was heard for " + seconds(quiet) + ": a long step, or the run was killed" : "");
  };
  const draw = () => {
    const state = live.state;
    if (!state) { say(live.trouble || "No run of this pipeline is there yet; this page waits for one."); return; }
    const of = (...words) => state.stages.filter((one) => words.includes(one.state));
    const at = of("running", "elsewhere");
    const cached = of("cached").length, failed = of("failed").length, over = cached + failed + of("done", "skipped").length;
    if (gone > 2) say("The program that served this page has ended; this is what it said last.");
    else if (state.outcome) say("The run has ended. " + state.outcome + ".");
    else say(over + " of " + state.total + " stages done" + (cached ? ", " + cached + " of them from the cache" : "") + (failed ? ", " + failed + " failed" : "") +
      (at.length ? ". Running: " + at.map((one) => one.name).join(", ") : "") + "." + (live.trouble ? " " + live.trouble : ""));
    running.replaceChildren(...at.map((one) => make("div", null, make("strong", null, one.name),
      make("progress", { max: one.total || null, value: one.total ? one.done : null, "aria-label": one.name }),
      make("span", { class: "soft" }, one.state === "elsewhere" ? one.note : [progressOf(one), measuredOf(one)].filter(Boolean).join("; ")))));
    plots.replaceChildren(...state.training.map((stage) => make("div", null, make("h3", null, stage.stage), curves(stage))));
    const bottom = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    const text = state.log.join("\n");
    if (log.textContent !== text) { log.textContent = text; if (bottom) log.scrollTop = log.scrollHeight; }
    mark();
    const step = page.steps[kept.step];
    if (step && drawn.details !== JSON.stringify([kept.step, tracked(step.name), step])) {
      drawn.details = JSON.stringify([kept.step, tracked(step.name), step]);
      again("details", () => show(kept.step));
    }
  };
  const ask = async (path) => {
    const reply = await fetch(path, { cache: "no-store" });
    if (reply.status === 204) return null;
    if (!reply.ok) throw new Error((await reply.text()).trim());
    return reply.json();
  };
  /** Takes a new page in: only the sections whose data are new are drawn. */
  const take = (fresh) => {
    fresh.images = page.images;
    page = fresh;
    $("summary").textContent = page.summary;
    for (const [id, draws, data] of sections()) {
      const text = JSON.stringify(data);
      if (id === "images" || drawn[id] === text) continue;
      drawn[id] = text;
      again(id, draws);
    }
    contents();
  };
  const rest = async () => {
    if (busy) return;
    busy = true;
    try {
      if (live.revision > shown) {
        const fresh = await ask("page.json");
        if (fresh && fresh.plan === plan) { shown = fresh.revision; take(fresh.page); draw(); }
      }
      if (live.revision > pictured) {
        const found = await ask("images.json" + (pictured < 0 ? "" : "?since=" + pictured));
        if (found) {
          pictured = found.revision;
          if (JSON.stringify(found.images) !== JSON.stringify(page.images)) { page.images = found.images; again("images", images); contents(); }
        }
      }
    } catch (error) {
      // What could not be had is asked for again; a program that has ended is noticed below.
      if (!(error instanceof TypeError)) say(error.message);
    } finally {
      busy = false;
    }
  };
  let waits = 0;
  const poll = async () => {
    clearTimeout(waits);
    if (pause.getAttribute("aria-pressed") === "true") return;
    try {
      const news = await ask("live.json" + (live ? "?since=" + live.version : ""));
      gone = 0;
      if (news) {
        live = news;
        heard = performance.now();
        if (live.plan !== plan) { location.reload(); return; }
        draw();
      }
      if (live && (live.revision > shown || live.revision > pictured)) rest();
    } catch (error) {
      gone++;
      if (gone === 3 && live) draw();
    }
    // A program that is gone may come back, but then it is asked less and less.
    waits = setTimeout(poll, gone > 2 ? Math.min(30000, 1000 * 2 ** Math.min(gone, 5)) : 1000);
  };
  for (const [id, , data] of sections()) drawn[id] = JSON.stringify(data);
  setInterval(tick, 1000);
  poll();
}

/** Every section of the page, how it is drawn, and the data that it shows. */
const sections = () => [
  ["graph", graph, page.steps], ["results", results, page.results], ["metrics", metrics, page.metrics],
  ["thresholds", thresholds, page.metrics], ["images", images, null], ["difference", difference, page.difference],
  ["training", training, page.training], ["timeline", timeline, page.run],
];

$("summary").textContent = page.summary;
// The picture of one point may lack the first stage of all.
const firstBox = document.querySelector("#picture .step");
if (firstBox) kept.step = Number(firstBox.dataset.step);
tools();
wire();
zoom(0);
for (const [, draw] of sections()) draw();
if (page.live !== null) follow();
contents();
// The picture of a large graph begins at what the first stage leads to, not at an empty corner.
const begun = document.querySelector("#picture .step.chosen");
if (begun) reveal(begun, true);
$("picture").scrollTop = 0;
