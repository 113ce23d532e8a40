"""The style sheet and the script of report.html."""

from __future__ import annotations

STYLE = """
:root { --ink: #0f172a; --soft: #64748b; --edge: #e2e8f0; --paper: #ffffff; --ground: #f5f7fa; --accent: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 Inter, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
header { background: var(--paper); border-bottom: 1px solid var(--edge); padding: 24px max(24px, calc(50vw - 640px)); }
h1 { margin: 0 0 12px; font-size: 22px; line-height: 1.3; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 17px; display: flex; flex-wrap: wrap; gap: 4px 24px; align-items: baseline; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
main { max-width: 1328px; margin: 0 auto; padding: 24px; }
section { margin-top: 32px; }
.warning { margin: 14px 0 0; padding: 8px 12px; background: #fff7ed; border: 1px solid #fdba74; border-radius: 6px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px; }
.card { background: var(--paper); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 14px;
  display: flex; flex-direction: column; }
.card span { color: var(--soft); font-size: 12px; }
.card strong { font-size: 21px; line-height: 1.35; white-space: nowrap; }
.card small { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.chart { margin: 0; background: var(--paper); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 12px 4px;
  min-width: 0; }
.chart.wide { grid-column: 1 / -1; }
figcaption { color: var(--soft); font-size: 12.5px; padding: 0 4px 4px; }
figcaption b { color: var(--ink); font-size: 14px; margin-right: 6px; }
.nothing { text-align: center; color: var(--soft); margin: 24px 0 32px; }
.tool { font-size: 13px; font-weight: normal; color: var(--soft); cursor: pointer; }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--edge); width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: left; border-bottom: 1px solid var(--edge); white-space: nowrap; }
th { background: #f8fafc; color: var(--soft); font-weight: 600; font-size: 12.5px; position: sticky; top: 0; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
.scroll { max-height: 560px; overflow: auto; border-radius: 8px; }
section > table { margin-bottom: 16px; display: block; overflow-x: auto; width: max-content; max-width: 100%; }
details { background: var(--paper); border: 1px solid var(--edge); border-radius: 8px; margin-bottom: 8px; }
summary { padding: 10px 14px; cursor: pointer; }
pre { margin: 0; padding: 0 16px 14px; overflow: auto; max-height: 640px; font-size: 12px; }
.versions { color: var(--soft); font-size: 12px; }
@media print { .tool { display: none; } .chart, .card { break-inside: avoid; } }
"""

DRAW_SCRIPT = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
charts.forEach((chart, number) => Plotly.newPlot("chart" + number, chart.data, chart.layout, options));
const log = document.getElementById("log");
if (log) log.addEventListener("change", () => {
  const type = log.checked ? "log" : "linear";
  document.querySelectorAll(".cdf .plot").forEach(
    plot => Plotly.relayout(plot, { "xaxis.type": type, "xaxis.autorange": true }));
});
"""
