// Bars of a model's calls, behind picture.js: the arrow keys go from bar to bar.

const HINT = "Point at a bar to read what it is, or press Tab and the arrow keys to go from bar to bar.";

function render(context) {
  let at = -1;   // the bar that the keys have reached
  const bars = (holder) => [...holder.querySelectorAll("rect[data-lanes]")];
  const reached = (holder) => (document.activeElement === holder ? bars(holder)[at] : undefined);
  return pictured(context, "parts", HINT, {
    moves: (holder) => {
      const all = bars(holder).length;
      return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -all, End: all };
    },
    move: (step, holder) => { at = between(0, at + step, bars(holder).length - 1); },
    over: (rect, holder) => {
      for (const one of bars(holder)) one.classList.toggle("skiplab-told", one === (rect ?? reached(holder)));
    },
    told: (holder) => reached(holder)?.dataset.hint,
  });
}

export default { render };
