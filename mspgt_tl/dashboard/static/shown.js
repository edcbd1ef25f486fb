async (place, figure, library) => {
  // As a CommonJS module, so that it neither meets a page's own loader nor needs one.
  const unpack = async packed => {
    const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const address = URL.createObjectURL(new Blob(["const module = { exports: {} };", text, ";export default module.exports;"],
      { type: "text/javascript" }));
    const found = (await import(address)).default;
    URL.revokeObjectURL(address);
    return found;
  };
  if (library) globalThis.mspgtPlotly ??= unpack(library);
  const node = document.getElementById(place);
  for (let i = 0; i < 200 && !globalThis.mspgtPlotly; i++) await new Promise(resolve => setTimeout(resolve, 100));
  const plotly = await (globalThis.mspgtPlotly ?? globalThis.Plotly);
  if (plotly) plotly.newPlot(node, figure.data, figure.layout, { responsive: true, displaylogo: false });
  else node.textContent = "This figure is drawn with a library that an earlier figure of the notebook brings: run that cell again.";
}
