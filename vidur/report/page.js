// What every page does, after theme.js: charts and their legends, tables that sort, downloads. A page's own script follows.

const escaped = text => String(text).replace(/[&<>"']/g, letter => `&#${letter.charCodeAt(0)};`);
const PLOT_OPTIONS = { responsive: true, displaylogo: false, displayModeBar: false };
const AXIS = { gridcolor: "--grid", linecolor: "--edge", tickcolor: "--edge", zeroline: false, ticks: "outside", automargin: true };
const drawn = new Map();

/** The text in the element of that name: base64 of what zlib made. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(find(id).textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

/** Rounded to significant digits, as vidur.metrics.text.significant. */
function significant(value, digits = 3) {
  const rounded = Math.abs(value) >= 10 ** digits ? Math.round(value) : Number(value.toPrecision(digits));
  const whole = Math.abs(rounded) >= 1 ? String(Math.trunc(Math.abs(rounded))).length : digits;
  return rounded.toLocaleString("en", { minimumFractionDigits: Math.max(0, digits - whole), maximumFractionDigits: 12 });
}

// Colours.

let printing = false;
function redraw() { drawn.forEach((chart, id) => draw(id, chart.data, chart.layout)); }

const probe = document.body.appendChild(element("span", { hidden: true }));
/** The colour that a name as `--ink`, or `--ink/0.2` with its opacity, has in the present theme. */
function color(name) {
  const [variable, opacity] = name.split("/");
  probe.style.colorScheme = printing ? "light" : "";
  probe.style.color = `var(${variable})`;
  const channels = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3);
  return `rgba(${channels},${opacity ?? 1})`;
}

/** A copy of what plotly draws, its names of colours resolved. */
function themed(value) {
  if (typeof value === "string") return value.startsWith("--") ? color(value) : value;
  if (Array.isArray(value)) return typeof value.at(-1) === "number" ? value : value.map(themed);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item)]));
}

// Charts.

function fullLayout(layout) {
  const axes = Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)).map(([key, axis]) => [key, { ...AXIS, ...axis }]);
  const annotations = (layout.annotations ?? []).map(note =>
    ({ showarrow: false, bgcolor: "--paper/0.8", ...note, font: { size: 11, color: "--soft", ...note.font } }));
  return themed({
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--soft" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept", bargap: 0.06, showlegend: false,
    hoverlabel: { bgcolor: "--paper", bordercolor: "--edge", font: { color: "--ink" } },
    ...layout, margin: { l: 56, r: 16, t: 10, b: 46, ...layout.margin }, annotations, ...Object.fromEntries(axes),
  });
}

/** Draw, or draw anew, a chart in the element of that name; colours may be names as `--ink`. */
function draw(id, data, layout) {
  drawn.set(id, { data, layout });
  return Plotly.react(id, themed(data), fullLayout(layout), PLOT_OPTIONS);
}

const dashes = { dash: "dashed", dot: "dotted" };
function legendChip(name, line, pressed, data) {
  const mark = element("i");
  const [variable, opacity] = line.color.split("/");
  mark.style.borderTop = `3px ${dashes[line.dash] ?? "solid"} color-mix(in srgb, var(${variable}) ${100 * (opacity ?? 1)}%, transparent)`;
  const chip = element("button", { className: "chip", type: "button", data }, mark, name);
  chip.setAttribute("aria-pressed", pressed);
  return chip;
}

