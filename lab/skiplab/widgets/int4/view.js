// A picture of memory: tells what is under the pointer, and follows a lane. Python draws it, as SVG.

const HINT = "Point at a cell to read what it is; click it, or press Tab and the arrow keys, to follow a lane.";

function render({ model, el }) {
  const root = document.createElement("div"), holder = document.createElement("div"), about = document.createElement("div");
  root.className = "skiplab-memory"; holder.className = "skiplab-memory-picture"; about.className = "skiplab-memory-about";
  holder.tabIndex = 0; about.setAttribute("role", "status"); about.textContent = HINT;
  const legend = document.createElement("div");
  legend.className = "skiplab-memory-legend";
  root.append(holder, legend, about); el.append(root);

  const cell = (event) => event.target.closest("rect[data-hint]");
  const lanes = (rect) => (rect?.dataset.lanes ?? "").split(" ").filter(Boolean);
  const mark = (names) => {
    for (const rect of holder.querySelectorAll("rect[data-lanes]"))
      rect.classList.toggle("skiplab-same", names.length > 0 && lanes(rect).some((lane) => names.includes(lane)));
  };
  const choose = (lane) => {
    model.set("lane", Math.min(Math.max(lane, 0), model.get("last_lane"))); model.save_changes();
  };
  const told = () => {   // what the chosen lane loads, for those who use the keyboard
    const name = String(model.get("lane"));
    const hints = [...holder.querySelectorAll("rect[data-lanes]")].filter((rect) => lanes(rect).includes(name));
    about.textContent = hints.length ? hints.map((rect) => rect.dataset.hint).slice(0, 1).join("; ") + "." : HINT;
  };

  holder.addEventListener("pointermove", (event) => {
    const rect = cell(event);
    if (!rect) return;
    about.textContent = `${rect.dataset.hint}.`;
    mark(lanes(rect));
  });
  holder.addEventListener("pointerleave", () => { about.textContent = HINT; mark([]); });
  holder.addEventListener("click", (event) => { const [lane] = lanes(cell(event)); if (lane) choose(Number(lane)); });
  holder.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -99, End: 99 };
    if (!(event.key in moves)) return;
    choose(model.get("lane") + moves[event.key]);
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });

  const draw = () => {
    holder.innerHTML = model.get("svg");
    fit(holder.querySelector("svg"), root.clientWidth - 6);
    legend.textContent = model.get("legend");
    if (document.activeElement === holder) told();
  };
  model.on("change:svg", draw);
  let width = 0;
  const size = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  size.observe(root);
  return () => { size.disconnect(); model.off("change:svg", draw); };
}

export default { render };
