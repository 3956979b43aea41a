// The tile map: paints row runs, tells what is under the pointer or the focused tile, opens a tile element by element.
// Python says everything in words (counts of kept pairs need the mask); this file draws, and asks.

const FULL = [0, 114, 178], PARTIAL = [230, 159, 0], WRONG = "#D55E00"; // Okabe-Ito blue, orange, vermillion
const FAINTEST = 0.7;   // a pixel of which the least bit is visited: a thin band must not vanish from a large map
const LONGEST = 440, LEAST = 180;    // CSS pixels of the longer side, by the room that there is
const AROUND = 524;     // of a window's height: JupyterLab's bars, and the explorer's words over and under the map
const CLOSEST = 8;      // tiles across, where one cannot come nearer
const MINI = 88;        // CSS pixels of the small map's longer side
const MARGIN = { left: 64, top: 40, right: 12, bottom: 8 };
const DETAIL = 256;

const css = ([r, g, b], a = 1) => `rgba(${r},${g},${b},${a})`;
const int32 = (view) => view instanceof Int32Array ? view : new Int32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const uint8 = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const many = (x) => x.toLocaleString("en-US");

// As figures' theme.tokens: 128k is 131,072; what k or M would not say exactly is written out.
function tokens(count) {
  for (const [unit, mark] of [[1 << 20, "M"], [1 << 10, "k"]]) {
    const short = +(count / unit).toPrecision(5);
    if (count >= unit && count % 128 === 0 && short * unit === count) return short + mark;
  }
  return many(count);
}

function plotSize(map, longest) {
  const most = Math.max(map.q_len, map.kv_len);
  return [map.kv_len, map.q_len].map((n) => Math.max(Math.round((longest * n) / most), longest / 8));
}

const room = (root) => clamp(Math.min(root.clientWidth - MARGIN.left - MARGIN.right, window.innerHeight - AROUND), LEAST, LONGEST);
const whole = (map) => ({ row: 0, col: 0, rows: map.rows, cols: map.cols });
const isWhole = (map, view) => view.rows === map.rows && view.cols === map.cols;

// A part of the map by its tiles; scaled by a factor about a place in it (shares of its height and width).
function zoomed(map, view, factor, down = 0.5, across = 0.5) {
  const size = (now, all) => clamp(Math.round(now * factor), Math.min(CLOSEST, all), all);
  const rows = size(view.rows, map.rows), cols = size(view.cols, map.cols);
  return moved(map, { row: view.row + (view.rows - rows) * down, col: view.col + (view.cols - cols) * across, rows, cols }, 0, 0);
}

function moved(map, view, rows, cols) {
  const place = (first, count, all) => clamp(Math.round(first), 0, all - count);
  return { ...view, row: place(view.row + rows, view.rows, map.rows), col: place(view.col + cols, view.cols, map.cols) };
}

// The map's runs in that part, as a map of its own. Of very many runs Python holds them, and sends those of a part.
function part(map, view, sent) {
  if (map.shares) {
    const has = sent && sent.row === view.row && sent.col === view.col && sent.rows === view.rows && sent.cols === view.cols;
    return has ? sent : null;
  }
  const start = int32(map.run_start), runs = int32(map.runs);
  const kept = [], begin = new Int32Array(view.rows + 1);
  for (let row = 0; row < view.rows; row++) {
    for (let i = start[view.row + row]; i < start[view.row + row + 1]; i++) {
      const from = Math.max(runs[3 * i] - view.col, 0), to = Math.min(runs[3 * i + 1] - view.col, view.cols);
      if (from < to) kept.push(from, to, runs[3 * i + 2]);
    }
    begin[row + 1] = kept.length / 3;
  }
  return { ...view, run_start: begin, runs: Int32Array.from(kept) };
}

// Shares of partial and full in each pixel of a w x h picture, from the runs: every tile counts by the area it covers.
function coverage(map, w, h) {
  const start = int32(map.run_start), runs = int32(map.runs);
  const change = [1, 2].map(() => new Float32Array(h * (w + 2)));
  const across = w / map.cols, down = h / map.rows;
  for (let row = 0; row < map.rows; row++) {
    const top = row * down, end = top + down;
    for (let y = Math.floor(top); y < Math.min(h, end - 1e-9); y++) {
      const weight = Math.min(end, y + 1) - Math.max(top, y);
      for (let i = start[row]; i < start[row + 1]; i++) {
        const line = change[runs[3 * i + 2] - 1];
        for (let side = 0; side < 2; side++) {
          const edge = runs[3 * i + side] * across, x = Math.min(Math.floor(edge), w), part = edge - x;
          const amount = side ? -weight : weight, at = y * (w + 2) + x;
          line[at] += amount * (1 - part);
          line[at + 1] += amount * part;
        }
      }
    }
  }
  return change.map((line) => {
    const share = new Float32Array(w * h);
    for (let y = 0; y < h; y++)
      for (let x = 0, sum = 0; x < w; x++) share[y * w + x] = clamp((sum += line[y * (w + 2) + x]), 0, 1);
    return share;
  });
}

