// A recorded launch, behind picture.js: a click or the arrow keys go to a step.

const HINT = "Point at a tile to read when it is visited; click it, or press Tab and the arrow keys (left and right: " +
  "steps, up and down: programs), to go there.";

function render(context) {
  const { model } = context;
  const go = (step) => { model.set("step", between(-1, step, model.get("last_step"))); model.save_changes(); };
  return pictured(context, "replay", HINT, {
    moves: () => {
      const now = model.get("step"), last = model.get("last_step"), starts = model.get("starts");
      const next = starts.find((start) => start > now) ?? last, before = starts.findLast((start) => start < now) ?? -1;
      return { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: next, ArrowUp: before, Home: -1, End: last };
    },
    move: go,
    click: ([step]) => go(Number(step)),
    told: () => "",
  });
}

export default { render };
