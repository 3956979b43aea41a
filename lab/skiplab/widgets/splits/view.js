// A picture of programs, behind picture.js: a click or the arrow keys follow a program.

const HINT = "Point at a cell to read what it is; click it, or press Tab and the arrow keys (left and right: splits, " +
  "up and down: KV heads), to follow a program.";

function render(context) {
  const { model } = context;
  const choose = (program) => { model.set("program", between(0, program, model.get("last_program"))); model.save_changes(); };
  return pictured(context, "splits", HINT, {
    moves: () => {
      const row = model.get("splits"), all = model.get("last_program") + 1;
      return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -all, End: all };
    },
    move: (step) => choose(model.get("program") + step),
    click: ([program]) => choose(Number(program)),
    told: () => model.get("chosen"),
  });
}

export default { render };
