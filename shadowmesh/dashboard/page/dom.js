// Elements, and numbers as people read them. Text gets into the page as text nodes here and nowhere else.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element; `children` are elements or texts. Attributes that are null or false are left out. */
export function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

/** Sets a text only where it differs: what somebody has marked stays marked. */
export function setText(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

/**
 * Fills a table, keeping rows and cells that are there, and with them focus and selection.
 *
 * columns: [{title, name}], `name` being classes of the column; rows: [{key, name, cells}], a cell being a text
 * or {text, name, node}. `node` is an element of the caller's own, which has to be the same one each time.
 */
export function fillTable(table, columns, rows, empty = "") {
  if (!table.tHead) {
    const head = columns.map(({ title, name }) => make("th", { scope: "col", class: name }, title));
    table.append(make("thead", {}, make("tr", {}, ...head)), make("tbody"));
  }
  table.tHead.hidden = !rows.length;
  table.parentElement.hidden = !rows.length && !empty;
  const body = table.tBodies[0];
  if (!rows.length) {
    body.replaceChildren(...(empty ? [make("tr", {}, make("td", { class: "long faint" }, empty))] : []));
    return;
  }
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach((row, index) => {
    const line = known.get(row.key) ?? newRow(row.key, columns);
    known.delete(row.key);
    setAttributes(line, { class: row.name });
    row.cells.forEach((cell, column) => fillCell(line.cells[column], cell, columns[column].name));
    if (body.rows[index] !== line) body.insertBefore(line, body.rows[index] ?? null);
  });
  for (const line of known.values()) line.remove();
}

function newRow(key, columns) {
  const line = make("tr", {}, ...columns.map(() => make("td")));
  line.dataset.key = key;
  return line;
}

function fillCell(cell, content, column) {
  const {
    text = "",
    name = "",
    node = null,
  } = content !== null && typeof content === "object" ? content : { text: content };
  setAttributes(cell, { class: [column, name].filter(Boolean).join(" ") || null });
  if (node) {
    if (cell.firstChild !== node) cell.replaceChildren(node);
  } else setText(cell, text);
}

/** Fills a <dl> with [name, value]; entries without a value are left out. */
export function fillFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  while (list.children.length > 2 * shown.length) list.lastChild.remove();
  while (list.children.length < 2 * shown.length) list.append(make("dt"), make("dd"));
  shown.forEach(([name, value], index) => {
    setText(list.children[2 * index], name);
    setText(list.children[2 * index + 1], value);
  });
}

/** Fills a <ul> with texts. */
export function fillList(list, texts) {
  while (list.children.length > texts.length) list.lastChild.remove();
  while (list.children.length < texts.length) list.append(make("li"));
  texts.forEach((text, index) => setText(list.children[index], text));
}

/** A small bar for a share of 0 to 1. */
export function meter(bar, share, hot = 2) {
  const svg =
    bar ??
    draw(
      "svg",
      { "aria-hidden": "true", viewBox: "0 0 100 10", preserveAspectRatio: "none" },
      draw("rect", { width: 100, height: 10, rx: 3 }),
      draw("rect", { height: 10, rx: 3 }),
    );
  setAttributes(svg, { class: share > hot ? "meter hot" : "meter" });
  setAttributes(svg.lastChild, { width: Math.round(100 * Math.min(1, Math.max(0, share))) });
  return svg;
}

const digits = (value) =>
  value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);

/** Bytes a second as bits a second, with SI prefixes: 12.5 Mbit/s. */
export function rate(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let bits = bytes * 8;
  if (bits < 999.5) return `${Math.round(bits)} bit/s`;
  let power = 0;
  while (bits >= 999.5 && power < 4) {
    bits /= 1000;
    power += 1;
  }
  return `${digits(bits)} ${" kMGT"[power]}bit/s`;
}

/** Bytes with binary prefixes, as the verbs print them: 1.50 KiB. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  let power = 0;
  let value = bytes;
  while (value >= 999.5) {
    value /= 1024;
    power += 1;
  }
  return `${digits(value)} ${" KMGTPE"[power]}iB`;
}

/** The two largest units, as the verbs print them: 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.max(0, Math.floor(seconds));
  const units = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = units.findIndex(([value]) => value);
  return units
    .slice(first < 0 ? 3 : first)
    .slice(0, 2)
    .map(([value, unit]) => `${value} ${unit}`)
    .join(" ");
}

/** Until something ends; what has ended says so. */
export const remaining = (seconds) =>
  seconds === null || seconds === undefined
    ? "–"
    : seconds < 0
      ? `ended ${duration(-seconds)} ago`
      : duration(seconds);

export const milliseconds = (value) =>
  value === null || value === undefined ? "–" : `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;

export const percent = (share) =>
  share === null || share === undefined
    ? "–"
    : `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;

export const count = (value) => value.toLocaleString("en");

/** A rate of events: 0, 0.3/s, 12/s. */
export const frequency = (value) =>
  value === null ? "–" : value === 0 ? "0" : `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)}/s`;

export const shortId = (id) => `${id.slice(0, 10)}…`;
