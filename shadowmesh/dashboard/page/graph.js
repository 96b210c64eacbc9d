// The graph: this node in the middle, peers around it in the order of their names, relays between. Where something
// stands depends on who is there and on nothing else, so that it stays where it was. Knows no network.

import { draw, milliseconds, setAttributes, setText } from "./dom.js";

const ALL_AROUND = 2 * Math.PI;
const RINGS = [
  [14, [1]],
  [32, [1, 0.7]],
  [Infinity, [1, 0.78, 0.56]],
];
/** Up to so many peers: how far out the rings are on which they stand by turns. */
const [LETTER, LINE] = [6.4, 13];
/** Pixels that a letter of a name is wide at most on average, and a line of text high. */
const LONGEST_NAME = 14;

/** How frames to a peer go: "direct", "relayed", "connecting", "idle" or "absent". */
export function manner(peer) {
  if (peer.state !== "connected") return peer.state;
  return relayOf(peer) === null ? "direct" : "relayed";
}

export const MANNERS = {
  direct: "direct",
  relayed: "relayed",
  connecting: "connecting",
  idle: "idle",
  absent: "absent",
};

/** Address of the relay that frames to a peer go through; null if none is. */
export const relayOf = (peer) => (peer.path?.startsWith("relay ") ? peer.path.slice(6) : null);

export class Graph {
  /** choose: is called with the NodeID of a peer that somebody points at. */
  constructor(svg, choose) {
    this.svg = svg;
    this.choose = choose;
    this.edges = draw("g", { "aria-hidden": "true" });
    this.nodes = draw("g");
    svg.append(this.edges, this.nodes);
    this.lines = new Map();
    this.groups = new Map();
    this.last = null;
    new ResizeObserver(() => this.last && this.update(...this.last)).observe(svg);
  }

  /** rates: NodeID of a peer -> bytes a second, both ways. */
  update(status, rates, selected) {
    this.last = [status, rates, selected];
    const place = layout(status, this.svg.clientWidth, this.svg.clientHeight);
    setAttributes(this.svg, {
      viewBox: `0 0 ${place.width} ${place.height}`,
      class: place.peers.length > 32 ? "full" : place.peers.length > 14 ? "dense" : null,
    });
    this.scale = place.peers.length > 32 ? 0.6 : 1;
    const lines = new Set();
    const groups = new Set();
    const relayRates = new Map();
    for (const at of place.peers) {
      const flow = rates.get(at.peer.node_id) ?? 0;
      groups.add(this.peer(at, selected));
      const relay = place.relays.find((one) => one.relay.address === relayOf(at.peer));
      if (relay) relayRates.set(relay, (relayRates.get(relay) ?? 0) + flow);
      lines.add(this.line(`peer ${at.peer.node_id}`, relay ?? place.middle, at, manner(at.peer), flow));
    }
    for (const at of place.relays) {
      groups.add(this.relay(at));
      const name = at.relay.state === "connected" ? "leg" : "connecting";
      lines.add(this.line(`relay ${at.relay.address}`, place.middle, at, name, relayRates.get(at) ?? 0));
    }
    groups.add(this.me(status, place.middle));
    prune(this.lines, lines);
    prune(this.groups, groups);
  }

  line(key, from, to, name, flow) {
    const line = keep(this.lines, key, this.edges, () => draw("line"));
    const hidden = name === "absent" ? "none" : null;
    setAttributes(line, {
      x1: from.x,
      y1: from.y,
      x2: to.x,
      y2: to.y,
      class: `edge ${name}`,
      "stroke-width": null,
      display: hidden,
    });
    // In steps: a line that changed by a hair every second would only flicker.
    line.style.strokeWidth =
      flow < 1
        ? "1.4px"
        : `${Math.min(7, 1.6 + Math.round(Math.log10(1 + flow / 100) * 2) / 2) * this.scale}px`;
    return key;
  }

  peer(at, selected) {
    const { peer, radius } = at;
    const key = `peer ${peer.node_id}`;
    const how = manner(peer);
    const group = keep(this.groups, key, this.nodes, () => this.button(peer.node_id));
    const trip = peer.state === "connected" ? milliseconds(peer.rtt_ms) : MANNERS[how];
    setAttributes(group, {
      transform: `translate(${at.x} ${at.y})`,
      class: selected === peer.node_id ? "selected" : null,
      "aria-label": `${peer.name}: ${MANNERS[how]}, ${trip}`,
      "aria-pressed": String(selected === peer.node_id),
    });
    const [title, ring, dot, name, second] = group.children;
    setText(title, `${peer.name}: ${peer.path ?? peer.last_error ?? MANNERS[how]}`);
    setAttributes(ring, { r: radius + 4 });
    setAttributes(dot, { r: radius, class: `dot ${how}` });
    const label = at.label || selected === peer.node_id;
    setText(name, label ? shorten(peer.name, LONGEST_NAME) : "");
    setText(second, label && at.second ? trip : "");
    caption(name, second, radius, at.above);
    return key;
  }

