// The page of a sweep, after the script of all pages. Its data is the JSON of vidur.compare.report.

const BETTER = [13, 124, 110], WORSE = [200, 76, 26];
// Differences beyond this, in percent, have the strongest colour.
const STRONGEST = 30;
// Up to so many replicas have a line each in the picture of their load; more have a row each in a heat map.
const MOST_LINES = 8;

function seconds(value) {
  return Math.abs(value) >= 1 ? `${significant(value)} s` : `${significant(value * 1e3)} ms`;
}

function valueText(metric, value) {
  if (metric.share) return `${(100 * value).toFixed(1)} %`;
  return metric.unit === "s" ? seconds(value) : significant(value) + (metric.unit ? ` ${metric.unit}` : "");
}

const signed = (value, digits = 1) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const brief = difference => difference.relative
  ? signed(difference.mean, Math.abs(difference.mean) >= 99.95 ? 0 : 1)
  : (difference.mean < 0 ? "−" : "+") + significant(Math.abs(difference.mean), 2);

function differenceText(metric, difference) {
  const half = difference.half === null ? "∞" : difference.relative ? difference.half.toFixed(1) : significant(difference.half, 2);
  return `${brief(difference)} ± ${half}${difference.relative ? " %" : metric.unit ? ` ${metric.unit}` : ""}`;
}

/** The style of a cell that holds a difference: teal better, orange worse, ties grey; stronger where it is larger. */
function tint(difference) {
  if (difference === null || difference.verdict === "tie") return "";
  const strength = difference.relative ? Math.min(1, Math.abs(difference.mean) / STRONGEST) : 0.4;
  const color = difference.verdict === "win" ? BETTER : WORSE;
  return `background:rgba(${color},${(0.14 + 0.86 * strength).toFixed(2)});color:${strength > 0.8 ? "#fff" : "var(--ink)"}`;
}

class Sweep {
  constructor(sweep) {
    this.sweep = sweep;
    this.metric = sweep.metric;
    this.point = 0;
    this.scheduler = sweep.learned.length ? sweep.learned[0] : sweep.baseline;
    this.seed = 0;
    this.shown = new Set(this.firstShown());
    this.groups = this.grouped();
    this.readAddress();
    this.fillSelects();
    this.makeChips();
    this.makeLoadCharts();
    this.listen();
    this.drawAll();
  }

  difference(point, scheduler, metric = this.metric) {
    const found = this.sweep.differences[point][scheduler][metric];
    if (!found) return null;
    const [mean, half, verdict, adjusted, relative] = found;
    return { mean, half, verdict, adjusted, relative };
  }

  mean(point, scheduler, metric = this.metric) { return this.sweep.means[point][scheduler][metric]; }

  /** The scheduler with the best mean at a point; -1 where there is none. */
  best(point, metric = this.metric) {
    const sign = this.sweep.metrics[metric].higher ? -1 : 1;
    let best = -1;
    this.sweep.schedulers.forEach((_, scheduler) => {
      const mean = this.mean(point, scheduler, metric);
      if (mean && (best < 0 || sign * mean[0] < sign * this.mean(point, best, metric)[0])) best = scheduler;
    });
    return best;
  }

  /** All schedulers if they are few; else the baseline, the learned ones, and those that are best most often. */
  firstShown() {
    const { schedulers, baseline, learned, points } = this.sweep;
    if (schedulers.length <= 6) return schedulers.keys();
    const wins = schedulers.map(() => 0);
    points.forEach((_, point) => {
      const sign = this.sweep.metrics[this.metric].higher ? -1 : 1;
      schedulers.map((_, scheduler) => [scheduler, this.mean(point, scheduler)]).filter(([, mean]) => mean)
        .sort((a, b) => sign * (a[1][0] - b[1][0])).slice(0, 3).forEach(([scheduler], rank) => { wins[scheduler] += 3 - rank; });
    });
    const order = [...schedulers.keys()].sort((a, b) => wins[b] - wins[a]);
    return [...new Set([baseline, ...learned, ...order])].slice(0, 6);
  }

