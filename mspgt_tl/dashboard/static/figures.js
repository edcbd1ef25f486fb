// Draws stored figures in the colours of the page's theme; shared by pages of runs and by the site.
const mspgtFigures = (() => {
  const root = document.documentElement;
  // Figures are stored as they look on white; on a dark page these colours take each other's place.
  const SWAPS = { "#1a1a1a": "#ecebe6", "#767676": "#a5a39b", "#882255": "#ef8fb9", "#332288": "#a99cf0", "#117733": "#5fcf86",
    "#AA4499": "#e58ad8", "#665c00": "#d9cc55", "#0072B2": "#56b4e9", "#D55E00": "#f08a4b", "#007A5A": "#35c497",
    "rgba(0,114,178": "rgba(86,180,233", "rgba(213,94,0": "rgba(240,138,75", "rgba(0,122,90": "rgba(53,196,151",
    "rgba(26,26,26": "rgba(236,235,230", "rgba(51,34,136": "rgba(169,156,240", "rgba(17,119,51": "rgba(95,207,134",
    "rgba(170,68,153": "rgba(229,138,216", "rgba(102,92,0": "rgba(217,204,85" };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const options = { displaylogo: false, showSendToCloud: false };
  const plots = () => [...document.querySelectorAll("[data-figure]")];

  // A legend below the plot has as many rows as the window's width makes of it: the figure grows by them, or the plot
  // would be pushed out of it.
  const fit = place => {
    const full = place._fullLayout, base = Number(place.dataset.height), rows = full?.legend?._height ?? 0;
    if (!base || !full.showlegend || full.legend.yref !== "container") return;
    const extra = Math.max(0, Math.ceil(rows) - 24), height = base + extra;
    if (Math.abs(full.height - height) < 2) return;
    place.style.height = `${height}px`;
    Plotly.relayout(place, { height, "margin.b": 50 + extra });
  };

  const draw = () => {
    const dark = isDark(), line = dark ? "#45453f" : "#e1e1dd";
    for (const place of plots()) {
      let text = place.nextElementSibling.textContent;
      if (dark) for (const [light, other] of Object.entries(SWAPS)) text = text.replaceAll(light, other);
      const figure = JSON.parse(text), layout = figure.layout;
      Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { ...layout.font, color: dark ? "#ecebe6" : "#1a1a1a" } });
      for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name)) layout[name] = { gridcolor: line, linecolor: line, automargin: true, ...layout[name] };
      // Long names of rows would leave a narrow window no plot; hovering tells the whole name.
      if (place.clientWidth < 560 && layout.yaxis?.ticktext)
        layout.yaxis.ticktext = layout.yaxis.ticktext.map(name => (name.length > 18 ? `${name.slice(0, 17)}…` : name));
      layout.modebar = { ...layout.modebar, bgcolor: "rgba(0,0,0,0)", color: dark ? "#8a887f" : "#9a9a94", activecolor: dark ? "#ecebe6" : "#1a1a1a" };
      layout.hoverlabel = { ...layout.hoverlabel, bgcolor: dark ? "#1b1b19" : "#fff", bordercolor: line };
      place.dataset.height ??= layout.height ?? "";
      try {
        Plotly.react(place, figure.data, layout, options).then(fit);
      } catch (error) {  // one figure that has nothing to scale an axis by takes no other with it
        Plotly.purge(place);
        place.textContent = `This figure could not be drawn: ${error.message}.`;
      }
    }
  };

  // Figures follow whatever size their place ends up with.
  const watcher = new ResizeObserver(places => places.forEach(({ target }) => target.clientWidth && target._fullLayout
    && (Math.abs(target._fullLayout.width - target.clientWidth) > 1 || Math.abs(target._fullLayout.height - target.clientHeight) > 1)
    && Promise.resolve(Plotly.Plots.resize(target)).then(() => fit(target))));
  plots().forEach(place => watcher.observe(place));
  draw();
  return { draw, isDark };
})();