  button(id) {
    const group = draw(
      "g",
      { role: "button", tabindex: 0 },
      draw("title"),
      draw("circle", { class: "ring" }),
      draw("circle"),
      draw("text"),
      draw("text", { class: "second" }),
    );
    group.addEventListener("click", () => this.choose(id));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.choose(id);
    });
    return group;
  }

  relay({ relay, x, y, above, narrow, bare }) {
    const key = `relay ${relay.address}`;
    const group = keep(this.groups, key, this.nodes, () =>
      draw(
        "g",
        { role: "img" },
        draw("title"),
        draw("rect", { x: -10, y: -10, width: 20, height: 20, rx: 3 }),
        draw("text"),
        draw("text", { class: "second" }),
      ),
    );
    const [title, square, name, second] = group.children;
    const up = relay.state === "connected";
    const load = up && relay.load !== null ? `, load ${relay.load} %` : "";
    const text = up ? `${milliseconds(relay.rtt_ms)}${load}` : relay.state;
    setAttributes(group, {
      transform: `translate(${x} ${y})`,
      "aria-label": `relay ${relay.address}: ${text}`,
    });
    setText(title, `relay ${relay.address}: ${relay.last_error ?? relay.state}`);
    setAttributes(square, { class: `relay ${up ? (relay.home ? "home" : "") : "down"}` });
    setText(name, bare ? "" : shorten(relay.address.replace(/:\d+$/, ""), narrow ? 12 : 18));
    setText(second, narrow ? "" : text);
    caption(name, second, 10, above);
    return key;
  }

  me(status, { x, y }) {
    const group = keep(this.groups, "me", this.nodes, () =>
      draw(
        "g",
        { role: "img" },
        draw("title"),
        draw("circle", { class: "dot me", r: 24 }),
        draw("text", { class: "inside", y: 4 }),
        draw("text", { y: 39 }),
      ),
    );
    const [title, , inside, name] = group.children;
    setAttributes(group, {
      transform: `translate(${x} ${y})`,
      "aria-label": `this node, ${status.node.name}`,
    });
    setText(title, status.node.node_id);
    const short = status.node.name.length <= 6;
    setText(inside, short ? status.node.name : "here");
    setText(name, short ? "" : shorten(status.node.name, 16));
    return "me";
  }
}

function layout(status, width, height) {
  const peers = [...status.peers].sort((one, other) => (one.name < other.name ? -1 : 1));
  const n = peers.length;
  const radius = n <= 14 ? 13 : n <= 32 ? 10 : 7;
  const middle = { x: round(width / 2), y: round(height / 2) };
  const rings = RINGS.find(([most]) => n <= most)[1];
  // One or two peers stand beside this node, and their relays above and below it.
  const begin = n < 3 ? 0 : -ALL_AROUND / 4;
  const crowded = width < 500 && n > 14;
  const a = Math.max(60, width / 2 - (crowded ? 16 : 52));
  const b = Math.max(60, height / 2 - (crowded ? 34 : 48));
  const at = (angle, far) => ({
    x: round(middle.x + a * far * Math.cos(angle)),
    y: round(middle.y + b * far * Math.sin(angle)),
    above: Math.sin(angle) < -0.2,
  });
  const placed = peers.map((peer, index) => ({
    peer,
    radius,
    second: n <= 32,
    ...at(begin + (ALL_AROUND * index) / n, rings[index % rings.length]),
  }));
  label(placed, width);
  return {
    width,
    height,
    middle,
    peers: placed,
    relays: status.relays.map((relay, index) => ({
      relay,
      narrow: width < 500 || n > 14,
      bare: crowded,
      ...at(relayAngle(index, status.relays.length, n), rings.length > 1 ? 0.36 : 0.55),
    })),
  };
}

/** Names go where there is room for them: beside no other's, on no other's dot, and not over the edge. */
function label(peers, width) {
  const taken = peers.map(({ x, y, radius }) => [x - radius, y - radius, x + radius, y + radius]);
  peers.forEach((at, index) => {
    const half = (Math.min(at.peer.name.length, LONGEST_NAME) * LETTER) / 2;
    const size = LINE * (at.second ? 2 : 1);
    const top = at.above ? at.y - at.radius - 5 - size : at.y + at.radius + 4;
    const box = [at.x - half, top, at.x + half, top + size];
    const free = taken.every((other, one) => one === index || !touch(box, other));
    at.label = peers.length <= 14 || (free && box[0] > 0 && box[2] < width);
    if (at.label) taken.push(box);
  });
}

const touch = (one, other) =>
  one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

/** Half a step beside a peer, so that no relay stands on the line to it. */
function relayAngle(index, relays, peers) {
  if (peers < 3) return -ALL_AROUND / 4 + (ALL_AROUND * index) / relays;
  return -ALL_AROUND / 4 + (ALL_AROUND / peers) * (Math.round((index * peers) / relays) + 0.5);
}

/** Two lines of text on the side of a shape that looks away from the middle, where no line leads. */
function caption(name, second, radius, above) {
  const lines = second.textContent ? 1 : 0;
  setAttributes(name, { y: above ? -radius - 7 - 13 * lines : radius + 15 });
  setAttributes(second, { y: above ? -radius - 7 : radius + 28 });
}

function keep(map, key, parent, create) {
  if (!map.has(key)) {
    map.set(key, create());
    parent.append(map.get(key));
  }
  return map.get(key);
}

function prune(map, wanted) {
  for (const [key, element] of map) {
    if (wanted.has(key)) continue;
    element.remove();
    map.delete(key);
  }
}

const round = (value) => Math.round(value * 10) / 10;
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