  grouped() {
    const groups = new Map();
    this.sweep.points.forEach((point, place) => {
      const key = `${point.name}|${point.replicas}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(place);
    });
    const points = this.sweep.points;
    return [...groups.values()].map(places => places.sort((a, b) => points[a].load - points[b].load));
  }

  look(scheduler) {
    const { baseline, learned, schedulers, colors } = this.sweep;
    if (scheduler === baseline) return { color: "--soft", dash: "dash", width: 1.6 };
    if (schedulers[scheduler] === "lookahead") return { color: "--ink", dash: "dot", width: 1.6 };
    if (learned.includes(scheduler)) return { color: colors[learned.indexOf(scheduler) * 4 % colors.length], width: 2.6 };
    const plain = [...schedulers.keys()].filter(
      one => one !== baseline && schedulers[one] !== "lookahead" && !learned.includes(one));
    return { color: colors[1 + plain.indexOf(scheduler) % (colors.length - 1)], width: 1.6 };
  }

  /** The names after # in the address: so a view can be passed on. */
  readAddress() {
    const given = address();
    const place = (name, list) => { if (list.includes(given.get(name))) this[name] = list.indexOf(given.get(name)); };
    place("metric", this.sweep.metrics.map(metric => metric.name));
    place("point", this.sweep.points.map(point => point.label));
    place("scheduler", this.sweep.schedulers);
    place("seed", this.sweep.cells[this.point][this.scheduler].runs.map(run => String(run.seed)));
  }

  writeAddress() {
    const { metrics, points, schedulers, cells } = this.sweep;
    const seed = cells[this.point][this.scheduler].runs[this.seed]?.seed ?? "";
    const chosen = { metric: metrics[this.metric].name, point: points[this.point].label, scheduler: schedulers[this.scheduler], seed };
    const theme = address().get("theme");
    history.replaceState(null, "", "#" + new URLSearchParams(theme ? { ...chosen, theme } : chosen));
  }

  fillSelects() {
    const options = (texts, chosen) => texts.map((text, place) =>
      `<option value=${place}${place === chosen ? " selected" : ""}>${escaped(text)}</option>`).join("");
    find("metric").innerHTML = options(this.sweep.metrics.map(metric => metric.title), this.metric);
    find("point").innerHTML = options(this.sweep.points.map(point => point.label), this.point);
    find("scheduler").innerHTML = options(this.sweep.schedulers, this.scheduler);
  }

  listen() {
    const choose = (id, set) => find(id).addEventListener("change", event => { set(Number(event.target.value)); this.writeAddress(); });
    choose("metric", value => { this.metric = value; this.drawMatrix(); this.drawLoadCharts(); });
    choose("point", value => { this.point = value; this.drawPoint(); });
    choose("scheduler", value => { this.scheduler = value; this.drawCell(); });
    choose("seed", value => { this.seed = value; this.drawCell(); });
    find("log").addEventListener("change", () => this.drawDistributions());
    find("chips").addEventListener("click", event => this.toggle(event.target.closest("button")));
    find("matrix").addEventListener("keydown", event => { if (event.key === "Enter") event.target.click(); });
    find("matrix").addEventListener("click", event => {
      const cell = event.target.closest("td[data-scheduler]");
      if (!cell) return;
      this.point = Number(cell.dataset.point);
      this.scheduler = Number(cell.dataset.scheduler);
      find("point").value = this.point;
      find("scheduler").value = this.scheduler;
      this.drawPoint();
      this.writeAddress();
      find("one").scrollIntoView({ behavior: "smooth" });
    });
    find("matrix").addEventListener("pointermove", event => this.explain(event.target, event.clientX, event.clientY));
    find("matrix").addEventListener("focusin", event => {
      const { left, bottom } = event.target.getBoundingClientRect();
      this.explain(event.target, left, bottom);
    });
    for (const leaving of ["pointerleave", "focusout"]) find("matrix").addEventListener(leaving, () => { find("tip").hidden = true; });
  }

  makeChips() {
    const chips = this.sweep.schedulers.map((name, scheduler) => legendChip(name, this.look(scheduler), this.shown.has(scheduler), { scheduler }));
    find("chips").replaceChildren(...chips, element("button", { className: "chip plain", type: "button", textContent: "all", data: { all: 1 } }));
  }

  toggle(button) {
    if (!button) return;
    const everyone = this.sweep.schedulers.map((_, scheduler) => scheduler);
    if (button.dataset.all) this.shown = new Set(this.shown.size < everyone.length ? everyone : this.firstShown());
    else {
      const scheduler = Number(button.dataset.scheduler);
      if (!this.shown.delete(scheduler)) this.shown.add(scheduler);
    }
    for (const chip of find("chips").querySelectorAll("[data-scheduler]"))
      chip.setAttribute("aria-pressed", this.shown.has(Number(chip.dataset.scheduler)));
    this.drawLoadCharts();
    this.drawDistributions();
  }

  drawAll() {
    this.drawMatrix();
    this.drawLoadCharts();
    this.drawPoint();
  }

  drawPoint() {
    this.drawDistributions();
    this.drawFigures();
    this.drawCell();
  }

  // The matrix.

  drawMatrix() {
    const { schedulers, points, baseline, metrics } = this.sweep;
    const others = schedulers.map((_, scheduler) => scheduler).filter(scheduler => scheduler !== baseline);
    const metric = metrics[this.metric];
    const head = others.map(scheduler =>
      `<th class=name><span>${escaped(schedulers[scheduler])}</span></th>`).join("");
    const rows = this.groups.flatMap(places => places.map((point, place) => {
      const its = points[point], best = this.best(point);
      const mean = this.mean(point, baseline);
      const where = place ? "" : `<b>${escaped(its.name)}</b>`;
      const cells = others.map(scheduler => this.matrixCell(point, scheduler, scheduler === best)).join("");
      const base = `<td class='base${best === baseline ? " best" : ""}' tabindex=0 data-point=${point} data-scheduler=${baseline}>` +
        `${mean ? valueText(metric, mean[0]) : "-"}</td>`;
      return `<tr class=${place ? "more" : "first"}><th title="${escaped(its.title)}">${where}</th>` +
        `<td class=number>${place ? "" : its.replicas}</td><td class=number>${(100 * its.load).toFixed(0)} %</td>${base}${cells}</tr>`;
    })).join("");
    const count = verdict => others.map(scheduler => {
      const number = points.filter((_, point) => this.difference(point, scheduler)?.verdict === verdict).length;
      return `<td class=count>${number || ""}</td>`;
    }).join("");
    find("matrix").innerHTML =
      `<table data-fixed data-title="${escaped(metric.title)}"><thead><tr><th>Scenario</th><th class=number>Replicas</th><th class=number>Load</th>` +
      `<th class=name><span>${escaped(schedulers[baseline])}</span></th>${head}</tr></thead><tbody>${rows}</tbody>` +
      `<tfoot><tr><th colspan=4>better</th>${count("win")}</tr><tr><th colspan=4>worse</th>${count("loss")}</tr></tfoot></table>`;
    dressTable(find("matrix").firstChild);
    find("matrix-note").textContent = `${metric.title}${metric.higher ? ", higher is better" : ""}: ` +
      `difference from ${schedulers[baseline]} in percent, on the same requests. Teal is better, orange worse; ` +
      "grey differences may be chance. The best mean of a row is framed.";
  }

  matrixCell(point, scheduler, isBest) {
    const found = this.difference(point, scheduler);
    const classes = [found === null || found.verdict === "tie" ? "tie" : "", isBest ? "best" : ""].join(" ");
    const text = found === null ? "-" : brief(found);
    return `<td class='${classes}' style="${tint(found)}" tabindex=0 data-point=${point} data-scheduler=${scheduler}>${text}</td>`;
  }

  /** What is under the pointer, or has the focus, in words. */
  explain(target, x, y) {
    const cell = target.closest("td[data-scheduler]"), tip = find("tip");
    if (!cell) { tip.hidden = true; return; }
    const point = Number(cell.dataset.point), scheduler = Number(cell.dataset.scheduler);
    const { schedulers, points, metrics, baseline } = this.sweep, metric = metrics[this.metric];
    const found = this.difference(point, scheduler);
    const value = one => {
      const mean = this.mean(point, one);
      return mean ? `${valueText(metric, mean[0])} ± ${valueText(metric, mean[1])}` : "nothing to measure";
    };
    const rows = [[schedulers[scheduler], value(scheduler)]];
    if (scheduler !== baseline) rows.push([schedulers[baseline], value(baseline)]);
    if (found) {
      rows.push(["difference", differenceText(metric, found)]);
      rows.push(["p, corrected", found.adjusted < 0.001 ? "below 0.001" : found.adjusted.toFixed(3)]);
      rows.push(["verdict", found.verdict]);
    }
    rows.push(["seeds", `${points[point].seeds}`]);
    tip.innerHTML = `<b>${escaped(points[point].label)}</b><p>${escaped(points[point].title)}</p><dl>` +
      rows.map(([name, text]) => `<dt>${escaped(name)}</dt><dd>${escaped(text)}</dd>`).join("") + "</dl>";
    tip.hidden = false;
    const { innerWidth: width, innerHeight: height } = window;
    tip.style.left = `${Math.max(8, Math.min(x + 16, width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 20 + tip.offsetHeight > height ? y - tip.offsetHeight - 12 : y + 20}px`;
  }

  // Against load.

  makeLoadCharts() {
    find("loads").innerHTML = this.groups.map((places, group) => {
      const its = this.sweep.points[places[0]], loads = places.map(place => `${(100 * this.sweep.points[place].load).toFixed(0)}`);
      return `<figure class=chart><figcaption><span><b>${escaped(its.name)}, ${its.replicas} replicas</b> ${escaped(its.title)}, ${loads.join(", ")} % load</span>` +
        `</figcaption><div class=plot id=load${group} style="height:270px" role=img></div></figure>`;
    }).join("");
  }

  drawLoadCharts() { this.groups.forEach((_, group) => this.drawLoadChart(group)); }

  drawLoadChart(group) {
    const places = this.groups[group], metric = this.sweep.metrics[this.metric];
    const shown = [...this.shown].sort((a, b) => a - b);
    const largest = Math.max(0, ...places.flatMap(point => shown.map(scheduler => this.mean(point, scheduler)?.[0] ?? 0)));
    const [scale, unit] = metric.unit === "s" ? (largest < 1 ? [1e3, "ms"] : [1, "s"]) : [1, metric.unit];
    const title = metric.title + (unit ? ` (${unit})` : "");
    const traces = shown.map(scheduler => this.loadTrace(scheduler, places, scale, unit));
    const values = { title: { text: title, standoff: 8 } };
    const layout = places.length === 1
      ? { xaxis: values, yaxis: { type: "category", autorange: "reversed" }, margin: { l: 136, r: 16, t: 8, b: 44 } }
      : { xaxis: { title: { text: "load (%)", standoff: 8 } }, yaxis: values, margin: { l: 60, r: 16, t: 8, b: 44 } };
    draw(`load${group}`, traces, { ...layout });
  }

  loadTrace(scheduler, places, scale, unit) {
    const found = places.map(point => [this.sweep.points[point], this.mean(point, scheduler)]).filter(([, mean]) => mean);
    const look = this.look(scheduler), name = this.sweep.schedulers[scheduler];
    const values = found.map(([, mean]) => mean[0] * scale);
    const error = { type: "data", array: found.map(([, mean]) => mean[1] * scale), thickness: 1.2, width: 3, color: look.color };
    const about = `${escaped(name)}<br>%{customdata}<extra></extra>`;
    const texts = found.map(([its, mean]) => `${(100 * its.load).toFixed(0)} % load: ${significant(mean[0] * scale)} ± ` +
      `${significant(mean[1] * scale, 2)} ${unit}`);
    if (places.length === 1)
      return { type: "scatter", mode: "markers", name, x: values, y: found.map(() => name), error_x: error, customdata: texts,
               marker: { color: look.color, size: 8 }, hovertemplate: about };
    return { type: "scatter", mode: "lines+markers", name, x: found.map(([its]) => 100 * its.load), y: values, error_y: error,
             customdata: texts, line: look, marker: { color: look.color, size: 5 }, hovertemplate: about };
  }

  // One scenario.

  drawDistributions() {
    const type = find("log").checked ? "log" : "linear";
    const { probabilities, cells, schedulers } = this.sweep;
    for (const time of ["ttft", "tpot", "e2e"]) {
      const shown = [...this.shown].sort((a, b) => a - b).filter(one => cells[this.point][one].quantiles[time].length > 0);
      // The 99th percentile says which unit fits, and where a linear axis ends.
      const at = probabilities.findIndex(one => one >= 0.99);
      const ends = shown.map(one => cells[this.point][one].quantiles[time][at]);
      const [scale, unit] = Math.max(0, ...ends) < 1 ? [1e3, "ms"] : [1, "s"];
      const traces = shown.map(one => ({
        type: "scatter", mode: "lines", name: schedulers[one], line: this.look(one),
        x: cells[this.point][one].quantiles[time].map(value => value * scale), y: probabilities.map(value => 100 * value),
        hovertemplate: `${escaped(schedulers[one])}: %{y:.1f} % within %{x:.3s} ${unit}<extra></extra>`,
      }));
      const range = type === "log" || !ends.length ? {} : { range: [0, 1.15 * Math.max(...ends) * scale] };
      const x = { type, title: { text: `${time.toUpperCase()} (${unit})`, standoff: 8 }, ...range };
      const y = { title: { text: "requests (%)", standoff: 8 }, range: [0, 101] };
      draw(`cdf-${time}`, traces, { xaxis: x, yaxis: y, margin: { l: 56, r: 16, t: 8, b: 44 } });
    }
  }

  drawFigures() {
    const { schedulers, metrics, baseline } = this.sweep;
    const best = metrics.map((_, metric) => this.best(this.point, metric));
    const order = [baseline, ...schedulers.keys()].filter((one, place, all) => all.indexOf(one) === place);
    const rows = order.map(scheduler => `<tr><th>${escaped(schedulers[scheduler])}</th>` + metrics.map((metric, place) => {
      const mean = this.mean(this.point, scheduler, place), found = this.difference(this.point, scheduler, place);
      const value = mean ? valueText(metric, mean[0]) : "-";
      const classes = best[place] === scheduler ? "best" : "";
      const small = found ? `<small>${differenceText(metric, found)}</small>` : "<small>&nbsp;</small>";
      return `<td class='${classes}' style="${tint(found)}">${value}${small}</td>`;
    }).join("") + "</tr>").join("");
    const head = metrics.map(metric => `<th class=number>${escaped(metric.title)}</th>`).join("");
    find("figures").innerHTML = `<table data-title="${escaped(this.sweep.points[this.point].label)}"><thead><tr><th>Scheduler</th>${head}</tr></thead><tbody>${rows}</tbody></table>`;
    dressTable(find("figures").firstChild);
    find("point-note").textContent = this.sweep.points[this.point].note;
  }

  // One simulation.

  drawCell() {
    const cell = this.sweep.cells[this.point][this.scheduler];
    this.seed = Math.min(this.seed, Math.max(0, cell.runs.length - 1));
    find("seed").innerHTML = cell.runs.map((run, place) =>
      `<option value=${place}${place === this.seed ? " selected" : ""}>${run.seed}</option>`).join("");
    const run = cell.runs[this.seed];
    find("command").textContent = run ? run.command : "there is no simulation of this scheduler here";
    this.drawReplicas(run);
    this.drawPlacements(cell);
  }

  drawReplicas(run) {
    if (!run || !run.load) {
      Plotly.purge("replicas");
      drawn.delete("replicas");
      find("replicas").innerHTML = "<p class=nothing>no picture: the page holds those of the first seeds</p>";
      return;
    }
    if (find("replicas").querySelector(".nothing")) find("replicas").innerHTML = "";
    const middles = run.edges.slice(1).map((edge, place) => (edge + run.edges[place]) / 2);
    const time = { title: { text: "time (s)", standoff: 8 } };
    if (run.load.length <= MOST_LINES) {
      const traces = run.load.map((row, replica) => ({
        type: "scatter", mode: "lines", name: `replica ${replica}`, x: middles, y: row,
        line: { color: this.sweep.colors[replica], width: 1.6, shape: "hvh" },
        hovertemplate: `replica ${replica}: %{y} at %{x} s<extra></extra>`,
      }));
      const y = { title: { text: "outstanding requests", standoff: 8 }, rangemode: "tozero" };
      const layout = { xaxis: time, yaxis: y, margin: { b: 44 } };
      addLegend("replicas", traces, layout);
      draw("replicas", traces, layout);
      return;
    }
    const bar = { thickness: 10, outlinewidth: 0, title: { text: "requests", side: "right" } };
    const heat = { type: "heatmap", x: middles, y: run.load.map((_, replica) => replica), z: run.load, colorscale: this.sweep.heat,
                   zmin: 0, colorbar: bar, hovertemplate: "replica %{y}: %{z} outstanding at %{x} s<extra></extra>" };
    const y = { title: { text: "replica", standoff: 8 }, autorange: "reversed" };
    draw("replicas", [heat], { xaxis: time, yaxis: y, margin: { l: 56, r: 16, t: 8, b: 44 } });
  }

  /** Where the requests of each size of prompt went, and all of them, in percent of that size. */
  drawPlacements(cell) {
    const rows = cell.placements.map(row => [...row, row.reduce((sum, one) => sum + one, 0)]);
    const names = [...this.sweep.classes, "all"];
    const totals = names.map((_, place) => rows.reduce((sum, row) => sum + row[place], 0));
    const kept = names.map((_, place) => place).filter(place => totals[place] > 0);
    const shares = rows.map(row => kept.map(place => 100 * row[place] / totals[place]));
    const even = rows.length ? 100 / rows.length : 0;
    const heat = {
      type: "heatmap", x: kept.map(place => names[place].replace(" to ", "<br>to ")), y: rows.map((_, replica) => replica), z: shares, xgap: 2, ygap: rows.length > 16 ? 0 : 2,
      colorscale: this.sweep.heat, zmin: 0, zmax: Math.max(2 * even, ...shares.flat()), showscale: false,
      customdata: rows.map(row => kept.map(place => row[place])), texttemplate: rows.length > 16 ? "" : "%{z:.0f} %",
      hovertemplate: "replica %{y}, prompts of %{x} tokens: %{customdata:,} requests, %{z:.1f} % of them<extra></extra>",
    };
    const x = { type: "category", tickangle: 0, tickfont: { size: 11 }, title: { text: "prompt (tokens)", standoff: 8 } };
    const y = { title: { text: "replica", standoff: 8 }, autorange: "reversed", dtick: rows.length > 16 ? undefined : 1 };
    draw("placements", [heat], { xaxis: x, yaxis: y, margin: { l: 56, r: 16, t: 8, b: 58 } });
    find("placements-note").textContent =
      `where ${this.sweep.schedulers[this.scheduler]} sends prompts of each size, over all seeds; even would be ${even.toFixed(0)} %`;
  }
}

opened.then(async () => {
  document.body.append(element("div", { id: "tip", hidden: true }));
  window.sweep = new Sweep(JSON.parse(await unpack("sweep")));
  document.querySelectorAll("#loads .plot, #cdf-ttft, #cdf-tpot, #cdf-e2e, #replicas, #placements").forEach(plot => chartTools(plot.id));
});