/** Buttons that show and hide the series of a chart; a double click leaves only one. */
function addLegend(id, data, layout) {
  const before = find(id).previousElementSibling, series = new Map();
  if (before?.classList.contains("chips")) before.remove();
  for (const trace of data) if (trace.name && trace.showlegend !== false && !series.has(trace.name)) series.set(trace.name, trace);
  if (series.size < 2 && !layout.showlegend) return;
  const group = name => data.filter(trace => (trace.legendgroup ?? trace.name) === (series.get(name).legendgroup ?? name));
  const show = (name, visible) => group(name).forEach(trace => { trace.visible = visible; });
  const chips = [...series].map(([name, trace]) =>
    legendChip(name, { color: trace.fillcolor ?? trace.line?.color ?? trace.marker.color, ...(trace.fillcolor ? {} : { dash: trace.line?.dash }) }, true, { name }));
  const bar = element("div", { className: "chips" }, ...chips);
  const update = () => {
    for (const chip of chips) chip.setAttribute("aria-pressed", series.get(chip.dataset.name).visible !== false);
    draw(id, data, layout);
  };
  bar.addEventListener("click", event => {
    const name = event.target.closest("button")?.dataset.name;
    if (name) { show(name, series.get(name).visible === false); update(); }
  });
  bar.addEventListener("dblclick", event => {
    const name = event.target.closest("button")?.dataset.name;
    if (name) { series.forEach((_, other) => show(other, other === name)); update(); }
  });
  find(id).before(bar);
}

// Downloads.

function save(name, text, type = "text/csv") {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const fileName = text => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "data";
const csv = rows => rows.map(row => row.map(cell => {
  const text = String(cell ?? "");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}).join(",")).join("\n") + "\n";
const SERIES_HEAD = ["title", "series", "x_name", "x", "y_name", "y", "value"];
const plain = text => (text ?? "").replace(/<[^>]*>/g, " ");

/** The points of a chart, a row each under SERIES_HEAD. */
function seriesRows(id) {
  const { data, layout } = drawn.get(id), title = find(id).closest("figure").querySelector("b")?.textContent ?? "";
  return data.flatMap(trace => {
    const names = ["x", "y"].map(axis => plain(layout[(trace[`${axis}axis`] ?? axis).replace(axis, `${axis}axis`)]?.title?.text));
    const row = (x, y, value) => [title, trace.name ?? "", names[0], x, names[1], y, value];
    return trace.z ? trace.y.flatMap((y, line) => trace.x.map((x, column) => row(x, y, trace.z[line][column])))
      : trace.x.map((x, point) => row(x, trace.y[point], ""));
  });
}

const cellText = cell => cell.dataset.text ?? [...cell.childNodes].map(node => node.textContent).join(" ").trim();
const tableRows = table => [...table.rows].map(row => [...row.cells].map(cellText));
const tableTitle = table => table.dataset.title || table.closest("section")?.querySelector("h2")?.textContent.trim() || "table";

/** All series and tables of the page, a row for each number. */
function pageRows() {
  const tables = [...document.querySelectorAll("main table")].flatMap(table => {
    const [head, ...rows] = tableRows(table);
    return rows.flatMap(row => row.slice(1).map((cell, column) => [tableTitle(table), row[0], "column", head[column + 1], "", cell, ""]));
  });
  return [SERIES_HEAD, ...[...drawn.keys()].filter(id => find(id)).flatMap(seriesRows), ...tables];
}

function chartTools(id) {
  const caption = find(id).closest("figure").querySelector("figcaption"), title = () => fileName(caption.querySelector("b").textContent);
  const button = (text, hint, act) => {
    const made = element("button", { className: "quiet", type: "button", textContent: text, title: hint, onclick: act });
    made.setAttribute("aria-label", `${hint}: ${caption.querySelector("b").textContent}`);
    return made;
  };
  caption.append(element("span", { className: "tools" },
    button("PNG", "Save as a picture", () => Plotly.downloadImage(id, { format: "png", scale: 2, filename: title() })),
    button("CSV", "Save the data", () => save(`${title()}.csv`, csv([SERIES_HEAD, ...seriesRows(id)])))));
}

// Tables.

const SCALES = { "µs": 1e-6, ms: 1e-3, min: 60, h: 3600, k: 1e3, "%": 0.01 };
/** What a cell sorts by: its number, by the unit behind it, or its text; nothing comes last. */
function sortKey(cell) {
  const text = cell.dataset.text ?? cell.firstChild?.textContent.trim() ?? "";
  const match = text.match(/^([+\-−]?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*(\S*)/i);
  if (match) return Number(match[1].replaceAll(",", "").replace("−", "-")) * (SCALES[match[2]] ?? 1);
  return text === "-" || text === "" ? null : text;
}

/** Sort by a column: numbers from the greatest down, texts from A on; the other way round if they are so already. */
function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
  const rows = [...body.rows].map(row => [sortKey(row.cells[column]), row]);
  const first = rows.some(([key]) => typeof key === "number") ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? { ascending: "descending", descending: "ascending" }[first] : first;
  const sign = order === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
    : sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
  body.append(...rows.map(([, row]) => row));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}

/** Give a table headings that sort (unless it says otherwise) and a download. */
function dressTable(table) {
  if (table.dataset.fixed === undefined) [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.textContent.trim()) cell.replaceChildren(element("button", { type: "button", title: "Sort", onclick: () => sortBy(table, column) }, ...cell.childNodes));
  });
  const box = table.closest(".scroll") ?? table;
  box.tabIndex = 0;
  if (box.nextElementSibling?.classList.contains("save")) return;
  box.after(element("button", { className: "quiet save", type: "button", textContent: "Save as CSV",
    onclick: () => { const shown = box.querySelector("table"); save(`${fileName(tableTitle(shown))}.csv`, csv(tableRows(shown))); } }));
}

