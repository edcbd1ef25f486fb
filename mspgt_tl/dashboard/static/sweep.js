// Dose and response: one measure's figure at a time, of all scales or of one, with or without the controls.
(() => {
  const form = document.getElementById("response"), field = name => form.elements[name];
  const parts = [...form.nextElementSibling.children];
  const show = () => {
    parts.forEach((part, i) => { part.hidden = i !== field("metric").selectedIndex; });
    const place = parts[field("metric").selectedIndex].querySelector("[data-figure]"), scale = field("scale").value;
    const visible = place.data.map(({ meta }) => !meta || ((!scale || meta.scale === scale) && (field("controls").checked || !meta.control)));
    Plotly.restyle(place, { visible });
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  document.addEventListener("mspgt-theme", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
})();

// The texts of a sweep side by side: dose and level to choose, changed words marked, tokens coloured by their KL.
(() => {
  const data = JSON.parse(document.getElementById("texts").textContent), form = document.getElementById("browser");
  const field = name => form.elements[name], lines = document.getElementById("lines");
  field("sample").max = data.samples.length;
  field("dose").replaceChildren(...data.doses.map(dose => new Option(dose.name, dose.name)));
  const h = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };

  /** Mark the words of a text that a longest common subsequence with the undisturbed one leaves over. */
  const marked = (before, after) => {
    const a = before.split(/(?<=\s)/), b = after.split(/(?<=\s)/);
    const same = (i, j) => a[i].trim() === b[j].trim();
    const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
      best[i][j] = same(i, j) ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    const out = h("span", {});
    for (let i = 0, j = 0; j < b.length;) {
      if (i < a.length && same(i, j)) { out.append(b[j++]); i++; }
      else if (i < a.length && best[i + 1][j] >= best[i][j + 1]) i++;
      else out.append(h("mark", {}, b[j++]));
    }
    return out;
  };
  const strip = (tokens, kl) => h("span", { class: "strip" }, ...tokens.map((token, i) => h("span", {
    style: `--kl: ${Math.round(Math.min(1, (kl[i] ?? 0) / data.most) * 100)}%`,
    title: kl[i] === null ? "nothing predicts the first token" : `KL ${kl[i].toPrecision(2)} nats` }, token)));
  const row = (name, prompt, ...cells) => h("tr", {}, h("th", { scope: "row" }, name),
    h("td", {}, h("div", {}, h("span", { class: "soft" }, prompt), ...cells)));

  const show = () => {
    const dose = data.doses.find(one => one.name === field("dose").value), level = field("level");
    level.max = dose.levels.length - 1;
    const at = Number(level.value), i = Math.min(Math.max(1, field("sample").value | 0), data.samples.length) - 1;
    form.querySelector("output").textContent = dose.levels[at].name;
    const sample = data.samples[i], rows = [row("undisturbed", sample.prompt, sample.clean)];
    for (const one of dose.levels[at].conditions) {
      if (one.control && !field("controls").checked) continue;
      const text = sample.texts[one.name], kl = sample.kl?.[one.name], cells = text === undefined ? ["–"] : [marked(sample.clean, text)];
      if (kl) cells.push(strip(sample.tokens, kl));
      rows.push(row(one.label, text === undefined ? "" : sample.prompt, ...cells));
    }
    lines.replaceChildren(...rows);
  };
  field("dose").value = data.start.dose;
  field("level").max = data.doses.find(one => one.name === data.start.dose).levels.length - 1;
  field("level").value = data.start.level;
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  show();
})();
