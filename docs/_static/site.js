// Explorers in their places, and figures and explorers that follow the theme of the site.
for (const place of document.querySelectorAll("[data-explorer]")) {
  const { data, state } = JSON.parse(place.nextElementSibling.textContent);
  mspgtExplorer.mount(place, data, { plotly: Plotly, state: { ...mspgtExplorer.ownState(data), ...state }, onState: () => {} });
}
new MutationObserver(() => {
  mspgtFigures.draw();
  document.dispatchEvent(new Event("mspgt-theme"));
}).observe(document.documentElement, { attributeFilter: ["data-theme"] });
