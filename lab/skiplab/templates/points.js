// A table of points: sorted by its heads, filtered, a part of it in the page at a time; a row opens to what it holds.
// Every text of the data is put into the page as text, never as markup.
"use strict";
(() => {
const PAGE = 200, CHOICES = 40, LEAST_SPAN = 0.04;
const SVG = "http://www.w3.org/2000/svg";
const UNITS = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

const missing = (value) => value === null || value === undefined;
const made = (tag, options = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
};
const drawn = (tag, attributes, ...children) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// Three digits, as skiplab.text.digits and theme.seconds write them.
const digits = (value) => {
  const size = Math.abs(value);
  if (size >= 99.95) return Math.round(value).toLocaleString("en-US");
  if (size && size < 1e-4) return value.toExponential(2).replace(/e-(\d)$/, "e-0$1");
  return value.toPrecision(3);
};
const unitOf = (seconds) => UNITS.find(([factor]) => seconds >= factor * 0.9995) || UNITS[3];
const inUnit = (seconds, [factor]) => digits(seconds / factor);
const time = (ms) => {
  const unit = unitOf(ms / 1e3);
  return `${inUnit(ms / 1e3, unit)} ${unit[1]}s`;
};
const span = ([low, high]) => {
  const unit = unitOf(high / 1e3);
  return `${inUnit(low / 1e3, unit)} – ${inUnit(high / 1e3, unit)} ${unit[1]}s`;
};
const change = (ends) => {
  if (ends.some(missing)) return ends.map((one) => missing(one) ? "–" : time(one)).join(" → ");
  const unit = unitOf(Math.max(...ends) / 1e3);
  return `${ends.map((one) => inUnit(one / 1e3, unit)).join(" → ")} ${unit[1]}s`;
};
const WRITTEN = {
  number: digits, count: (value) => value.toLocaleString("en-US"), time, span, change, percent: (value) => `${Math.round(100 * value)} %`, times: (value) => `${digits(value)}×`,
  ratio: (value) => value.toFixed(3), interval: ([low, high]) => `${low.toFixed(3)} – ${high.toFixed(3)}`,
};

function start(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const columns = data.columns, shown = columns.filter((one) => !one.detail), count = data.rows;
  const column = (name) => columns.find((one) => one.name === name);
  const body = root.querySelector("tbody"), head = root.querySelector("thead tr");
  const more = root.querySelector(".more"), said = root.querySelector("[role=status]");
  const state = { order: [...Array(count).keys()], found: [], search: "", filters: new Map(), drawn: 0 };
  const text = (one, row) => {
    const value = one.kind === "text" ? one.words[one.values[row]] : one.values[row];
    return missing(value) ? "" : one.kind === "text" ? value : WRITTEN[one.kind](value);
  };

  const keyOf = (one) => {
    if (one.kind === "trend") return (row) => one.values[row].length;
    if (one.kind === "change") return (row) => one.values[row][1];
    if (one.kind === "span" || one.kind === "interval")
      return (row) => missing(one.values[row]) ? null : one.values[row][1] - one.values[row][0];
    return (row) => one.kind === "text" && one.words[one.values[row]] === "" ? null : one.values[row];
  };
  function sort(one, descending) {
    const key = keyOf(one), sign = descending ? -1 : 1;
    state.order.sort((a, b) => {
      const x = key(a), y = key(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
      return sign * (x - y) || a - b;
    });
    for (const cell of head.children) cell.removeAttribute("aria-sort");
    head.children[shown.indexOf(one) + 1].setAttribute("aria-sort", descending ? "descending" : "ascending");
    refresh();
  }
  head.append(made("th"));
  for (const one of shown) {
    const button = made("button", { type: "button", textContent: one.head, title: one.title || "" });
    const cell = made("th", { scope: "col", className: one.kind }, button);
    button.onclick = () => sort(one, cell.getAttribute("aria-sort") === "ascending");
    head.append(cell);
  }

  const tally = (one) => {
    const counts = new Array(one.words.length).fill(0);
    for (const value of one.values) counts[value] += 1;
    return counts;
  };
  const parts = (one) => {  // a cell of several words, as flags are, counts for each of them
    const words = new Map();
    tally(one).forEach((number, code) => {
      for (const word of one.several ? one.words[code].split(", ") : [one.words[code]])
        words.set(word, (words.get(word) || 0) + number);
    });
    return words;
  };
  function choices(one) {
    const words = parts(one), boxes = [], summary = made("summary");
    if (words.size < 2 || words.size > CHOICES) return null;
    const say = () => {
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value || "none");
      summary.textContent = chosen.length ? `${one.head}: ${chosen.join(", ")}` : `${one.head}: all`;
    };
    const list = made("div");
    for (const [word, number] of words) {
      const box = made("input", { type: "checkbox", value: word });
      box.onchange = () => {
        const chosen = new Set(boxes.filter((each) => each.checked).map((each) => each.value));
        const codes = new Set(one.words.flatMap((cell, code) =>
          (one.several ? cell.split(", ") : [cell]).some((part) => chosen.has(part)) ? [code] : []));
        chosen.size ? state.filters.set(one.name, (row) => codes.has(one.values[row])) : state.filters.delete(one.name);
        say();
        refresh();
      };
      boxes.push(box);
      list.append(made("label", {}, box, ` ${word || "none"} `, made("small", { textContent: number.toLocaleString("en-US") })));
    }
    say();
    return made("details", { name: `filters-${root.id}` }, summary, list);
  }
  const bar = root.querySelector(".filters"), search = root.querySelector("input[type=search]");
  for (const one of columns) {
    const control = one.filter && choices(one);
    if (control) bar.append(control);
  }
  const clear = made("button", { type: "button", textContent: "Clear filters" });
  const save = made("button", { type: "button", textContent: "Save these as CSV" });
  bar.append(clear, save);
  clear.onclick = () => {
    search.value = state.search = "";
    for (const box of bar.querySelectorAll("input[type=checkbox]")) if (box.checked) box.click();
    refresh();
  };
  search.oninput = () => {
    state.search = search.value;
    refresh();
  };
  document.addEventListener("click", (event) => {
    for (const open of bar.querySelectorAll("details[open]")) if (!open.contains(event.target)) open.open = false;
  });
  function searched() {
    const words = columns.filter((one) => one.kind === "text");
    return state.search.toLowerCase().split(/\s+/).filter(Boolean).map((term) => {
      const codes = words.map((one) => new Set(one.words.flatMap((word, code) => word.toLowerCase().includes(term) ? [code] : [])));
      return (row) => words.some((one, index) => codes[index].has(one.values[row]));
    });
  }

  function refresh() {
    const tests = [...state.filters.values(), ...searched()];
    state.found = state.order.filter((row) => tests.every((test) => test(row)));
    const all = count.toLocaleString("en-US"), found = state.found.length.toLocaleString("en-US");
    said.textContent = state.found.length === count ? `${all} points` : `${found} of ${all} points`;
    body.replaceChildren();
    state.drawn = 0;
    draw();
  }
  function draw() {
    const next = state.found.slice(state.drawn, state.drawn + PAGE);
    body.append(...next.map(line));
    state.drawn += next.length;
    const left = state.found.length - state.drawn;
    more.hidden = !left;
    more.textContent = `Show ${Math.min(left, PAGE)} more of ${left.toLocaleString("en-US")}`;
  }
  more.onclick = draw;
  function line(row) {
    const open = made("button", { type: "button", className: "open", textContent: "▸", title: "More of this point" });
    open.setAttribute("aria-expanded", "false");
    const cells = shown.map((one) => {
      const cell = made("td", { className: one.kind });
      if (one.kind === "trend") cell.append(sparkline(one.values[row], data.runs));
      else cell.textContent = text(one, row);
      if (one.several) cell.classList.add("several");
      if (one.name === "verdict") cell.dataset.verdict = cell.textContent;
      return cell;
    });
    const node = made("tr", {}, made("td", {}, open), ...cells);
    open.onclick = () => {
      const opened = open.getAttribute("aria-expanded") === "true";
      open.setAttribute("aria-expanded", String(!opened));
      open.textContent = opened ? "▸" : "▾";
      if (opened) node.nextSibling.remove();
      else node.after(made("tr", { className: "detail" }, made("td", { colSpan: shown.length + 1 }, detail(row))));
    };
    return node;
  }
  function detail(row) {
    const list = made("dl");
    for (const one of columns.filter((each) => each.detail)) {
      const value = text(one, row);
      if (value !== "") list.append(made("dt", { textContent: one.head }), made("dd", { textContent: value }));
    }
    const trend = columns.find((one) => one.kind === "trend");
    return trend ? made("div", {}, history(trend.values[row], data), list) : list;
  }

  save.onclick = () => {
    const plain = columns.filter((one) => one.kind !== "trend");
    const raw = (one, row) => one.kind === "text" ? text(one, row) : missing(one.values[row]) ? "" : [one.values[row]].flat().join(" ");
    const quoted = (value) => /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
    const heads = plain.map((one) => quoted(["time", "span", "change"].includes(one.kind) ? `${one.head} (ms)` : one.head));
    const lines = state.found.map((row) => plain.map((one) => quoted(raw(one, row))).join(","));
    const link = made("a", { download: `${root.dataset.name}.csv` });
    link.href = URL.createObjectURL(new Blob([[heads.join(","), ...lines].join("\n") + "\n"], { type: "text/csv" }));
    link.click();
    URL.revokeObjectURL(link.href);
  };

  data.sort ? sort(column(data.sort), false) : refresh();
}

// Times over dates.
// A timing: [run, median, low, high, samples, status, flags, kernels, method, why, doubtful]; texts are numbers in data.words.
const positions = (timings, runs) => {
  const times = timings.map(([run]) => Date.parse(runs[run].start));
  const [first, last] = [Math.min(...times), Math.max(...times)];
  if (!(last > first)) return timings.map((_, index) => timings.length < 2 ? 0.5 : index / (timings.length - 1));
  return times.map((one) => (one - first) / (last - first));
};
const scaled = (lows, highs) => {  // a change of a few per cent is drawn as small as it is
  const [low, high] = [Math.min(...lows), Math.max(...highs)], middle = (low + high) / 2;
  const half = Math.max((high - low) / 2, middle * LEAST_SPAN / 2);
  return { low: middle - half, high: middle + half, at: (value) => (middle + half - value) / (2 * half) };
};
function sparkline(timings, runs) {
  const width = 110, height = 22, pad = 4;
  const good = timings.filter((one) => !missing(one[1]));
  const label = good.map((one) => time(one[1])).join(", ");
  const picture = drawn("svg", { width, height, role: "img", "aria-label": `times by date: ${label}`, class: "spark" });
  if (!good.length) return picture;
  const scale = scaled(good.map((one) => one[1]), good.map((one) => one[1]));
  const spots = positions(good, runs).map((x, index) =>
    [pad + x * (width - 2 * pad), pad + scale.at(good[index][1]) * (height - 2 * pad)]);
  picture.append(drawn("polyline", { points: spots.map((spot) => spot.map((v) => v.toFixed(1)).join()).join(" ") }));
  spots.forEach(([cx, cy], index) => picture.append(
    drawn("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r: index === spots.length - 1 ? 3 : 2, class: good[index][10] ? "doubtful" : "" })));
  return picture;
}
function history(timings, data) {
  const good = timings.filter((one) => !missing(one[1]));
  const part = made("div", { className: "history" });
  if (good.length > 1) part.append(chart(good, data.runs));
  const heads = ["run", "began", "time", "quartiles", "samples", "timed by", "kernels", "status", "flags", "why"];
  const rows = timings.map(([run, median, low, high, samples, status, flags, kernels, method, why]) => {
    const words = [status, flags, kernels, method, why].map((code) => data.words[code]);
    const times = missing(median) ? ["", ""] : [time(median), span([low, high])];
    return [data.runs[run].name, data.runs[run].start, ...times, samples, words[3], words[2], words[0], words[1], words[4]];
  });
  const used = heads.map((_, index) => rows.some((row) => row[index] !== ""));
  const cells = (tag, row) => row.flatMap((value, index) => used[index] ? [made(tag, { textContent: value })] : []);
  part.append(made("table", {}, made("thead", {}, made("tr", {}, ...cells("th", heads))),
    made("tbody", {}, ...rows.map((row) => made("tr", {}, ...cells("td", row))))));
  return part;
}
function chart(timings, runs) {
  const [width, height, left, right, top, bottom] = [560, 170, 70, 20, 14, 30];
  const scale = scaled(timings.map((one) => one[2]), timings.map((one) => one[3]));
  const x = positions(timings, runs).map((one) => left + one * (width - left - right));
  const y = (value) => top + scale.at(value) * (height - top - bottom);
  const picture = drawn("svg", { width, height, role: "img", "aria-label": "median time and quartiles by date", class: "chart" });
  for (const value of [scale.low, (scale.low + scale.high) / 2, scale.high])
    picture.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
      drawn("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, time(value)));
  picture.append(drawn("polyline", { points: timings.map((one, index) => `${x[index]},${y(one[1])}`).join(" ") }));
  timings.forEach(([run, median, low, high, , , , kernels, , , doubtful], index) => {
    picture.append(drawn("line", { x1: x[index], x2: x[index], y1: y(low), y2: y(high), class: "whisker" }));
    picture.append(drawn("circle", { cx: x[index], cy: y(median), r: 4, class: doubtful ? "doubtful" : "" },
      drawn("title", {}, `${runs[run].name}, ${runs[run].start}: ${time(median)}`)));
    if (index && kernels !== timings[index - 1][7]) {
      const middle = (x[index] + x[index - 1]) / 2;
      picture.append(drawn("line", { x1: middle, x2: middle, y1: top, y2: height - bottom, class: "changed" }));
    }
  });
  for (const [index, anchor] of [[0, "start"], [timings.length - 1, "end"]])
    picture.append(drawn("text", { x: anchor === "start" ? left : width - right, y: height - 8, "text-anchor": anchor },
      runs[timings[index][0]].start.slice(0, 10)));
  const words = "Median and quartiles by date. Hollow: a flag makes it doubtful. Dashed line: other kernel sources from here on.";
  return made("figure", {}, picture, made("figcaption", { textContent: words }));
}
document.querySelectorAll(".point-table").forEach(start);
})();
