// A recorded launch, step by step: tells what is under the pointer, and goes to a step. Python draws it, as SVG.

const HINT = "Point at a tile to read when it is visited; click it, or press Tab and the arrow keys (left and right: " +
  "steps, up and down: programs), to go there.";

function render({ model, el }) {
  const root = document.createElement("div"), holder = document.createElement("div"), about = document.createElement("div");
  const told = document.createElement("div"), legend = document.createElement("div");
  root.className = "skiplab-replay"; holder.className = "skiplab-replay-picture"; about.className = "skiplab-replay-about";
  told.className = "skiplab-replay-told"; legend.className = "skiplab-replay-legend";
  holder.tabIndex = 0; told.setAttribute("role", "status"); about.textContent = HINT;
  root.append(told, holder, legend, about); el.append(root);

  const go = (step) => {
    model.set("step", Math.min(Math.max(step, -1), model.get("last_step"))); model.save_changes();
  };
  const cell = (event) => event.target.closest("rect[data-hint]");
  const move = (key) => {
    const now = model.get("step"), starts = model.get("starts");
    if (key === "ArrowLeft") return now - 1;
    if (key === "ArrowRight") return now + 1;
    if (key === "ArrowDown") return starts.find((start) => start > now) ?? model.get("last_step");
    if (key === "ArrowUp") return starts.findLast((start) => start < now) ?? -1;
    return key === "Home" ? -1 : key === "End" ? model.get("last_step") : null;
  };
  holder.addEventListener("pointermove", (event) => {
    const rect = cell(event);
    if (rect) about.textContent = `${rect.dataset.hint}.`;
  });
  holder.addEventListener("pointerleave", () => { about.textContent = HINT; });
  holder.addEventListener("click", (event) => {
    const [step] = (cell(event)?.dataset.lanes ?? "").split(" ").filter(Boolean);
    if (step !== undefined) go(Number(step));
  });
  holder.addEventListener("keydown", (event) => {
    const step = move(event.key);
    if (step === null) return;
    go(step);
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });

  const draw = () => {
    holder.innerHTML = model.get("svg");
    const svg = holder.querySelector("svg");
    if (svg) fit(svg, root.clientWidth - 6);
    legend.textContent = model.get("legend"); told.textContent = model.get("told");
  };
  model.on("change:svg", draw);
  let width = 0;
  const size = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  size.observe(root);
  return () => { size.disconnect(); model.off("change:svg", draw); };
}

export default { render };
