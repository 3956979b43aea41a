// Bars of a model's calls: tells what is under the pointer, or which bar the arrow keys have reached.

const HINT = "Point at a bar to read what it is, or press Tab and the arrow keys to go from bar to bar.";

function render({ model, el }) {
  const root = document.createElement("div"), holder = document.createElement("div"), about = document.createElement("div");
  root.className = "skiplab-parts"; holder.className = "skiplab-parts-picture"; about.className = "skiplab-parts-about";
  holder.tabIndex = 0; about.setAttribute("role", "status"); about.textContent = HINT;
  const legend = document.createElement("div");
  legend.className = "skiplab-parts-legend";
  root.append(holder, legend, about); el.append(root);
  let at = -1;   // the bar that the keys have reached

  const bars = () => [...holder.querySelectorAll("rect[data-lanes]")];
  const tell = (bar) => {
    for (const one of bars()) one.classList.toggle("skiplab-told", one === bar);
    about.textContent = bar ? `${bar.dataset.hint}.` : HINT;
  };

  holder.addEventListener("pointermove", (event) => {
    const rect = event.target.closest("rect[data-hint]");
    if (rect) tell(rect);
  });
  holder.addEventListener("pointerleave", () => tell(bars()[at]));
  holder.addEventListener("blur", () => { at = -1; tell(); });
  holder.addEventListener("keydown", (event) => {
    const last = bars().length - 1, moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -last - 1, End: last + 1 };
    if (!(event.key in moves)) return;
    at = Math.min(Math.max(at + moves[event.key], 0), last);
    tell(bars()[at]);
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });

  const draw = () => {
    holder.innerHTML = model.get("svg");
    fit(holder.querySelector("svg"), root.clientWidth - 6);
    legend.textContent = model.get("legend");
    at = Math.min(at, bars().length - 1);
    tell(bars()[at]);
  };
  model.on("change:svg", draw);
  let width = 0;
  const size = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  size.observe(root);
  return () => { size.disconnect(); model.off("change:svg", draw); };
}

export default { render };
