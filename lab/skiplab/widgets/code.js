// Code in a box, with a button that copies it.

function render({ model, el }) {
  const pre = document.createElement("pre"), button = document.createElement("button");
  pre.className = "skiplab-code"; pre.tabIndex = 0; pre.setAttribute("aria-label", "Python code of this state");
  button.className = "jupyter-button widget-button skiplab-copy"; button.textContent = "Copy";
  const show = () => { pre.textContent = model.get("code"); button.textContent = "Copy"; };
  const select = () => { const range = document.createRange(); range.selectNodeContents(pre);
    getSelection().removeAllRanges(); getSelection().addRange(range); };
  button.onclick = async () => {
    select();
    try { await navigator.clipboard.writeText(model.get("code")); button.textContent = "Copied"; }
    catch { button.textContent = "Selected: press Ctrl+C"; }   // a page without https has no clipboard
  };
  model.on("change:code", show); show();
  el.append(button, pre);
  return () => model.off("change:code", show);
}
export default { render };
