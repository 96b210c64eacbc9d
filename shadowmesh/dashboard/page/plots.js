// The two plots, by uPlot, which script uplot.js has put into the page. Their legends are ours: they have the
// values of now, or those under the pointer.

import { byId, make, milliseconds, rate, setText } from "./dom.js";

const TRIPS = 6;
/** Peers whose round trips are drawn at once: as many as there are colours to tell apart. */
const SHORTEST = 60;
/** Seconds that are shown at least: a plot of three seconds jumps. */
const COLOURS = ["--in", "--out", "--good", "--relay", "--warn", "--bad"];

export class Plots {
  constructor() {
    this.kinds = {
      rate: { box: byId("rate-plot"), legend: byId("rate-legend"), show: rate, what: "Throughput" },
      rtt: { box: byId("rtt-plot"), legend: byId("rtt-legend"), show: milliseconds, what: "Round trip time" },
    };
    for (const kind of Object.values(this.kinds)) {
      kind.shape = "";
      kind.pointed = null;
      kind.more = 0;
      new ResizeObserver(() =>
        kind.plot?.setSize({ width: kind.box.clientWidth, height: kind.box.clientHeight }),
      ).observe(kind.box);
    }
  }

  /** Draw anew with the colours of now. */
  repaint() {
    for (const kind of Object.values(this.kinds)) kind.shape = "";
  }

  /** peers: those to draw round trips of, [{id, name}]; chosen: NodeID whose bytes are drawn, or null. */
  update(history, peers, chosen, seconds) {
    const latest = history.at[history.at.length - 1] ?? Date.now() / 1000;
    const known = latest - (history.at[0] ?? latest);
    const span = Math.min(seconds, Math.max(SHORTEST, known));
    for (const kind of Object.values(this.kinds)) kind.range = [latest - span, latest];
    const track = chosen === null ? history.node : history.peers.get(chosen);
    const nothing = history.at.map(() => null);
    this.draw("rate", history.window(seconds, [track?.rx ?? nothing, track?.tx ?? nothing]), ["in", "out"]);
    const sampled = peers.filter(({ id }) => history.peers.has(id));
    const shown = sampled.slice(0, TRIPS);
    this.kinds.rtt.more = sampled.length - shown.length;
    const trips = shown.map(({ id }) => history.peers.get(id).rtt);
    this.draw(
      "rtt",
      history.window(seconds, trips),
      shown.map(({ name }) => name),
    );
  }

  draw(name, data, names) {
    const kind = this.kinds[name];
    const shape = names.join("\n");
    kind.data = data;
    if (kind.shape !== shape || !kind.plot) {
      kind.plot?.destroy();
      kind.plot = new uPlot(options(kind, names, name), data, kind.box);
      kind.shape = shape;
      kind.names = names;
    } else kind.plot.setData(data);
    legend(kind);
  }
}

function options(kind, names, name) {
  const style = getComputedStyle(document.documentElement);
  const colour = (variable) => style.getPropertyValue(variable).trim();
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    width: kind.box.clientWidth,
    height: kind.box.clientHeight,
    padding: [6, 26, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "time" }, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { range: () => kind.range },
      y: { range: (_plot, _low, high) => [0, Math.max(name === "rate" ? 125 : 1, (high ?? 0) * 1.1)] },
    },
    axes: [
      { ...axis, size: 26, space: 70, values: (_plot, times) => times.map(clock) },
      {
        ...axis,
        size: 62,
        splits: (_plot, _axis, low, high) => ticks(low, high, name === "rate" ? 8 : 1),
        values: (_plot, values) => values.map((value) => label(kind, value, name)),
      },
    ],
    series: [
      {},
      ...names.map((_name, index) => ({
        stroke: colour(COLOURS[index]),
        width: 1.6,
        spanGaps: false,
        points: { show: false },
        fill: name === "rate" ? colour(COLOURS[index]) + "1c" : undefined,
      })),
    ],
    hooks: {
      setCursor: [
        (plot) => {
          kind.pointed = plot.cursor.idx ?? null;
          legend(kind);
        },
      ],
    },
  };
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

const label = (kind, value, name) =>
  value === 0
    ? "0"
    : name === "rate"
      ? kind.show(value).replace(/\.0+ |(\.\d*?)0+ /, "$1 ")
      : `${value >= 10 ? Math.round(value) : +value.toFixed(2)} ms`;

/** Some four ticks at 1, 2 or 5 times a power of ten of the unit that is shown, `scale` of which is one of ours. */
function ticks(low, high, scale) {
  const rough = ((high - low) * scale) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((one) => one * power >= rough) * power) / scale;
  const found = [];
  for (let value = 0; value <= high; value += step) found.push(value);
  return found;
}

function legend(kind) {
  const [at, ...columns] = kind.data;
  const index = kind.pointed !== null && kind.pointed < at.length ? kind.pointed : at.length - 1;
  const texts = kind.names.map((name, column) => `${name} ${kind.show(columns[column]?.[index])}`);
  const more = kind.more ? [`and ${kind.more} more: choose one`] : [];
  const entries = kind.legend.children;
  while (entries.length > texts.length + more.length) kind.legend.lastChild.remove();
  while (entries.length < texts.length + more.length)
    kind.legend.append(make("span", {}, make("i"), make("span")));
  [...texts, ...more].forEach((text, column) => {
    entries[column].className = column < texts.length ? `s${column}` : "more";
    setText(entries[column].lastChild, text);
  });
  kind.box.setAttribute("aria-label", `${kind.what}: ${texts.join(", ") || "nothing to show"}`);
}
