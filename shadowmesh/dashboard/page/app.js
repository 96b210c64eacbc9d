// The page: takes what the client sends, and shows it once a second at most, and only while somebody can see it.

import { byId, duration, make, milliseconds, rate, remaining, setText, shortId } from "./dom.js";
import { Graph, manner } from "./graph.js";
import { History } from "./history.js";
import { ask, enter, follow } from "./live.js";
import { Log } from "./log.js";
import { Plots } from "./plots.js";
import {
  showDrops,
  showFirewall,
  showMembership,
  showNode,
  showPeer,
  showPeers,
  showRelays,
  showSubnets,
} from "./tables.js";

const STALE = 4;
/** Seconds without a sample, of which there is one a second, after which what is shown is not called live. */
const FRESH = 3;
/** Seconds after which a status is asked for, while somebody looks: events tell of changes, and of counters seldom. */
const RATES_OVER = 10;
/** Seconds that drops and rules are compared over. */
const THEME = "shadowmesh-theme";

const samples = new History();
const log = new Log();
const plots = new Plots();
const graph = new Graph(byId("graph"), choose);
const state = { status: null, older: [], heard: 0, problem: null, chosen: null, restarted: false };

function choose(id) {
  state.chosen = state.chosen === id ? null : id;
  show();
}

// --- what comes

/** The first one of a connection. */
function begin(status) {
  if (state.status && status.node.uptime < state.status.node.uptime) {
    state.older = [];
    log.tell("the client has restarted");
  }
  state.status = null;
  takeStatus(status);
}

function takeStatus(status) {
  // Of two that came by two ways the older one may come last.
  if (state.status && status.node.uptime < state.status.node.uptime) return;
  state.status = status;
  const at = performance.now() / 1000;
  state.older.push({ at, status });
  while (state.older.length > 2 && at - state.older[1].at > RATES_OVER) state.older.shift();
  later();
}

function takeSample(sample) {
  state.heard = Date.now();
  samples.add(sample);
  later();
}

let asking = false;

async function refresh() {
  const latest = state.older[state.older.length - 1];
  if (asking || document.hidden || state.problem || !latest || performance.now() / 1000 - latest.at < FRESH)
    return;
  asking = true;
  try {
    takeStatus(await (await ask("v1/status")).json());
  } catch {
    // The stream of events ends for the same reason, and says it.
  } finally {
    asking = false;
  }
}

function up() {
  if (state.problem) log.tell("the client answers again");
  state.problem = null;
  state.heard = Date.now();
  later();
}

function down(error) {
  if (state.problem?.message !== error.message) log.tell(error.message, "warning");
  state.problem = error;
  show();
}

// --- what is shown

let waiting = false;

/** Show soon: what comes together is shown once. */
function later() {
  if (waiting || document.hidden) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    show();
  });
}

function show() {
  showConnection();
  const { status } = state;
  if (!status) return;
  if (state.chosen && !status.peers.some((peer) => peer.node_id === state.chosen)) state.chosen = null;
  const node = status.node;
  setText(byId("name"), node.name);
  const about = [node.network?.name, node.interface, node.addresses[0], shortId(node.node_id)];
  about.push(`ShadowMesh ${node.version}`, `up ${duration(node.uptime)}`);
  setText(byId("network"), about.filter(Boolean).join(" · "));
  showTiles(status);
  showPlots(status);
  const flows = new Map(
    status.peers.map((peer) => [
      peer.node_id,
      Object.values(samples.rates(peer.node_id)).reduce((sum, one) => sum + (one ?? 0), 0),
    ]),
  );
  graph.update(status, flows, state.chosen);
  showPeers(status, samples, state.chosen, byId("peer-filter").value, choose);
  showPeer(status.peers.find((peer) => peer.node_id === state.chosen));
  showRelays(status);
  showMembership(status);
  showDrops(
    status,
    growth((one) => Object.entries(one.drops)),
  );
  showFirewall(
    status.firewall,
    growth((one) => (one.firewall?.rules ?? []).map((rule) => [rule.number, rule.decided])),
  );
  showSubnets(status);
  showNode(node);
}

/** How fast counters grow: name -> number a second. */
function growth(counters) {
  const first = state.older[0];
  const last = state.older[state.older.length - 1];
  if (!last || last.at - first.at < 0.5) return new Map();
  const before = new Map(counters(first.status));
  return new Map(
    counters(last.status).map(([name, value]) => [
      name,
      Math.max(0, value - (before.get(name) ?? 0)) / (last.at - first.at),
    ]),
  );
}

