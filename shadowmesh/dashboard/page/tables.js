// The sections with tables: what GET /v1/status says, in words.

import {
  byId,
  count,
  duration,
  fillFacts,
  fillList,
  fillTable,
  frequency,
  make,
  meter,
  milliseconds,
  percent,
  rate,
  remaining,
  setText,
  size,
  shortId,
} from "./dom.js";
import { MANNERS, manner } from "./graph.js";

const CHIPS = { direct: "good", relayed: "relayed", connecting: "warn", idle: "", absent: "bad" };
const DAY = 86400;

/** Elements that table cells keep: made once for each key. */
function keeper(create) {
  const kept = new Map();
  return (key) => {
    if (!kept.has(key)) kept.set(key, create(key));
    return kept.get(key);
  };
}

const chipOf = keeper(() => make("span"));

function chip(key, text, name) {
  const found = chipOf(key);
  setText(found, text);
  found.className = `chip ${name}`;
  return { node: found };
}

const right = (title, name = "") => ({ title, name: `right ${name}`.trim() });
const left = (title, name = null) => ({ title, name });

const PEERS = [
  left("Peer"),
  left("State"),
  left("Path", "wide"),
  right("RTT"),
  right("In"),
  right("Out"),
  right("Received", "wide"),
  right("Sent", "wide"),
  right("Session", "wide"),
  left("Key exchange", "wide"),
];

/** choose: is called with the NodeID of a peer; history: rates. */
export function showPeers(status, history, selected, filter, choose) {
  const wanted = filter.trim().toLowerCase();
  const peers = status.peers.filter((peer) =>
    [peer.name, peer.node_id, peer.path ?? "", ...peer.addresses, ...peer.groups].some((text) =>
      text.toLowerCase().includes(wanted),
    ),
  );
  const rows = peers.map((peer) => {
    const how = manner(peer);
    const { tx, rx } = history.rates(peer.node_id);
    return {
      key: peer.node_id,
      name: selected === peer.node_id ? "selected" : null,
      cells: [
        { node: peerButton(peer, choose) },
        chip(`peer ${peer.node_id}`, MANNERS[how], CHIPS[how]),
        peer.path ?? "–",
        milliseconds(peer.rtt_ms),
        rate(rx),
        rate(tx),
        size(peer.rx_bytes),
        size(peer.tx_bytes),
        duration(peer.last_handshake),
        peer.key_exchange ?? "–",
      ],
    };
  });
  fillTable(
    byId("peer-table"),
    PEERS,
    rows,
    status.peers.length ? "no peer is like that" : "no peers are known",
  );
}

const buttons = new Map();

function peerButton(peer, choose) {
  if (!buttons.has(peer.node_id)) {
    const button = make("button", { type: "button" });
    button.addEventListener("click", () => choose(peer.node_id));
    buttons.set(peer.node_id, button);
  }
  setText(buttons.get(peer.node_id), peer.name);
  return buttons.get(peer.node_id);
}

const PATHS = [
  left("Path"),
  left("State"),
  right("RTT"),
  right("Jitter", "wide"),
  right("Loss"),
  right("Budget", "wide"),
  left("Note", "wide long"),
];

/** Everything about one peer; nothing where none is chosen. */
export function showPeer(peer) {
  const card = byId("peer-card");
  card.hidden = !peer;
  if (!peer) return;
  if (!card.firstChild) {
    card.append(
      make("h3"),
      make("dl", { class: "facts" }),
      make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Paths" }, make("table")),
    );
  }
  const [title, facts, scroll] = card.children;
  setText(title, peer.name);
  const refused = Object.entries(peer.refused)
    .map(([reason, times]) => `${reason} ${count(times)}`)
    .join(", ");
  fillFacts(facts, [
    ["NodeID", peer.node_id],
    ["addresses", peer.addresses.join(", ")],
    ["groups", peer.groups.join(", ")],
    ["path", peer.path && (peer.path_reason ? `${peer.path}: ${peer.path_reason}` : peer.path)],
    ["problem", peer.last_error],
    ["cipher", peer.cipher],
    ["key exchange", peer.key_exchange],
    ["epoch", peer.epoch === null ? null : `${peer.epoch}, for ${duration(peer.epoch_age)}`],
    ["frames", `${count(peer.rx_frames)} received, ${count(peer.tx_frames)} sent`],
    ["stations", peer.bridge ? `${peer.stations} behind its bridge` : null],
    ["refused", refused && `${refused}; for example ${peer.refused_example}`],
    ["certificate", peer.expires_in === null ? null : remaining(peer.expires_in)],
  ]);
  fillTable(
    scroll.firstChild,
    PATHS,
    peer.paths.map((path, index) => ({
      key: `${index} ${path.path}`,
      cells: [
        path.path,
        chip(
          `path ${index}`,
          path.in_use ? "in use" : path.state,
          path.in_use ? "good" : path.state === "failed" ? "bad" : "",
        ),
        milliseconds(path.rtt_ms),
        milliseconds(path.jitter_ms),
        percent(path.loss),
        path.budget === null ? "–" : `${path.budget} B`,
        path.detail ?? "",
      ],
    })),
  );
}

