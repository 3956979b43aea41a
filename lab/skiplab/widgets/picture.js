// A picture of cells (figures/nibbles.py), which Python draws as SVG: tells what is under the pointer or what the arrow
// keys have reached, and fits the width that there is.

// moves(): key -> step; move(step); click(lanes); over(cell, or null once the pointer is away); told(): the place of the
// keys in words, empty for none. All but moves, move and told may be left out.
function pictured({ model, el }, name, hint, { moves, move, told, click = () => {}, over = () => {} }) {
  const part = (parent, suffix) => {
    const node = document.createElement("div");
    node.className = `skiplab-${name}${suffix}`;
    parent.append(node);
    return node;
  };
  const root = part(el, ""), holder = part(root, "-picture"), legend = part(root, "-legend"), about = part(root, "-about");
  holder.tabIndex = 0; about.setAttribute("role", "status");
  const say = (text) => { about.textContent = text ? `${text}.` : hint; };
  const rest = () => { over(null, holder); say(document.activeElement === holder ? told(holder) : ""); };
  const cell = (event) => event.target.closest("rect[data-hint]");

  holder.addEventListener("pointermove", (event) => {
    const rect = cell(event);
    if (rect) { say(rect.dataset.hint); over(rect, holder); }
  });
  holder.addEventListener("click", (event) => { if (lanes(cell(event)).length) click(lanes(cell(event))); });
  for (const kind of ["pointerleave", "focus", "blur"]) holder.addEventListener(kind, rest);
  holder.addEventListener("keydown", (event) => {
    const steps = moves(holder);
    if (!(event.key in steps)) return;
    move(steps[event.key], holder);
    rest();
    event.preventDefault(); event.stopPropagation();   // JupyterLab would move to another cell
  });

  const draw = () => {
    holder.innerHTML = model.get("svg");
    fit(holder.querySelector("svg"), root.clientWidth - 6);
    legend.textContent = model.get("legend");
    rest();
  };
  model.on("change:svg", draw);
  let width = 0;
  const size = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  size.observe(root);
  say("");
  return () => { size.disconnect(); model.off("change:svg", draw); };
}

const lanes = (rect) => (rect?.dataset.lanes ?? "").split(" ").filter(Boolean);
const between = (low, value, high) => Math.min(Math.max(value, low), high);

// Cells become narrower, letters do not.
function fit(svg, available) {
  const whole = Number(svg.getAttribute("width")), left = Number(svg.dataset.left);
  const width = Math.max(Math.min(whole, available), left + 160);
  if (width >= whole) return;
  const scale = (width - left) / (whole - left), place = (x) => (x <= left ? x : left + (x - left) * scale);
  const number = (node, name) => Number(node.getAttribute(name));
  for (const rect of svg.querySelectorAll("rect")) {
    const from = place(number(rect, "x")), to = place(number(rect, "x") + number(rect, "width"));
    rect.setAttribute("x", from);
    rect.setAttribute("width", Math.max(to - from, 0.5));
  }
  svg.setAttribute("width", width);
  svg.setAttribute("viewBox", `0 0 ${width} ${svg.getAttribute("height")}`);
  const texts = [...svg.querySelectorAll("text")];
  for (const text of texts) text.setAttribute("x", place(number(text, "x")));
  for (const text of texts) {
    const cell = text.getAttribute("text-anchor") === "middle" && text.previousElementSibling;
    if (cell) {   // a number that has no place in its cell
      const [from, wide] = [number(cell, "x"), number(cell, "width")];
      text.setAttribute("x", from + wide / 2);
      if (text.getComputedTextLength() > wide) text.style.display = "none";
      continue;
    }
    const x = number(text, "x"), size = number(text, "font-size"), long = text.getComputedTextLength();
    const same = texts.filter((one) => one !== text && Math.abs(number(one, "y") - number(text, "y")) < 6);
    const end = text.getAttribute("text-anchor") === "end";
    const others = same.filter((one) => (end ? number(one, "x") < x : number(one, "x") > x)).map((one) => {
      const at = number(one, "x"), anchor = one.getAttribute("text-anchor"), wide = one.getComputedTextLength();
      return end ? at + { start: wide, middle: wide / 2, end: 0 }[anchor] : at - { start: 0, middle: wide / 2, end: wide }[anchor];
    });
    const room = end ? x - Math.max(0, ...others) - 2 : Math.min(width, ...others) - x - 6;
    if (long > room && room > 0) text.setAttribute("font-size", Math.max((size * room) / long, 8));
    if (end && x > left && text.getComputedTextLength() > room) text.style.display = "none";   // what its cells say, too
  }
}