function image(map, w, h) {
  let shares;
  if (map.shares) {                      // very many runs: Python sent the shares
    [w, h] = [map.share_width, map.share_height];
    const bytes = uint8(map.shares);
    shares = [bytes.subarray(0, w * h), bytes.subarray(w * h)].map((s) => Float32Array.from(s, (x) => x / 255));
  } else {
    // tiles of three pixels or more keep sharp edges; smaller ones are averaged over the area of each pixel
    if (map.cols * 3 <= w) w = map.cols;
    if (map.rows * 3 <= h) h = map.rows;
    shares = coverage(map, w, h);
  }
  const picture = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) {
    const partial = shares[0][i], full = shares[1][i], visited = partial + full;
    if (visited < 1e-4) continue;
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = (partial * PARTIAL[c] + full * FULL[c]) / visited;
    picture.data[4 * i + 3] = 255 * Math.max(visited, FAINTEST);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

function element(parent, tag, className, attributes = {}) {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

function sharpCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.font = "12px system-ui, sans-serif";
  return draw;
}

function hatch(draw, x, y, w, h, step = 5) {   // partial tiles also differ in texture
  draw.save();
  draw.beginPath(); draw.rect(x, y, w, h); draw.clip();
  draw.strokeStyle = "rgba(0,0,0,0.35)"; draw.lineWidth = 1;
  draw.beginPath();
  for (let d = -h; d < w; d += step) { draw.moveTo(x + d, y + h); draw.lineTo(x + d + h, y); }
  draw.stroke();
  draw.restore();
}

function drawMap(state, model) {
  const map = model.get("map");
  if (!map || !map.rows) return;
  const view = state.view, [width, height] = (state.size = plotSize(map, room(state.root))), ratio = window.devicePixelRatio || 1;
  const draw = sharpCanvas(state.canvas, width + MARGIN.left + MARGIN.right, height + MARGIN.top + MARGIN.bottom);
  const ink = getComputedStyle(state.root).color;
  draw.translate(MARGIN.left, MARGIN.top);
  draw.fillStyle = "rgba(128,128,128,0.13)";
  draw.fillRect(0, 0, width, height);
  if (state.imageOf !== map || state.imageFor !== `${width}`) {
    state.image = image(map, Math.round(width * ratio), Math.round(height * ratio));
    [state.imageOf, state.imageFor, state.near, state.nearOf] = [map, `${width}`, null, null];
  }
  const at = JSON.stringify([view, width]);
  if (!isWhole(map, view) && state.nearOf !== at) {
    state.part = part(map, view, state.sent);
    state.near = state.part && image(state.part, Math.round(width * ratio), Math.round(height * ratio));
    state.nearOf = state.part && at;
  }
  draw.imageSmoothingEnabled = false;
  const { width: w, height: h } = state.image;
  if (isWhole(map, view)) draw.drawImage(state.image, 0, 0, width, height);
  else if (state.near) draw.drawImage(state.near, 0, 0, width, height);
  else draw.drawImage(state.image, (view.col * w) / map.cols, (view.row * h) / map.rows, (view.cols * w) / map.cols,
    (view.rows * h) / map.rows, 0, 0, width, height);
  const x = (col) => ((col - view.col) * width) / view.cols, y = (row) => ((row - view.row) * height) / view.rows;
  const large = Math.min(width / view.cols, height / view.rows), runs = isWhole(map, view) ? map : state.near && state.part;
  draw.save();
  draw.beginPath(); draw.rect(0, 0, width, height); draw.clip();
  if (large >= 8 && runs && runs.runs) hatchPartial(draw, runs, view, x, y);
  if (large >= 6) grid(draw, view, x, y, width, height);
  overlay(draw, model, map, view, x, y, large);
  outline(draw, model, x, y, width / view.cols, height / view.rows);
  draw.restore();
  axes(draw, map, view, ink, width, height);
  drawMini(state, map);
}

// The whole map, small, with a frame around what is shown of it; empty when that is all.
function drawMini(state, map) {
  state.around.hidden = isWhole(map, state.view);
  if (state.around.hidden) return;
  const [width, height] = plotSize(map, MINI), { view } = state;
  const draw = sharpCanvas(state.mini, width, height);
  draw.fillStyle = "rgba(128,128,128,0.2)"; draw.fillRect(0, 0, width, height);
  draw.drawImage(state.image, 0, 0, width, height);
  const box = [(view.col * width) / map.cols, (view.row * height) / map.rows,
    Math.max((view.cols * width) / map.cols, 4), Math.max((view.rows * height) / map.rows, 4)];
  draw.lineWidth = 4; draw.strokeStyle = "#FFFFFF"; draw.strokeRect(...box);
  draw.lineWidth = 2; draw.strokeStyle = WRONG; draw.strokeRect(...box);
  const last = (first, count, block, length) => many(Math.min((first + count) * block, length) - 1);
  state.where.textContent = `Shown: queries ${many(view.row * map.block_m)}–${last(view.row, view.rows, map.block_m, map.q_len)}, ` +
    `keys ${many(view.col * map.block_n)}–${last(view.col, view.cols, map.block_n, map.kv_len)}. Drag to move.`;
}

function hatchPartial(draw, map, view, x, y) {
  const start = int32(map.run_start), runs = int32(map.runs), tall = y(1) - y(0), wide = x(1) - x(0);
  for (let row = 0; row < start.length - 1; row++)
    for (let i = start[row]; i < start[row + 1]; i++)
      if (runs[3 * i + 2] === 1) hatch(draw, runs[3 * i] * wide, row * tall, (runs[3 * i + 1] - runs[3 * i]) * wide, tall);
}

function grid(draw, view, x, y, width, height) {
  draw.strokeStyle = "rgba(128,128,128,0.55)"; draw.lineWidth = 0.5;
  draw.beginPath();
  for (let col = view.col + 1; col < view.col + view.cols; col++) { draw.moveTo(x(col), 0); draw.lineTo(x(col), height); }
  for (let row = view.row + 1; row < view.row + view.rows; row++) { draw.moveTo(0, y(row)); draw.lineTo(width, y(row)); }
  draw.stroke();
}

// What a kernel recorded: a dot in each tile that it visited (hollow: with the mask), a cross where the plan says otherwise.
function overlay(draw, model, map, view, x, y, large) {
  const visits = model.get("visits"), wrong = model.get("differences");
  if (visits && visits.byteLength === map.rows * map.cols && large >= 4) {
    const seen = uint8(visits), radius = clamp(large / 5, 1.2, 5);
    for (let row = view.row; row < view.row + view.rows; row++)
      for (let col = view.col; col < view.col + view.cols; col++) {
        const visit = seen[row * map.cols + col];
        if (!visit) continue;
        draw.beginPath(); draw.arc(x(col + 0.5), y(row + 0.5), radius, 0, 2 * Math.PI);
        draw.fillStyle = visit === 2 ? "#FFFFFF" : "#00000000"; draw.strokeStyle = "#FFFFFF"; draw.lineWidth = 1.5;
        draw.fill(); draw.stroke();
      }
  }
  if (!wrong || !wrong.byteLength) return;
  const tiles = int32(wrong), side = Math.max(large, 9);
  draw.strokeStyle = WRONG; draw.lineWidth = 3;
  for (let i = 0; i < tiles.length; i += 2) {
    const cx = x(tiles[i + 1] + 0.5), cy = y(tiles[i] + 0.5);
    draw.strokeRect(cx - side / 2, cy - side / 2, side, side);
    draw.beginPath();
    draw.moveTo(cx - side / 2, cy - side / 2); draw.lineTo(cx + side / 2, cy + side / 2);
    draw.moveTo(cx + side / 2, cy - side / 2); draw.lineTo(cx - side / 2, cy + side / 2);
    draw.stroke();
  }
}

function axes(draw, map, view, ink, width, height) {
  draw.strokeStyle = ink; draw.fillStyle = ink; draw.lineWidth = 1;
  draw.strokeRect(-0.5, -0.5, width + 1, height + 1);
  draw.textBaseline = "bottom"; draw.textAlign = "center";
  const parts = (size) => (size > 300 ? [0, 0.25, 0.5, 0.75, 1] : size > 150 ? [0, 0.5, 1] : [0, 1]);
  const place = (first, count, block, length, share) => Math.round(Math.min((first + count * share) * block, length));
  for (const share of parts(width)) {
    draw.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
    draw.fillText(tokens(place(view.col, view.cols, map.block_n, map.kv_len, share)), share * width, -5);
    draw.fillRect(clamp(share * width, 0, width - 1), -4, 1, 4);
  }
  draw.textAlign = "center";
  draw.fillText("key position →", width / 2, -21);
  draw.textAlign = "right";
  for (const share of parts(height)) {
    draw.textBaseline = share === 0 ? "top" : share === 1 ? "bottom" : "middle";
    draw.fillText(tokens(place(view.row, view.rows, map.block_m, map.q_len, share)), -8, share * height);
    draw.fillRect(-4, clamp(share * height, 0, height - 1), 4, 1);
  }
  draw.save();
  draw.translate(-56, height / 2); draw.rotate(-Math.PI / 2);
  draw.textAlign = "center"; draw.textBaseline = "middle";
  draw.fillText(height > 100 ? "← query row" : "query", 0, 0);
  draw.restore();
}

function outline(draw, model, x, y, wide, tall) {
  const [row, col] = model.get("focused");
  if (row < 0) return;
  const w = Math.max(wide, 7), h = Math.max(tall, 7), left = x(col + 0.5) - w / 2, top = y(row + 0.5) - h / 2;
  draw.lineWidth = 4; draw.strokeStyle = "#FFFFFF"; draw.strokeRect(left, top, w, h);
  draw.lineWidth = 2; draw.strokeStyle = "#000000"; draw.strokeRect(left, top, w, h);
}

function drawTile(state) {
  const { height, width, row, col, first_query, first_key, bits } = state.tile;
  const cell = Math.max(Math.min(DETAIL / width, DETAIL / height), 0.5), w = cell * width, h = cell * height;
  const draw = sharpCanvas(state.detail, w + MARGIN.left, h + MARGIN.top);
  const ink = getComputedStyle(state.root).color;
  draw.translate(MARGIN.left - 8, MARGIN.top - 4);
  draw.fillStyle = "rgba(128,128,128,0.13)"; draw.fillRect(0, 0, w, h);
  draw.fillStyle = css(FULL);
  const gap = cell >= 5 ? 0.5 : 0;
  for (let q = 0; q < height; q++)
    for (let k = 0; k < width; k++) {
      const at = q * width + k;
      if (bits[at >> 3] & (128 >> (at & 7))) draw.fillRect(k * cell, q * cell, cell - gap, cell - gap);
    }
  draw.strokeStyle = ink; draw.fillStyle = ink; draw.strokeRect(-0.5, -0.5, w + 1, h + 1);
  draw.textBaseline = "bottom"; draw.textAlign = "left";
  draw.fillText(`key ${many(first_key)}`, 0, -5);
  draw.textAlign = "right";
  if (w > 130) draw.fillText(`${many(first_key + width - 1)} →`, w, -5);
  draw.textBaseline = "top"; draw.fillText(many(first_query), -5, 0);
  draw.textBaseline = "bottom"; draw.fillText(many(first_query + height - 1), -5, h);
  draw.save(); draw.translate(-20, h / 2); draw.rotate(-Math.PI / 2); draw.textAlign = "center";
  draw.fillText("← query", 0, 0); draw.restore();
  state.cell = cell;
}

function legend(parent) {
  const node = element(parent, "div", "skiplab-legend");
  for (const [kind, words] of [["full", "full: no mask needed"], ["partial", "partial: mask applied"], ["empty", "empty: skipped"]]) {
    const item = element(node, "span", "skiplab-key");
    element(item, "span", `skiplab-swatch skiplab-${kind}`);
    item.append(words);
  }
}

function scaleWords(map, view, size) {
  const [width, height] = size, ratio = window.devicePixelRatio || 1, all = isWhole(map, view);
  const across = view.cols / (map.shares && all ? map.share_width : width * ratio);
  const down = view.rows / (map.shares && all ? map.share_height : height * ratio);
  const words = `Tiles of ${map.block_m} queries × ${map.block_n} keys`;
  if (Math.max(across, down) <= 1) return `${words}.`;
  const times = (x) => +Math.max(x, 1).toPrecision(2);
  return `${words}; a pixel covers ${times(down)} × ${times(across)} of them and shows their mix (never fainter than ${100 * FAINTEST} %).`;
}
