// A picture of cells (figures/nibbles.py) in the width that there is: cells become narrower, letters do not.

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
