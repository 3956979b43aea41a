// A picture of memory, behind picture.js: the pointer marks what its lane loads, a click or the arrow keys follow a lane.

const HINT = "Point at a cell to read what it is; click it, or press Tab and the arrow keys, to follow a lane.";

function render(context) {
  const { model } = context;
  const choose = (lane) => { model.set("lane", between(0, lane, model.get("last_lane"))); model.save_changes(); };
  const cells = (holder) => [...holder.querySelectorAll("rect[data-lanes]")];
  return pictured(context, "memory", HINT, {
    moves: () => ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -99, End: 99 }),
    move: (step) => choose(model.get("lane") + step),
    click: ([lane]) => choose(Number(lane)),
    over: (rect, holder) => {
      const names = lanes(rect);
      for (const one of cells(holder)) one.classList.toggle("skiplab-same", lanes(one).some((lane) => names.includes(lane)));
    },
    told: (holder) => cells(holder).find((one) => lanes(one).includes(String(model.get("lane"))))?.dataset.hint,
  });
}

export default { render };
