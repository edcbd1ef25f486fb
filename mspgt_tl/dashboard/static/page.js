(() => {
  const root = document.documentElement, { draw, isDark } = mspgtFigures;

  // ---------------- theme: the system's, until the button says otherwise
  const button = document.getElementById("theme");
  const show = () => { button.textContent = isDark() ? "☀ light" : "☾ dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
    draw();
    document.dispatchEvent(new Event("mspgt-theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { show(); draw(); });
  show();

  // ---------------- contents: links scroll, and leave the address to what the explorer keeps there
  const links = [...document.querySelectorAll(".contents a")];
  for (const link of links) link.addEventListener("click", event => {
    event.preventDefault();
    const target = document.querySelector(link.hash);
    if ("open" in target) target.open = true;
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  });
  const parts = [...document.querySelectorAll("main [id^=part-]")];
  // A narrow window shows titles first, or it would be a long way down; they were open while their figures were drawn.
  if (innerWidth < 700) document.querySelectorAll("details.part").forEach((part, i) => { part.open = i === 0; });
  let now = null;
  const follow = () => {
    // The last part that has begun above the upper third of the window.
    const part = parts.findLast(one => one.getBoundingClientRect().top < Math.min(260, innerHeight / 3)) ?? parts[0];
    if (part === now) return;
    now = part;
    links.forEach(link => link.removeAttribute("aria-current"));
    const link = links.find(one => one.hash === `#${part.id}`), bar = link?.parentElement;
    link?.setAttribute("aria-current", "true");
    // Along the bar alone: scrollIntoView would move the page, too.
    if (bar) bar.scrollLeft = link.offsetLeft - bar.offsetLeft - 20;
  };
  addEventListener("scroll", follow, { passive: true });
  follow();

  // ---------------- paper
  let closed = [], theme;
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach(part => part.open = true);
    theme = root.dataset.theme;
    if (isDark()) { root.dataset.theme = "light"; draw(); document.dispatchEvent(new Event("mspgt-theme")); }
    document.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.relayout(plot, { width: Math.min(plot.clientWidth, 660) }));
  });
  window.addEventListener("afterprint", () => {
    closed.forEach(part => part.open = false);
    if (theme === undefined) delete root.dataset.theme; else root.dataset.theme = theme;
    document.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.relayout(plot, { width: null, autosize: true }));
    draw();
    document.dispatchEvent(new Event("mspgt-theme"));
  });
})();
