"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const MOST_ROWS = 2000;
// `ast`: expressions are interpreted, not evaluated, as the policy in the head demands.
const EMBED = { actions: false, renderer: "svg", ast: true };
const ONE = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });

const tables = Object.fromEntries(
  Object.entries(report.tables).map(([name, { columns, rows }]) => [
    name,
    rows.map((row) => Object.fromEntries(columns.map((column, position) => [column, row[position]]))),
  ]),
);

function themeConfig() {
  const css = getComputedStyle(document.documentElement);
  const [text, quiet, line] = ["--text", "--quiet", "--line"].map((name) => css.getPropertyValue(name).trim());
  const dark = document.documentElement.dataset.theme === "dark";
  const axis = { labelColor: quiet, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line };
  return {
    background: "transparent",
    font: 'system-ui, "Segoe UI", Roboto, sans-serif',
    view: { stroke: null },
    axis: { ...axis, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, labelLimit: 170, labelPadding: 6 },
    axisX: { grid: false },
    axisBand: { domain: false, ticks: false },
    legend: { labelColor: text, titleColor: quiet, orient: "bottom", labelFontSize: 12, labelLimit: 140, columns: innerWidth < 600 ? 2 : 4 },
    range: {
      category: ["#4c78dd", "#e0793a", "#2a9d8f", "#b45fc4", "#c9a227", "#d64e6a", "#7a9a2e", "#8b95a5"],
      heatmap: dark ? ["#222b3f", "#3f62b8", "#9ec1ff"] : ["#eaf0fd", "#7c9fe8", "#27408f"],
      ramp: dark ? ["#222b3f", "#3f62b8", "#9ec1ff"] : ["#eaf0fd", "#7c9fe8", "#27408f"],
    },
    bar: { color: "#4c78dd" }, line: { color: "#4c78dd", strokeWidth: 2 }, area: { color: "#4c78dd" },
    point: { filled: true, size: 45 }, text: { color: quiet, fontSize: 12 },
  };
}

function rowsOf(card) {
  const chosen = card.selects.map((select) => [select.dataset.column, select.value]);
  return tables[card.table].filter((row) => chosen.every(([column, value]) => String(row[column]) === value));
}

async function draw(card) {
  const rows = rowsOf(card);
  card.element.querySelector(".empty").hidden = rows.length > 0;
  card.element.querySelector("details").hidden = rows.length === 0;
  if (card.spec) {
    card.view?.finalize();
    const place = card.element.querySelector(".chart");
    place.hidden = rows.length === 0;
    if (rows.length) {
      const spec = { ...card.spec, datasets: { [card.table]: rows }, config: themeConfig() };
      card.view = await vegaEmbed(place, spec, EMBED);
    }
  }
  fillTable(card, rows);
}

function fillTable(card, rows) {
  const place = card.element.querySelector(".scroll");
  place.replaceChildren();
  if (!card.element.querySelector("details").open || !rows.length) return;
  const columns = Object.keys(rows[0]);
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  const numeric = columns.map((column) => rows.every((row) => row[column] === null || typeof row[column] === "number"));
  columns.forEach((column, position) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = column.replaceAll("_", " ");
    cell.className = numeric[position] ? "number" : "";
    head.append(cell);
  });
  const body = table.createTBody();
  for (const row of rows.slice(-MOST_ROWS)) {
    const line = body.insertRow();
    columns.forEach((column, position) => {
      const cell = line.insertCell();
      const value = row[column];
      cell.className = numeric[position] ? "number" : String(value).length > 40 ? "long" : "";
      cell.textContent = value === null ? "" : typeof value === "number" ? ONE.format(value) : value;
    });
  }
  if (rows.length > MOST_ROWS) {
    table.createCaption().textContent = `The last ${ONE.format(MOST_ROWS)} of ${ONE.format(rows.length)} rows`;
  }
  place.append(table);
}

function fillPickers(card) {
  for (const select of card.selects) {
    const column = select.dataset.column;
    const values = [...new Set(tables[card.table].map((row) => row[column]))];
    if (column === "genre") values.sort((a, b) => String(a).localeCompare(String(b)));
    if (column === "date" || column === "run") values.reverse();
    select.replaceChildren(...values.map((value) => new Option(String(value), String(value))));
    if (card.pickers[column] !== null) select.value = String(card.pickers[column]);
    select.addEventListener("change", () => draw(card));
  }
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", `Use ${dark ? "light" : "dark"} colours`);
  return Promise.all(cards.map(draw));
}

const cards = report.cards.map((card) => {
  const element = document.getElementById(card.name);
  return { ...card, element, selects: [...element.querySelectorAll("select")] };
});
for (const card of cards) {
  fillPickers(card);
  card.element.querySelector("details").addEventListener("toggle", () => fillTable(card, rowsOf(card)));
}
document.getElementById("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme !== "dark");
});
setTheme(matchMedia("(prefers-color-scheme: dark)").matches).then(() => {
  document.documentElement.dataset.drawn = "yes";
});