const RELAYS = [
  left("Relay"),
  left("State"),
  right("RTT"),
  right("Loss"),
  right("Load"),
  left("Sees us at", "wide"),
];
const RELAY_CHIPS = { connected: "good", connecting: "warn", resolving: "warn", waiting: "warn" };
const meterOf = keeper(() => {
  const box = make("span", {}, "", meter(null, 0));
  return box;
});

export function showRelays(status) {
  fillTable(
    byId("relay-table"),
    RELAYS,
    status.relays.map((relay) => {
      const state = [relay.state, relay.transport === "tcp" ? "· TCP" : "", relay.home ? "· home" : ""]
        .filter(Boolean)
        .join(" ");
      return {
        key: relay.address,
        cells: [
          relay.address,
          chip(`relay ${relay.address}`, state, RELAY_CHIPS[relay.state]),
          milliseconds(relay.rtt_ms),
          { text: percent(relay.loss), name: relay.loss > 0.02 ? "warn" : null },
          { node: loadMeter(relay) },
          relay.observed_address ?? "–",
        ],
      };
    }),
    "no relays are configured",
  );
  fillList(
    byId("relay-notes"),
    status.relays.flatMap((relay) =>
      [
        relay.last_error && `${relay.address}: ${relay.last_error}`,
        relay.home_reason && `${relay.address} is home: ${relay.home_reason}`,
        relay.carrier &&
          `${relay.address}: WebSocket to ${relay.carrier.address}${relay.carrier.tls ? `, ${relay.carrier.tls}, key exchange ${relay.carrier.key_exchange}` : ", connecting"}`,
        Math.abs(relay.clock_skew ?? 0) > 60 &&
          `${relay.address}: our clock is ${duration(Math.abs(relay.clock_skew))} ${relay.clock_skew > 0 ? "ahead" : "behind"}`,
      ].filter(Boolean),
    ),
  );
}

function loadMeter(relay) {
  const box = meterOf(relay.address);
  setText(box.firstChild, relay.load === null ? "–" : `${relay.load} %`);
  box.lastChild.style.display = relay.load === null ? "none" : "";
  meter(box.lastChild, (relay.load ?? 0) / 100, 0.8);
  return box;
}

const MEMBERS = [
  left("Member"),
  right("Certificate ends in"),
  left("Renews others"),
  left("Groups", "wide long"),
];

export function showMembership(status) {
  const network = status.node.network;
  fillList(byId("warnings"), network?.warnings ?? []);
  if (!network) {
    fillFacts(byId("member-facts"), [["network", "none: this node knows its peers by its configuration"]]);
    fillTable(byId("member-table"), MEMBERS, []);
    return;
  }
  const able = status.peers.filter((peer) => peer.renews).map((peer) => peer.name);
  fillFacts(byId("member-facts"), [
    ["network", `${network.name} (${shortId(network.network_id)})`],
    ["we are", network.member],
    ["groups", network.groups.join(", ")],
    ["our certificate", `${remaining(network.expires_in)}, serial ${network.serial}`],
    ["renewed by", able.join(", ") || "nobody who is known"],
    ["renews others", network.renews_for === null ? null : `for ${duration(network.renews_for)}`],
    ["renewal", network.renewal_error],
    [
      "revocation list",
      `${network.revocation_list}${network.revocation_list_age === null ? "" : `, ${duration(network.revocation_list_age)} old`}`,
    ],
  ]);
  const members = status.peers
    .filter((peer) => peer.expires_in !== null)
    .sort((one, other) => one.expires_in - other.expires_in);
  fillTable(
    byId("member-table"),
    MEMBERS,
    members.map((peer) => ({
      key: peer.node_id,
      cells: [
        peer.name,
        {
          text: remaining(peer.expires_in),
          name: peer.expires_in < 0 ? "bad" : peer.expires_in < DAY ? "warn" : null,
        },
        peer.renews ? "yes" : "",
        peer.groups.join(", "),
      ],
    })),
    "no certificate of another member has been seen yet",
  );
}

