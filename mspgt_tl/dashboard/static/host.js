
// ---------------------------------------------------------------- the page's host: data in the page, state in its address

{
  const data = JSON.parse(document.getElementById("explorer-data").textContent), own = ownState(data);
  const explorer = mount(document.getElementById("explorer"), data, {
    plotly: Plotly,
    state: readHash(location.hash, own),
    onState: state => history.replaceState(null, "", `#${writeHash(state, own)}`),
  });
  window.addEventListener("hashchange", () => explorer.update(readHash(location.hash, own)));
}
