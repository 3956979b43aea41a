// The tile map's behaviour, behind draw.js: pointer, keys and buttons move what is shown, tell, and open tiles.

function render({ model, el }) {
  const root = element(el, "div", "skiplab-map");
  const left = element(root, "div", "skiplab-left"), right = element(root, "div", "skiplab-right");
  const canvas = element(left, "canvas", "skiplab-canvas", { tabindex: "0", role: "img" });
  const tools = element(left, "div", "skiplab-tools"), around = element(left, "div", "skiplab-around");
  const mini = element(around, "canvas", "skiplab-mini", { role: "img", "aria-label": "The whole map, with a frame around what is shown" });
  const where = element(around, "div", "skiplab-where", { role: "status" });
  legend(left);
  const scale = element(left, "div", "skiplab-scale"), about = element(left, "div", "skiplab-about", { role: "status" });
  const detail = element(right, "canvas", "skiplab-detail", { role: "img" }), detailWords = element(right, "div", "skiplab-about");
  const state = { root, canvas, mini, around, where, detail, tile: null, cell: 1, asked: 0, timer: 0, view: whole(model.get("map")) };
  const hint = "Point at a tile, or press Tab and the arrow keys; click or Enter opens it. Ctrl and the wheel, or + and −, zoom; drag to move.";

  // the tiles under a pixel: one, or the few that share it
  const under = (event) => {
    const { view, size: [width, height] } = state;
    const px = event.offsetX - MARGIN.left, py = event.offsetY - MARGIN.top;
    if (px < 0 || py < 0 || px >= width || py >= height) return null;
    const span = (p, size, first, tiles) => {
      if (tiles <= size) return [first + Math.floor((p * tiles) / size), first + Math.floor((p * tiles) / size) + 1];
      const from = Math.floor((Math.floor(p) * tiles) / size);
      return [first + from, first + clamp(Math.ceil(((Math.floor(p) + 1) * tiles) / size), from + 1, tiles)];
    };
    const [row, end_row] = span(py, height, view.row, view.rows), [col, end_col] = span(px, width, view.col, view.cols);
    return { row, end_row, col, end_col };
  };

  const ask = (tiles) => {
    const map = model.get("map");
    const range = (first, end, block, length) => `${many(first * block)}–${many(Math.min(end * block, length) - 1)}`;
    const { row, col, end_row = row + 1, end_col = col + 1 } = tiles;
    about.textContent = `Queries ${range(row, end_row, map.block_m, map.q_len)}, keys ${range(col, end_col, map.block_n, map.kv_len)}: …`;
    clearTimeout(state.timer);
    state.timer = setTimeout(() => model.send({ kind: "about", row, col, end_row, end_col, id: ++state.asked }), 30);
  };
  const open = ({ row, col, end_row = row + 1, end_col = col + 1 }) => model.send({ kind: "open", row, col, end_row, end_col });

  const look = (view) => {
    state.view = view;
    const map = model.get("map");
    if (map.shares && !isWhole(map, view)) {
      clearTimeout(state.asking);
      state.asking = setTimeout(() => model.send({ kind: "part", ...view, end_row: view.row + view.rows, end_col: view.col + view.cols }), 60);
    }
    redraw();
  };
  const zoom = (factor, event) => {
    const map = model.get("map"), [width, height] = state.size;
    const share = (at, margin, size) => clamp((at - margin) / size, 0, 1);
    const place = event ? [share(event.offsetY, MARGIN.top, height), share(event.offsetX, MARGIN.left, width)] : focus(map);
    look(zoomed(map, state.view, factor, ...place));
  };
  const focus = (map) => {   // the focused tile stays where it is
    const [row, col] = model.get("focused"), { view } = state;
    return row < 0 ? [0.5, 0.5] : [clamp((row - view.row) / view.rows, 0, 1), clamp((col - view.col) / view.cols, 0, 1)];
  };
  for (const [text, name, call] of [["+", "Zoom in", () => zoom(0.5)], ["−", "Zoom out", () => zoom(2)],
    ["⤢", "Show the whole map", () => look(whole(model.get("map")))]]) {
    const button = element(tools, "button", "skiplab-zoom", { type: "button", title: name, "aria-label": name });
    button.textContent = text;
    button.addEventListener("click", call);
  }

  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;   // without, the page scrolls
    zoom(event.deltaY < 0 ? 0.8 : 1.25, event);
    event.preventDefault();
  }, { passive: false });
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.offsetX, y: event.offsetY, view: state.view, moved: false }; });
  canvas.addEventListener("pointerup", () => { setTimeout(() => { drag = null; }); });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && event.buttons) {
      const map = model.get("map"), [width, height] = state.size, { view } = drag;
      const cols = Math.round(((drag.x - event.offsetX) * view.cols) / width), rows = Math.round(((drag.y - event.offsetY) * view.rows) / height);
      drag.moved ||= Math.hypot(drag.x - event.offsetX, drag.y - event.offsetY) > 4;
      if (drag.moved && !isWhole(map, view)) look(moved(map, view, rows, cols));
      return;
    }
    const tiles = under(event);
    if (tiles) ask(tiles);
  });
  canvas.addEventListener("pointerleave", () => { clearTimeout(state.timer); state.asked++; about.textContent = hint; });
  canvas.addEventListener("click", (event) => { const tiles = drag?.moved ? null : under(event); drag = null; if (tiles) open(tiles); });
  const centre = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const map = model.get("map"), [width, height] = plotSize(map, MINI), { view } = state;
    look(moved(map, { ...view, row: (event.offsetY / height) * map.rows - view.rows / 2, col: (event.offsetX / width) * map.cols - view.cols / 2 }, 0, 0));
  };
  mini.addEventListener("pointerdown", centre);
  mini.addEventListener("pointermove", centre);

  canvas.addEventListener("keydown", (event) => {
    const map = model.get("map"), step = event.shiftKey && event.key.startsWith("Arrow") ? 16 : 1;
    let [row, col] = model.get("focused").map((n) => Math.max(n, 0));
    const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step], PageUp: [-16, 0], PageDown: [16, 0] };
    if (event.key === "Enter" || event.key === " ") open({ row, col });
    else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") look(whole(map));
    else if (event.key === "Escape") close();
    else if (moves[event.key] || event.key === "Home" || event.key === "End") {
      if (model.get("focused")[0] >= 0 && moves[event.key]) [row, col] = [row + moves[event.key][0], col + moves[event.key][1]];
      if (event.key === "Home") col = 0;
      if (event.key === "End") col = map.cols - 1;
      [row, col] = [clamp(row, 0, map.rows - 1), clamp(col, 0, map.cols - 1)];
      model.set("focused", [row, col]); model.save_changes();
      follow(map, row, col);
      ask({ row, col });
      if (state.tile) open({ row, col });
    } else return;
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });
  const follow = (map, row, col) => {   // what is shown moves with the focused tile
    const { view } = state, past = (at, first, count) => Math.min(at - first, 0) + Math.max(at - first - count + 1, 0);
    const [rows, cols] = [past(row, view.row, view.rows), past(col, view.col, view.cols)];
    if (rows || cols) look(moved(map, view, rows, cols));
  };
  detail.addEventListener("mousemove", (event) => {
    const { tile, cell } = state;
    const k = Math.floor((event.offsetX - MARGIN.left + 8) / cell), q = Math.floor((event.offsetY - MARGIN.top + 4) / cell);
    if (!tile || k < 0 || q < 0 || k >= tile.width || q >= tile.height) return;
    const i = q * tile.width + k, kept = tile.bits[i >> 3] & (128 >> (i & 7));
    detailWords.textContent = `Query row ${many(tile.first_query + q)} ${kept ? "sees" : "does not see"} key ${many(tile.first_key + k)}.`;
  });
  detail.addEventListener("mouseleave", () => { if (state.tile) detailWords.textContent = state.tile.text; });

  const close = () => { state.tile = null; right.hidden = true; };
  const onMessage = (message, buffers) => {
    if (message.kind === "part") {
      state.sent = { ...message, run_start: int32(buffers[0]), runs: int32(buffers[1]) };
      redraw();
    }
    if (message.kind === "about" && message.id === state.asked) about.textContent = message.text;
    if (message.kind === "tile") {
      state.tile = { ...message, bits: uint8(buffers[0]) };
      right.hidden = false;
      drawTile(state);
      detailWords.textContent = message.text;
      detail.setAttribute("aria-label", message.text);
    }
  };
  const redraw = () => {
    drawMap(state, model);
    scale.textContent = scaleWords(model.get("map"), state.view, state.size);
    if (state.tile) drawTile(state);
  };
  const onMap = () => {
    const map = model.get("map"), { view } = state;
    close();
    const same = state.all && state.all.q_len === map.q_len && state.all.kv_len === map.kv_len && !isWhole(state.all, view);
    state.sent = null;
    // a part stays the same queries and keys, whatever their tiles
    const scaled = (n, all, now) => Math.round((n * now) / all);
    const kept = same && { row: scaled(view.row, state.all.rows, map.rows), col: scaled(view.col, state.all.cols, map.cols),
      rows: clamp(scaled(view.rows, state.all.rows, map.rows), 1, map.rows), cols: clamp(scaled(view.cols, state.all.cols, map.cols), 1, map.cols) };
    state.all = map;
    look(kept ? moved(map, kept, 0, 0) : whole(map));
  };
  const onLabel = () => canvas.setAttribute("aria-label", `Tile map. ${model.get("label")}. ${hint}`);
  const onFocus = () => drawMap(state, model);
  about.textContent = hint;
  right.hidden = true;
  onMap(); onLabel();

  const events = [["change:map", onMap], ["change:label", onLabel], ["change:focused", onFocus],
    ["change:visits", redraw], ["change:differences", redraw], ["msg:custom", onMessage]];
  events.forEach(([name, call]) => model.on(name, call));
  const theme = new MutationObserver(redraw);   // JupyterLab changes an attribute of the body, VS Code its class
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  const size = new ResizeObserver(redraw);      // the colour of the text is known once the element is in the page
  size.observe(root);
  window.addEventListener("resize", redraw);    // a lower window has a smaller map
  return () => { size.disconnect(); window.removeEventListener("resize", redraw); clearTimeout(state.asking); events.forEach(([name, call]) => model.off(name, call)); theme.disconnect(); clearTimeout(state.timer); };
}

export default { render };
