// What the client samples once a second, as columns for plots. Bounded as the client's own history is.

const WINDOW = 300;
/** Seconds that are kept, as `WINDOW` of shadowmesh/api/live.py. */
const NOW = 3;
/** Samples that a rate is the mean of: smooth enough to be read, and still of this moment. */

const emptyTrack = (length) => ({
  tx: Array(length).fill(null),
  rx: Array(length).fill(null),
  rtt: Array(length).fill(null),
});

export class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.at = [];
    this.node = emptyTrack(0);
    this.drops = [];
    this.peers = new Map();
  }

  /** Take the whole of GET /v1/samples. */
  load(samples) {
    this.at = [...samples.at];
    this.node = { tx: [...samples.tx_bytes], rx: [...samples.rx_bytes], rtt: [] };
    this.drops = [...samples.drops];
    this.peers = new Map(
      samples.peers.map((peer) => [peer.node_id, { tx: peer.tx_bytes, rx: peer.rx_bytes, rtt: peer.rtt_ms }]),
    );
  }

  /** Take one event `sample`. One that is there already, or older, is left out. */
  add(sample) {
    if (this.at.length && sample.at <= this.at[this.at.length - 1]) return;
    const length = this.at.length;
    this.at.push(sample.at);
    this.node.tx.push(sample.tx_bytes);
    this.node.rx.push(sample.rx_bytes);
    this.drops.push(sample.drops);
    const found = new Map(sample.peers.map((peer) => [peer.node_id, peer]));
    for (const id of found.keys()) if (!this.peers.has(id)) this.peers.set(id, emptyTrack(length));
    for (const [id, track] of this.peers) {
      const peer = found.get(id);
      track.tx.push(peer?.tx_bytes ?? null);
      track.rx.push(peer?.rx_bytes ?? null);
      track.rtt.push(peer?.rtt_ms ?? null);
    }
    if (this.at.length > WINDOW) this.forget();
  }

  forget() {
    for (const column of [this.at, this.node.tx, this.node.rx, this.drops]) column.shift();
    for (const [id, track] of this.peers) {
      for (const column of [track.tx, track.rx, track.rtt]) column.shift();
      if (track.tx.every((value) => value === null)) this.peers.delete(id);
    }
  }

  /** Bytes a second of the last moments: {tx, rx}; null where nothing is known. Of the node without an id. */
  rates(id = null) {
    const track = id === null ? this.node : this.peers.get(id);
    return { tx: mean(track?.tx), rx: mean(track?.rx) };
  }

  dropRate() {
    return mean(this.drops);
  }

  /** The last `seconds` of some columns, with the times first, as uPlot takes them. */
  window(seconds, columns) {
    const begin = Math.max(0, this.at.length - seconds);
    return [this.at, ...columns].map((column) => column.slice(begin));
  }
}

function mean(column) {
  const latest = (column ?? []).slice(-NOW).filter((value) => value !== null);
  return latest.length ? latest.reduce((sum, value) => sum + value, 0) / latest.length : null;
}
