// A whole number: slide it in growing steps, or type it. Python reads what is typed, and says what is wrong with it.

function render({ model, el }) {
  const make = (tag, name, given = {}) => {
    const node = Object.assign(document.createElement(tag), { className: `skiplab-count-${name}`, ...given });
    el.append(node);
    return node;
  };
  const id = `skiplab-count-${Math.random().toString(36).slice(2)}`;
  el.classList.add("skiplab-count");
  const label = make("label", "label", { htmlFor: id, textContent: model.get("label"), title: model.get("label") });
  const slider = make("input", "slider", { type: "range", id, min: 0, step: 1 });
  const field = make("input", "field", { type: "text", inputMode: "numeric", autocomplete: "off" });
  make("span", "unit", { textContent: model.get("unit") });
  const problem = make("span", "problem", { id: `${id}-problem` });
  problem.setAttribute("role", "alert");
  field.setAttribute("aria-label", [model.get("label"), model.get("unit") && `(${model.get("unit")})`, "typed"].filter(Boolean).join(" "));
  field.setAttribute("aria-describedby", problem.id);

  const nearest = (value) => {
    const steps = model.get("steps");
    return steps.reduce((best, step, index) => (Math.abs(step - value) < Math.abs(steps[best] - value) ? index : best), 0);
  };
  const show = () => {
    const value = model.get("value");
    slider.max = model.get("steps").length - 1;
    slider.value = nearest(value);
    slider.setAttribute("aria-valuetext", `${value.toLocaleString("en-US")} ${model.get("unit")}`);
    slider.disabled = field.disabled = model.get("disabled");
    if (!model.get("refused")) field.value = value;
    problem.textContent = model.get("problem");
    field.setAttribute("aria-invalid", String(Boolean(model.get("refused"))));
  };
  slider.addEventListener("input", () => {
    model.set("value", model.get("steps")[slider.value]); model.save_changes(); show();
  });
  const typed = () => model.send({ typed: field.value });
  field.addEventListener("change", typed);
  for (const input of [slider, field])
    input.addEventListener("keydown", (event) => event.stopPropagation());   // JupyterLab would move to another cell

  const changes = ["value", "steps", "disabled", "problem", "refused"].map((name) => `change:${name}`).join(" ");
  model.on(changes, show); show();
  return () => model.off(changes, show);
}
export default { render };