/** Copy the text of the element that the button names; without a clipboard select it. */
async function copy(button) {
  const source = find(button.dataset.of);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  } catch {
    getSelection().selectAllChildren(source);
  }
}

// The page.

/** Switches of a section whose charts can have a logarithmic horizontal axis. */
function addLogSwitch(section) {
  const box = element("input", { type: "checkbox" });
  box.addEventListener("change", () => section.querySelectorAll("[data-log] .plot").forEach(plot => {
    const { data, layout } = drawn.get(plot.id), positive = data.flatMap(trace => trace.x).filter(x => x > 0);
    layout.linear ??= { range: layout.xaxis.range };
    const end = layout.linear.range?.[1] ?? Math.max(...positive);
    const range = [Math.log10(Math.min(...positive)), Math.log10(end)];
    layout.xaxis = { ...layout.xaxis, type: box.checked ? "log" : "linear", range: box.checked ? range : layout.linear.range };
    const moved = (list, keys) => (layout[list] ?? []).forEach(item => keys.forEach(key => {
      if (item.xref !== "paper" && list === "annotations") item[key] = box.checked ? Math.log10(item[key]) : 10 ** item[key];
    }));
    moved("annotations", ["x"]);
    layout.uirevision = box.checked;
    draw(plot.id, data, layout);
  }));
  section.querySelector("h2").after(element("div", { className: "bar" }, element("label", {}, box, "logarithmic time axis")));
}

async function openPage() {
  if (find("plotly")) document.head.append(element("script", { textContent: await unpack("plotly") }));
  document.querySelector(".top .tools").prepend(element("button", { className: "button", type: "button", textContent: "Save all data (CSV)",
    onclick: () => save(`${fileName(document.title)}.csv`, csv(pageRows())) }));
  JSON.parse(find("charts").textContent).forEach(({ data, layout }, number) => {
    const id = `chart${number}`;
    addLegend(id, data, layout);
    draw(id, data, layout);
    chartTools(id);
  });
  document.querySelectorAll("main table").forEach(dressTable);
  document.querySelectorAll("section:has([data-log])").forEach(addLogSwitch);
  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-of]");
    if (button) copy(button);
  });
  addEventListener("theme", redraw);
  for (const [event, light] of [["beforeprint", true], ["afterprint", false]])
    addEventListener(event, () => { printing = light; redraw(); });
}

const opened = openPage();
