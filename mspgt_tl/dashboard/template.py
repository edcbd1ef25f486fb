"""The report's page as a Jinja template: every value is escaped; only figures, plotly.js and the parts here are not."""

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #555; --line: #d5d5d5; --tint: #f5f5f2; --accent: #882255; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1, abbr, .facts { overflow-wrap: anywhere; }
.facts { columns: 2 380px; column-gap: 32px; }
.facts table { table-layout: fixed; margin: 0 0 18px; }
.facts tr { break-inside: avoid; }
main { max-width: 1180px; margin: 0 auto; padding: 20px clamp(12px, 3vw, 36px) 60px; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); margin: 0 0 10px; }
h2 { font-size: 1.25rem; margin: 44px 0 8px; border-top: 1px solid var(--line); padding-top: 18px; }
h3 { font-size: 1rem; margin: 22px 0 4px; }
p, li { max-width: 78ch; }
p { margin: 6px 0; }
.verdict { background: var(--tint); border-left: 6px solid var(--accent); padding: 14px 18px; }
.verdict strong { display: block; font-size: clamp(1.25rem, 3.4vw, 1.75rem); line-height: 1.25; margin-bottom: 6px; }
.soft { color: var(--soft); font-size: .92rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: 10px 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; }
.badge { white-space: nowrap; font-weight: 600; }
.wide { overflow-x: auto; max-width: 100%; }
.wide th, .wide td { white-space: nowrap; }
figure { margin: 14px 0 6px; min-width: 0; }
figure > div, .js-plotly-plot { max-width: 100%; }
.pair { display: grid; gap: 8px 24px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
.pair > * { min-width: 0; }
.square, .tall { aspect-ratio: 1 / 1; width: 100%; max-width: 600px; }
.tall { aspect-ratio: 7 / 8; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 78ch; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
abbr { text-decoration: none; border-bottom: 1px dotted var(--soft); cursor: help; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 700px) {
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack tr { display: block; border-bottom: 2px solid var(--line); padding: 6px 0; }
  .stack td, .stack th { display: flex; gap: 12px; border: 0; padding: 2px 0; }
  .stack td::before, .stack tbody th::before {
    content: attr(data-label); flex: 0 0 42%; color: var(--soft); font-weight: 400; }
  .badge { white-space: normal; }
}
@media print {
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  figure, tr, .verdict { break-inside: avoid; }
  .modebar-container { display: none; }
  .verdict { print-color-adjust: exact; }
}
"""

SCRIPT = """
const plots = () => document.querySelectorAll(".js-plotly-plot");
// Figures are drawn while the page is still being read; they follow whatever size their place ends up with.
const watcher = new ResizeObserver(places => places.forEach(place => {
  const plot = place.target.querySelector(".js-plotly-plot");
  if (plot && plot.clientWidth) Plotly.Plots.resize(plot);
}));
document.querySelectorAll("figure > div").forEach(place => watcher.observe(place));
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(part => part.open = true);
  plots().forEach(plot => Plotly.relayout(plot, {width: Math.min(plot.clientWidth, 660)}));
});
window.addEventListener("afterprint", () => {
  closed.forEach(part => part.open = false);
  plots().forEach(plot => Plotly.relayout(plot, {width: null, autosize: true}));
});
"""

PAGE = """
{%- macro listing(table) %}
{% if table.wide %}<div class="wide" tabindex="0" role="region" aria-label="{{ table.caption }}">{% endif %}
<table{% if not table.wide %} class="stack"{% endif %}>
<caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row" data-label="{{ table.columns[0] }}">{{ cell }}</th>
{% else %}<td data-label="{{ table.columns[loop.index0] }}"><span>{{ cell }}</span></td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% if table.wide %}</div>{% endif %}
{% if table.note %}<p class="soft">{{ table.note }}</p>{% endif %}
{% endmacro %}
{%- macro drawn(plot) %}
<figure>
<div{% if plot.shape %} class="{{ plot.shape }}"{% endif %}
 role="img" aria-label="{{ plot.summary }}">{{ plot.html }}</div>
</figure>
{% endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<title>{{ title }}</title>
<style>{{ style }}</style>
<script>{{ plotly }}</script>
</head>
<body>
<main>
<h1>{{ heading }}</h1>
<section class="verdict" aria-label="Verdict">
<strong>{{ headline }}</strong>
{% for sentence in sentences %}<p>{{ sentence }}</p>
{% endfor %}
</section>
{% if intro %}<p class="soft">{{ intro }}</p>{% endif %}
<noscript><p><b>The figures need JavaScript; every number is also in the tables.</b></p></noscript>

{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.lead %}<p>{{ section.lead }}</p>{% endif %}
{% if section.plots | length > 1 %}<div class="pair">{% endif %}
{% for plot in section.plots %}
{% if section.plots | length > 1 %}<div>{% endif %}
{% if plot.title %}<h3>{{ plot.title }}</h3>{% endif %}
{{ drawn(plot) }}
{% if section.plots | length > 1 %}</div>{% endif %}
{% endfor %}
{% if section.plots | length > 1 %}</div>{% endif %}
{{ section.html }}
{% for note in section.notes %}<p>{{ note }}</p>{% endfor %}
{% if section.folded %}<details><summary>Show the table</summary>{% endif %}
{% for table in section.tables %}{{ listing(table) }}{% endfor %}
{% if section.folded %}</details>{% endif %}
{% if section.definition %}<p class="soft">{{ section.definition }}</p>{% endif %}
{% endfor %}

<h2>What the numbers depend on</h2>
<div class="facts">
{% for group in facts %}
<div><table><caption>{{ group.caption }}</caption><tbody>
{% for name, value, full in group.rows %}<tr><th scope="row">{{ name }}</th>
<td>{% if full %}<abbr title="{{ full }}">{{ value }}</abbr>{% else %}{{ value }}{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
{% endfor %}
</div>
<p class="soft">P, R and N mark where a definition comes from: the paper (arXiv 2505.18244) states it,
we reconstructed it, or it is new here. This page needs no network.</p>
</main>
<script>{{ script }}</script>
</body>
</html>
"""