function showConnection() {
  const silent = state.heard ? Math.floor((Date.now() - state.heard) / 1000) : 0;
  const stale = Boolean(state.problem) || silent >= STALE;
  const chip = byId("link");
  chip.className = `chip ${state.problem ? "bad" : stale ? "warn" : state.heard ? "good" : ""}`;
  const since = state.heard ? `, as of ${duration(silent)} ago` : "";
  setText(
    chip,
    state.problem
      ? `not connected${since}`
      : stale
        ? `no news for ${duration(silent)}`
        : state.heard
          ? "live"
          : "connecting",
  );
  document.body.classList.toggle("stale", stale && state.heard > 0);
  document.title = `${state.problem ? "⚠ " : ""}${state.status?.node.name ?? "ShadowMesh"} – ShadowMesh`;
  const banner = byId("banner");
  banner.hidden = !state.problem;
  setText(
    banner,
    state.problem ? `${state.problem.message}${state.problem.status === 401 ? "" : " – trying again"}` : "",
  );
}

const tiles = new Map();

function tile(key, title, value, more, name = "") {
  if (!tiles.has(key)) {
    tiles.set(key, make("div", {}, make("dt", {}, title), make("dd"), make("dd", { class: "more" })));
    byId("tiles").append(tiles.get(key));
  }
  const box = tiles.get(key);
  box.className = name;
  setText(box.children[1], value);
  setText(box.children[2], more);
  box.children[2].title = more;
}

function showTiles(status) {
  const { tx, rx } = samples.rates();
  const up = status.peers.filter((peer) => peer.state === "connected");
  const direct = up.filter((peer) => manner(peer) === "direct").length;
  const total = (name) => status.peers.reduce((sum, peer) => sum + peer[name], 0);
  tile("in", "In", rate(rx), `${total("rx_frames").toLocaleString("en")} frames`, "in");
  tile("out", "Out", rate(tx), `${total("tx_frames").toLocaleString("en")} frames`, "out");
  tile(
    "peers",
    "Peers connected",
    `${up.length} of ${status.peers.length}`,
    `${direct} direct, ${up.length - direct} relayed`,
  );
  const home =
    status.relays.find((relay) => relay.home) ?? status.relays.find((relay) => relay.state === "connected");
  tile(
    "relay",
    "Relay",
    home ? milliseconds(home.rtt_ms) : "none",
    home?.address ?? "not connected to any",
    home ? "" : "bad",
  );
  const drops = samples.dropRate();
  tile(
    "drops",
    "Drops",
    drops === null ? "–" : `${drops < 10 ? +drops.toFixed(1) : Math.round(drops)}/s`,
    `${Object.values(status.drops)
      .reduce((sum, one) => sum + one, 0)
      .toLocaleString("en")} since the start`,
    drops > 0 ? "warn" : "",
  );
  const network = status.node.network;
  if (network) {
    tile(
      "member",
      "Certificate",
      remaining(network.expires_in),
      network.warnings[0] ?? `member of ${network.name}`,
      network.warnings.length ? "warn" : "",
    );
  }
}

function showPlots(status) {
  const who = byId("who");
  const options = [["", "this node"], ...status.peers.map((peer) => [peer.node_id, peer.name])];
  if (options.map((one) => one.join()).join() !== who.dataset.options) {
    who.replaceChildren(...options.map(([value, name]) => make("option", { value }, name)));
    who.dataset.options = options.map((one) => one.join()).join();
  }
  who.value = state.chosen ?? "";
  const peers = status.peers.filter((peer) =>
    state.chosen ? peer.node_id === state.chosen : peer.state === "connected",
  );
  plots.update(
    samples,
    peers.map((peer) => ({ id: peer.node_id, name: peer.name })),
    state.chosen,
    Number(byId("span").value),
  );
}

// --- what people do

function paint() {
  const wanted = byId("theme").value;
  const dark = wanted === "dark" || (wanted === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  plots.repaint();
  show();
}

byId("theme").value = localStorage.getItem(THEME) ?? "auto";
byId("theme").addEventListener("change", () => {
  localStorage.setItem(THEME, byId("theme").value);
  paint();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
byId("who").addEventListener("change", () => {
  state.chosen = byId("who").value || null;
  show();
});
byId("span").addEventListener("change", show);
byId("peer-filter").addEventListener("input", show);
document.addEventListener("visibilitychange", later);
setInterval(() => {
  showConnection();
  refresh();
}, 1000);
paint();

await enter().catch((error) => log.tell(error.message, "error"));
follow({
  documents: {
    "v1/status": begin,
    "v1/samples": (reply) => samples.load(reply),
    "v1/log": (reply) => log.load(reply),
  },
  events: {
    status: takeStatus,
    sample: takeSample,
    log: (line) => {
      log.add(line);
      log.note();
    },
  },
  up,
  down,
});
