// Tells plotly's charts that their place has another width: they look for one when the window's changes alone.
export default {
  render({ el }) {
    let last = 0;
    const watch = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (!width || width === last) return;
      last = width;
      window.dispatchEvent(new Event("resize"));
    });
    watch.observe(el);
    return () => watch.disconnect();
  },
};
