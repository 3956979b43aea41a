// A picture of programs: tells what is under the pointer, and follows a program. Python draws it, as SVG.

const HINT = "Point at a cell to read what it is; click it, or press Tab and the arrow keys (left and right: splits, " +
  "up and down: KV heads), to follow a program.";

function render({ model, el }) {
  const root = document.createElement("div"), holder = document.createElement("div"), about = document.createElement("div");
  root.className = "skiplab-splits"; holder.className = "skiplab-splits-picture"; about.className = "skiplab-splits-about";
  holder.tabIndex = 0; about.setAttribute("role", "status"); about.textContent = HINT;
  const legend = document.createElement("div");
  legend.className = "skiplab-splits-legend";
  root.append(holder, legend, about); el.append(root);

  const cell = (event) => event.target.closest("rect[data-hint]");
  const programs = (rect) => (rect?.dataset.lanes ?? "").split(" ").filter(Boolean);
  const choose = (program) => {
    model.set("program", Math.min(Math.max(program, 0), model.get("last_program"))); model.save_changes();
  };

  holder.addEventListener("pointermove", (event) => {
    const rect = cell(event);
    if (rect) about.textContent = `${rect.dataset.hint}.`;
  });
  holder.addEventListener("pointerleave", () => { about.textContent = HINT; });
  holder.addEventListener("click", (event) => { const [one] = programs(cell(event)); if (one) choose(Number(one)); });
  holder.addEventListener("keydown", (event) => {
    const row = model.get("splits"), all = model.get("last_program") + 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -all, End: all };
    if (!(event.key in moves)) return;
    choose(model.get("program") + moves[event.key]);
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });

  const draw = () => {
    holder.innerHTML = model.get("svg");
    fit(holder.querySelector("svg"), root.clientWidth - 6);
    legend.textContent = model.get("legend");
    if (document.activeElement === holder) about.textContent = `${model.get("chosen")}.`;
  };
  model.on("change:svg", draw);
  let width = 0;
  const size = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  size.observe(root);
  return () => { size.disconnect(); model.off("change:svg", draw); };
}

export default { render };