const DROPS = [left("Reason"), right("Packets"), right("Now"), right("Share", "wide")];
const shareOf = keeper(() => meter(null, 0));

/** rates: reason -> drops a second, of those that are known. */
export function showDrops(status, rates) {
  const reasons = Object.entries(status.drops);
  const dropped = reasons
    .filter(([, times]) => times)
    .sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
  const total = dropped.reduce((sum, [, times]) => sum + times, 0);
  fillTable(
    byId("drop-table"),
    DROPS,
    dropped.map(([reason, times]) => {
      const now = rates.get(reason) ?? null;
      return {
        key: reason,
        cells: [
          reason,
          count(times),
          { text: frequency(now), name: now ? "warn" : "faint" },
          { node: meter(shareOf(reason), times / total) },
        ],
      };
    }),
  );
  const rest = reasons.length - dropped.length;
  setText(
    byId("drop-note"),
    dropped.length ? `${rest} other reasons have dropped nothing` : "nothing has been dropped",
  );
}

const RULES = [
  right("#"),
  left("Rule"),
  left("Action"),
  right("Frames"),
  right("Replies", "wide"),
  right("Now"),
];

/** rates: number of a rule -> frames a second. */
export function showFirewall(firewall, rates) {
  if (!firewall) {
    fillFacts(byId("firewall-facts"), [["firewall", "none: every frame of a peer is let through"]]);
    fillTable(byId("firewall-table"), RULES, []);
    return;
  }
  fillFacts(byId("firewall-facts"), [
    ["inbound", `${firewall.inbound} by default, ${count(firewall.inbound_default)} frames`],
    ["outbound", `${firewall.outbound} by default, ${count(firewall.outbound_default)} frames`],
    ["connections", `${count(firewall.flows)} known now`],
    ["not tracked", firewall.untracked ? count(firewall.untracked) : null],
  ]);
  fillTable(
    byId("firewall-table"),
    RULES,
    firewall.rules.map((rule) => {
      const now = rates.get(rule.number) ?? null;
      return {
        key: String(rule.number),
        cells: [
          rule.number,
          { text: rule.name ? `${rule.name}: ${rule.text}` : rule.text, name: "long" },
          chip(
            `rule ${rule.number}`,
            `${rule.action} ${rule.direction}`,
            rule.action === "allow" ? "good" : "bad",
          ),
          count(rule.decided),
          count(rule.replies),
          { text: frequency(now), name: now ? null : "faint" },
        ],
      };
    }),
    "no rules",
  );
}

const ROUTES = [left("Route to"), left("Via"), right("Metric"), left("State"), left("Note", "wide long")];
const ROUTE_CHIPS = { installed: "good", standby: "", waiting: "warn", refused: "bad" };

export function showSubnets(status) {
  const bridge = status.node.bridge;
  const empty = !bridge && !status.routes.length;
  fillFacts(
    byId("bridge-facts"),
    bridge
      ? [
          ["bridge", `${bridge.name}: ${bridge.state} for ${duration(bridge.since)}`],
          ["stations", `${bridge.stations} here, ${bridge.far_stations} behind members`],
          ["VLANs", bridge.vlans.join(", ")],
          [
            "loop",
            bridge.retry_in === null ? null : `${bridge.reason}; tried again in ${duration(bridge.retry_in)}`,
          ],
          ["not learned", bridge.not_learned ? count(bridge.not_learned) : null],
        ]
      : empty
        ? [["subnets", "no routes and no bridge are configured"]]
        : [],
  );
  fillTable(
    byId("route-table"),
    ROUTES,
    status.routes.map((route) => ({
      key: `${route.to} ${route.via}`,
      cells: [
        route.to,
        route.via,
        route.metric,
        chip(`route ${route.to} ${route.via}`, route.state, ROUTE_CHIPS[route.state]),
        route.reason ?? "",
      ],
    })),
  );
}

export function showNode(node) {
  const nat = node.nat;
  fillFacts(byId("node-facts"), [
    ["NodeID", node.node_id],
    ["version", `ShadowMesh ${node.version}, up ${duration(node.uptime)}`],
    ["interface", `${node.interface}, ${node.mac}, MTU ${node.mtu}`],
    ["addresses", node.addresses.join(", ") || "none"],
    ["listens", `UDP ${node.listen}`],
    ["NAT", `mapping ${nat.mapping}, filtering ${nat.filtering}`],
    ["seen as", nat.observed.join(", ")],
    ["mapped", nat.mapped],
    ["AEAD", node.aead],
    [
      "offloads",
      Object.entries(node.features)
        .filter(([, there]) => there)
        .map(([name]) => name)
        .join(", "),
    ],
  ]);
}
